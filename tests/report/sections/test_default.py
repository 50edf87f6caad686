"""Any step is shown: planted steps whose statistics nobody here knows by name."""

import numpy as np
import pyarrow as pa
import pytest
from outdim.analysis import table as vocabulary
from outdim.analysis.table import Statistic, TidyRows, define
from outdim.report import summary, write_report
from outdim.report.colours import DIVERGING
from outdim.report.sections import section_of
from outdim.report.study import read_study
from report.synthetic import Planted, write_study

LAYERS, DIMS = 4, 40


@pytest.fixture(autouse=True)
def _defined(monkeypatch):
    monkeypatch.setattr(vocabulary, "STATISTICS", vocabulary.STATISTICS)
    names = ("wobble", "wobble_share", "wobble_heads")
    for name in names:
        vocabulary.STATISTICS.pop(name, None)
    define(
        Statistic("wobble", "wobble of <h>", unit="m$", low=-1, high=1, source="a paper"),
        Statistic("wobble_share", "share of wobbling tokens", low=0, high=1, of_dimensions=False),
        Statistic("wobble_heads", "wobble of heads", of_dimensions=False),
    )
    yield
    for name in names:
        del vocabulary.STATISTICS[name]


def add_wobble(rows, **worth):
    values = np.random.default_rng(0).uniform(-0.1, 0.1, (LAYERS, DIMS))
    values[2, 11] = -0.9
    for layer in range(LAYERS):
        at = {"point": f"block.{layer}", "layer": layer + 1, "selection": "text", "n": 50}
        given = {name: part(values[layer]) for name, part in worth.items()}
        rows.add("wobble", values[layer], **given, **at)
    return values


def study_of(path, rows, step="wobble-step"):
    write_study(path, {step: Planted({"stats": rows.table()}, ("Something wobbles.",))})
    return read_study(path)


def test_dimensions_stand_against_the_median_and_the_band(tmp_path):
    rows = TidyRows()
    values = add_wobble(rows)
    found = section_of(study_of(tmp_path, rows), "wobble-step", [3])
    assert found.title == "Wobble step"
    (figure,) = found.figures
    series = {row["series"]: row for row in figure.table.to_pylist() if row["layer"] == 3}
    assert series["dimension 11"]["value"] == -0.9
    assert list(series)[:4] == ["5%", "median", "95%", "dimension 3"]
    assert series["median"]["value"] == np.median(values[2])
    assert "chance" not in figure.caption
    (table,) = found.tables
    assert table.rows[0] == ["3", "11", "−0.900"]
    assert len(table.rows) == 10


def test_intervals_are_whiskers_and_chance_is_a_line(tmp_path):
    rows = TidyRows()
    add_wobble(rows, low=lambda v: v - 0.05, high=lambda v: v + 0.1, null=lambda v: 0 * v + 0.3)
    study = study_of(tmp_path, rows)
    found = section_of(study, "wobble-step", [])
    (figure,) = found.figures
    traces = {trace.name: trace for trace in figure.interactive.data}
    whiskers = traces["dimension 11"].error_y
    np.testing.assert_allclose(whiskers.array, 0.1)
    np.testing.assert_allclose(whiskers.arrayminus, 0.05)
    chance = [trace.y for trace in figure.interactive.data if trace.name == "chance"]
    np.testing.assert_array_equal(chance, [[0.3] * LAYERS, [-0.3] * LAYERS])
    assert "Whiskers: the interval" in figure.caption
    assert "Dotted: what chance alone gives" in figure.caption
    assert found.tables[0].columns == ["layer", "dimension", "value", "chance"]
    assert found.tables[0].rows[0] == [
        "3",
        "11",
        "−0.900 [−0.950, −0.800]",
        "more than chance gives (which reaches 0.30)",
    ]
    assert found.tables[0].rows[1][-1] == "no more than chance gives (which reaches 0.30)"
    row = next(r for r in figure.table.to_pylist() if r["series"] == "dimension 11")
    assert (row["high"] - row["value"], row["null"]) == (pytest.approx(0.1), 0.3)
    assert b"<svg" in figure.svg()


def test_one_value_a_point_is_a_plain_line_with_a_band(tmp_path):
    rows = TidyRows()
    for layer in range(LAYERS):
        at = {"point": f"block.{layer}", "layer": layer + 1, "selection": "text", "n": 50}
        rows.add("wobble_share", 0.1 * layer, low=0.05 * layer, high=0.2 * layer, **at)
    study = study_of(tmp_path, rows)
    found = section_of(study, "wobble-step", [0])
    (figure,) = found.figures
    lines = [trace for trace in figure.interactive.data if trace.name]
    assert [line.name for line in lines] == ["share of wobbling tokens"]
    np.testing.assert_allclose(lines[0].y, [0, 0.1, 0.2, 0.3])
    low, high = (t.y for t in figure.interactive.data if not t.name)
    np.testing.assert_allclose([low, high], [[0, 0.05, 0.1, 0.15], [0, 0.2, 0.4, 0.6]])
    (table,) = found.tables
    assert table.columns == ["layer", "share of wobbling tokens (text tokens only)"]
    assert [row[0] for row in table.rows] == ["1", "2", "3", "4"]
    assert table.rows[3] == ["4", "0.30 [0.15, 0.60]"]
    assert b"<svg" in figure.svg()


