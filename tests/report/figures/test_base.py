"""What holds for every figure: choices, and files that are well-formed."""

import xml.etree.ElementTree as ElementTree
from io import BytesIO

import pyarrow.csv


def test_exactly_the_first_answers_are_visible_at_first(planted):
    _, figures = planted
    for figure in figures.values():
        first = {choice.name: next(iter(choice.options)) for choice in figure.choices}
        for trace in figure.interactive.data:
            shown = all(trace.meta[name] == answer for name, answer in first.items())
            assert (trace.visible is not False) == shown


def test_csv_round_trips_and_svg_is_well_formed(planted):
    _, figures = planted
    for figure in figures.values():
        svg = figure.svg()
        assert svg == figure.svg(), figure.id
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        back = pyarrow.csv.read_csv(
            BytesIO(figure.csv()),
            convert_options=pyarrow.csv.ConvertOptions(column_types=figure.table.schema),
        )
        assert back.column_names == figure.table.column_names
        for name in back.column_names:
            assert back[name].to_pylist() == figure.table[name].to_pylist(), (figure.id, name)
