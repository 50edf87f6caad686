"""The page of `geometry`: a row a layer in their order, and curves with and without dimensions."""

from dataclasses import replace

import numpy as np
import outdim
import pytest
from outdim.analysis.results.isotropy import RATIOS
from outdim.report import summary, write_report
from outdim.report.details import details
from outdim.report.sections import section_of
from outdim.report.study import read_study
from report.synthetic import write_study
from tiny import LAYERS, tiny_model, tiny_tokenizer

LABELS = ["emb", *(str(layer) for layer in range(1, LAYERS + 1))]
POINTS = ["embeddings", *(f"block.{layer}" for layer in range(LAYERS))]


@pytest.fixture(scope="module")
def found():
    words = np.random.default_rng(0).integers(0, 90, (60, 12))
    texts = [" ".join(f"w{w}" for w in row) for row in words]
    return outdim.geometry(tiny_model("bert"), tiny_tokenizer(), texts, top=2)


@pytest.fixture(scope="module")
def study(found, tmp_path_factory):
    return read_study(write_study(tmp_path_factory.mktemp("run"), {"geometry": found}))


@pytest.fixture(scope="module")
def section(study):
    return section_of(study, "geometry", [])


def test_the_page_says_of_how_many_tokens_it_is(study):
    """60 documents of 12 words, each with two special tokens."""
    told = {row[0]: row[1] for row in dict(details(study))["Tokens"]}
    assert told["tokens read by the model, in windows"] == "840"
    assert told["text tokens in the statistics"] == "720"


def test_layers_are_rows_in_their_order(section, found):
    table = section.tables[0]
    assert [row[0] for row in table.rows] == LABELS
    assert all(len(row) == len(table.columns) for row in table.rows)
    for row, point in zip(table.rows, POINTS, strict=True):
        space = found.spaces[point, "text"]
        told = dict(zip(table.columns, row, strict=True))
        assert told["expected cosine"].startswith(f"{space.cosines.value:.2f} [")
        dim = int(space.cosines.contribution.argmax())
        assert told["first"].startswith(f"{dim} (")
        assert str(space.left_out[0]) in told["left out"]
        for ranged in ("IsoScore", "effective rank", "participation ratio"):
            assert ("[" in told[ranged]) == bool(told[ranged]) == (space.scatter is not None)


def test_every_other_number_of_a_point_is_folded_once(section, found):
    table = section.tables[1]
    assert table.folded
    assert table.columns == ["", *LABELS]
    rows = found.tables()["stats"].to_pandas()
    of_points = set(rows[~rows.statistic.isin(["cosine_contribution", "variance_share"])].statistic)
    assert len(table.rows) + 6 == len(of_points)
    assert len({row[0] for row in table.rows}) == len(table.rows)
    value = rows[(rows.statistic == RATIOS[2]) & (rows.selection == "text")].value.iloc[0]
    (row,) = (r for r in table.rows if r[0].startswith("largest |h| of a token over its median wi"))
    assert row[1].startswith(f"{value:.2f} [")


def test_the_largest_dimensions_stand_by_layer(section, found):
    adds = found.spaces["block.2", "text"].cosines.contribution
    row = section.tables[2].rows[3]
    assert [int(cell.split(":")[0]) for cell in row[1:]] == np.argsort(-adds)[:5].tolist()


def test_intact_and_left_out_share_a_figure_with_their_intervals(section):
    figures = {figure.id: figure for figure in section.figures}
    assert section.figures[0].id == "geometry_anisotropy"
    table = section.figures[0].table.to_pandas()
    assert set(table.statistic) == {"cosine", "cosine_left_out"}
    text = table[table.selection == "text"]
    for name in ("all dimensions", "without the dimensions left out"):
        line = text[text.series == name]
        assert line.point.tolist() == POINTS
        assert ((line.low <= line.value) & (line.value <= line.high)).all()
    ratios = figures["geometry_largest_over_median_within_a_token"]
    rotated = [t for t in ratios.interactive.data if t.name == "after a Hadamard rotation"]
    assert {trace.x for trace in rotated} == {("2", "4")}  # where rows were sampled
    assert "Coloured band: the interval" in ratios.caption
    values = {choice.name: list(choice.options) for choice in ratios.choices}["statistic"]
    assert values == ["max_median", "top3_median"]


def test_the_page_folds_what_is_not_first(study):
    page = write_report(study.path).read_text()
    assert page.count("<summary>Without the dimensions left out, after a rotation") == 1
    assert "expected cosine" in summary(study.path)
    assert "after a Hadamard rotation" not in summary(study.path)


def test_a_layer_whose_cosine_is_not_known_keeps_its_row(found, tmp_path):
    """One value that is infinite: no cosine and no rank there, but kurtoses and ratios."""
    at = ("block.1", "text")
    cosines, nothing = found.spaces[at].cosines, np.nan
    unknown = cosines._replace(
        value=nothing, low=nothing, high=nothing, contribution=cosines.contribution * nothing
    )
    space = replace(found.spaces[at], cosines=unknown)
    spoilt = replace(found, spaces={**found.spaces, at: space})
    study = read_study(write_study(tmp_path / "run", {"geometry": spoilt}))
    table, rest, *_ = section_of(study, "geometry", []).tables
    assert [row[0] for row in table.rows] == rest.columns[1:] == LABELS
    assert table.rows[2][1:3] == ["", "n/a"]
    assert table.rows[2][table.columns.index("kurtosis of sizes")]


def test_points_of_several_kinds_have_the_rows_of_hidden_states(tmp_path):
    words = np.random.default_rng(1).integers(0, 90, (12, 12))
    texts = [" ".join(f"w{w}" for w in row) for row in words]
    points = ["block.0.attention", "block.1", "block.3"]
    found = outdim.geometry(tiny_model("bert"), tiny_tokenizer(), texts, points=points)
    study = read_study(write_study(tmp_path / "run", {"geometry": found}))
    assert [row[0] for row in section_of(study, "geometry", []).tables[0].rows] == ["2", "4"]
