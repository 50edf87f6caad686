"""A run of `attention`: its tables, and what the page says and draws of it."""

from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from outdim.report.sections import section_of
from outdim.report.study import read_study
from run_helpers import give, small

DIM = 3


@pytest.fixture(scope="module")
def run(tiny_directory, corpus, tmp_path_factory):
    options = small(
        tiny_directory,
        tmp_path_factory.mktemp("attention") / "run",
        dims=[DIM, 1],
        ablate=[DIM],
        sentences=["w1 w2 w3 .", "w4 w5"],
        permutations=10,
    )
    return give("attention", corpus, options)


@pytest.fixture(scope="module")
def section(run):
    return section_of(read_study(run), "attention", [DIM])


def test_every_table_is_there(run):
    sizes = {name: pq.read_metadata(run / f"attention_{name}.parquet").num_rows
             for name in ("r", "heads", "tokens", "maps")}  # fmt: skip
    # 2 layers of 4 heads; 2 dimensions, 2 pairings, 3 selections; 2 sentences.
    assert sizes == {"r": 96, "heads": 8, "tokens": 40, "maps": 16}
    stats = pq.read_table(run / "stats.parquet").to_pandas()
    mine = stats[stats.step == "attention"]
    assert set(mine["head"]) == {0, 1, 2, 3}
    shares = mine[(mine.statistic == "attention_share") & (mine.selection == "all")]
    assert bool(shares.value.between(0, 1).all())
    assert bool((shares.low <= shares.value).all())


def test_maps_are_rows_of_attention_full_and_ablated(run):
    for row in pq.read_table(run / "attention_maps.parquet").to_pylist():
        size = len(row["tokens"])
        for side in ("full", "ablated"):
            sums = np.reshape(row[side], (size, size)).sum(1)
            np.testing.assert_allclose(sums, 1, rtol=1e-5)
    assert row["tokens"] == ["[CLS]", "w4", "w5", "[SEP]"]
    assert row["full"] != row["ablated"]  # of the second layer, which reads what was ablated


def test_the_page_says_what_was_found(section, run):
    heads, r, tokens = section.tables
    assert len(heads.rows) == 8
    assert heads.columns[-4:] == ["ablated", "change", "controls", "beyond"]
    assert [cell.text for cell in r.cells()[0]][:2] == ["all", r.cells()[0][1].text]
    assert {cell.text for row in r.cells() for cell in row[1:2]} == {"3", "1"}
    assert [row[1].marked for row in r.cells() if row[1].text == "3"] == [True, True]
    assert len(tokens.rows) == 2
    said = read_study(run).sentences("headlines", "attention")
    assert said[0].endswith("in more than half of the sequences.") or "on" in said[0]
    assert said[-1].startswith("With 3 off (state), ")
    assert "Controls: the mean of as many random dimensions off" in heads.caption


def test_figures_draw_the_maps_and_the_statistics_of_heads(section):
    ids = [figure.id for figure in section.figures]
    assert ids[:2] == ["attention_map_1", "attention_map_2"]
    assert "attention_vertical_heads" in ids
    shares = next(f for f in section.figures if f.id == "attention_where_heads_look")
    assert {np.shape(trace.z) for trace in shares.interactive.data} == {(2, 4)}
    assert "[MASK]" not in shares.table["covariate"].to_pylist()  # in no text
    figure = section.figures[0]
    ElementTree.fromstring(figure.svg())
    assert len(figure.interactive.data) == 2 * len(figure.choices[0].options)
    assert figure.table.num_rows == 6 * 6 * 6  # heads, queries, keys
    assert "3 off (state)" in figure.caption