def test_heads_are_called_heads(tmp_path):
    rows = TidyRows()
    for layer in range(LAYERS):
        for head in range(3):
            point = f"block.{layer}.attention"
            rows.add("wobble_heads", 10.0 * layer + head, point=point, layer=layer, head=head)
    found = section_of(study_of(tmp_path, rows), "wobble-step", [1])
    assert found.tables[0].rows[0] == ["3", "2", "32.000"]
    (figure,) = found.figures
    (trace,) = figure.interactive.data  # every head of every layer is a cell
    np.testing.assert_array_equal(trace.z, 10.0 * np.arange(LAYERS)[:, None] + np.arange(3))
    assert list(trace.x) == ["0", "1", "2"]
    assert (trace.zmin, trace.zmax) == (0, 10 * LAYERS - 8)
    assert figure.title.endswith("head by head")
    assert figure.table.num_rows == 3 * LAYERS
    assert b"<svg" in figure.svg()


def test_changes_of_heads_are_coloured_on_both_sides_of_nothing(tmp_path):
    rows = TidyRows()
    for head, value in enumerate((-0.5, 0.0, np.nan, 0.25)):
        rows.add("wobble_heads", value, point="block.0.attention", layer=1, head=head)
    (figure,) = section_of(study_of(tmp_path, rows), "wobble-step", [1]).figures
    (trace,) = figure.interactive.data
    assert (trace.zmin, trace.zmax) == (-0.5, 0.5)
    assert trace.colorscale[3][1] == DIVERGING[3]
    assert figure.table["head"].to_pylist() == [0, 1, 3]


def test_kinds_of_points_are_a_choice(tmp_path):
    rows = TidyRows()
    for layer in range(LAYERS):
        for point in (f"block.{layer}", f"block.{layer}.attention"):
            rows.add("wobble", np.arange(3.0) + layer, point=point, layer=layer + 1, n=1)
    found = section_of(study_of(tmp_path, rows), "wobble-step", [])
    (figure,) = found.figures
    assert [choice.name for choice in figure.choices] == ["place"]
    assert set(figure.choices[0].options) == {"hidden states", "block.attention"}


def test_page_and_summary_show_a_step_that_nobody_knows(tmp_path):
    """The step is in no registry: the package that brought it is not installed."""
    rows = TidyRows()
    add_wobble(rows)
    study_of(tmp_path, rows)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Something wobbles." in page
    assert "wobble of &lt;h&gt;" in page
    assert "a paper." in page
    assert "The package that brings wobble-step is not installed here" in page
    said = summary(tmp_path)
    assert "Something wobbles." in said
    assert "−0.900" in said
    assert (tmp_path / "figures" / "wobble_step_wobble_of_h.svg").is_file()


def test_statistics_without_a_definition_go_by_their_name(tmp_path):
    rows = TidyRows()
    add_wobble(rows)
    table = rows.table()
    column = table.schema.get_field_index("statistic")
    table = table.set_column(column, "statistic", pa.array(["unheard_of"] * table.num_rows))
    write_study(tmp_path, {"other": Planted({"stats": table})})
    found = section_of(read_study(tmp_path), "other", [])
    assert found.figures[0].title == "unheard_of, layer by layer"


def test_topics_that_make_one_file_name_have_a_file_each(tmp_path):
    rows = TidyRows()
    add_wobble(rows)
    names = ["ρ", "τ"]
    tables = [rows.table(), rows.table()]
    column = tables[0].schema.get_field_index("statistic")
    renamed = [
        table.set_column(column, "statistic", pa.array([name] * table.num_rows))
        for name, table in zip(names, tables, strict=True)
    ]
    write_study(tmp_path, {"../odd": Planted({"stats": pa.concat_tables(renamed)})})
    figures = section_of(read_study(tmp_path), "../odd", []).figures
    assert [figure.id for figure in figures] == ["odd", "odd_1"]


@pytest.mark.parametrize("step", ["_default", "section", "a b", "../detect"])
def test_the_name_of_a_step_finds_no_other_file(tmp_path, step):
    rows = TidyRows()
    add_wobble(rows)
    assert section_of(study_of(tmp_path, rows, step), step, []).step == step
