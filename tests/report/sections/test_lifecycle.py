"""Pages of `lifecycle` and `embeddings`: what tables say, what figures draw."""

from xml.etree import ElementTree

import numpy as np
import pytest
from outdim.report import summary
from outdim.report.sections import section_of
from outdim.report.study import read_study
from run_helpers import give, small

DIM = 3


@pytest.fixture(scope="module")
def run(tiny_directory, corpus, tmp_path_factory):
    options = small(
        tiny_directory,
        tmp_path_factory.mktemp("lifecycle") / "run",
        dims=[DIM, 1],
        sentences=["w1 w2 w3 .", "w4 <b>w5"],
        permutations=10,
    )
    return give("lifecycle", corpus, options)


@pytest.fixture(scope="module")
def section(run):
    return section_of(read_study(run), "lifecycle", [DIM])


def test_the_page_tells_lives_kinds_and_tokens(section, run):
    lives, writers, kinds, tokens = section.tables
    cells = {row[0].text: row for row in lives.cells()}
    assert cells.keys() == {"3", "1"}
    assert (cells["3"][0].marked, cells["1"][0].marked) == (True, False)
    assert all(len(row) == len(lives.columns) for row in lives.cells())
    assert [row[0].text for row in writers.cells()] == list(cells)
    kinds_of = [row[-4].text for row in kinds.cells()]
    assert set(kinds_of) >= {"[CLS]", "[SEP]", "other text"}
    assert len(tokens.rows) == 2 * 3
    assert "[" in tokens.cells()[0][2].text
    assert kinds.folded
    assert any(name in summary(run) for name in ("is largest in", "none stands out"))


def test_maps_show_chosen_and_random_dimensions(section):
    ids = [figure.id for figure in section.figures]
    assert ids[:2] == ["hidden_map_1", "hidden_map_2"]
    assert "lifecycle_largest_value_of_a_sequence" in ids
    figure = section.figures[0]
    ElementTree.fromstring(figure.svg())
    assert set(figure.choices[0].options) == {"embeddings", "block.0", "block.1"}
    table = figure.table.to_pandas()
    assert len(table) == 3 * 6 * 12  # states, tokens, dimensions
    assert set(table.dim[table.token == "w1"]) >= {DIM, 1}
    shown = [trace for trace in figure.interactive.data if trace.visible]
    assert len(shown) == 1
    assert np.abs(shown[0].z).max() == pytest.approx(1)


def test_a_study_without_sentences_has_no_map(tiny_directory, corpus, tmp_path):
    options = small(tiny_directory, tmp_path / "run", dims=[DIM], permutations=10)
    run = give("lifecycle", corpus, options)
    section = section_of(read_study(run), "lifecycle", [])
    assert not [figure for figure in section.figures if figure.id.startswith("hidden_map")]


def test_embeddings_have_a_table_and_histograms(run):
    section = section_of(read_study(run), "embeddings", [DIM])
    (table,) = section.tables
    assert table.cells()[0][0].text == str(DIM)
    assert all(len(row) == len(table.columns) for row in table.cells())
    z = dict(zip(table.columns, table.cells()[0], strict=True))
    assert z["γ of the norm: z"].marked  # planted in every norm
    assert z["β of the norm: z"].marked
    (figure,) = section.figures
    ElementTree.fromstring(figure.svg())
    assert set(figure.choices[0].options) == {"word", "position", "type", "gamma", "beta"}
    sums = figure.table.to_pandas().groupby(["part", "series"]).share.sum()
    np.testing.assert_allclose(sums, 1)
