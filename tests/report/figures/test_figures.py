"""Kinds of drawing: their numbers are those given, their files well-formed, their limits stated."""

import xml.etree.ElementTree as ElementTree
from io import BytesIO

import numpy as np
import pyarrow.csv
import pytest
from outdim.analysis.estimate import Estimate
from outdim.analysis.table import PEARSON_ABS, Statistic
from outdim.report.figures.heat_map import MAX_CELLS, heat_map
from outdim.report.figures.layer_curves import MAX_LINES, layer_curves
from outdim.report.figures.rank_curve import rank_curve, thinned
from outdim.report.page import sections
from outdim.report.statistics import Key
from outdim.report.study import read_study
from outdim.report.views import View, labels
from report.synthetic import make_run


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    truth = make_run(path)
    shown = sections(read_study(path))
    return truth, {figure.id: figure for section in shown for figure in section.figures}


def view(value, statistic=PEARSON_ABS, covariate="count", **worth):
    points = [f"block.{row}" for row in range(len(value))]
    layers = list(range(1, len(value) + 1))
    return View(
        Key(statistic.name, covariate, "text"),
        statistic,
        "hidden states",
        points,
        layers,
        labels(points, layers),
        Estimate(np.asarray(value, float), **worth),
        "dimension",
    )


def test_heat_map_holds_every_r(planted):
    truth, figures = planted
    figure = figures["correlate_heat_map"]
    assert "All 64 dimensions" in figure.caption
    for key, r in truth["r"].items():
        column = figure.table["_".join(key)].to_numpy()
        np.testing.assert_array_equal(column.reshape(r.shape), r)
        answers = {**Key(*key)._asdict(), "place": "hidden states"}
        (trace,) = [t for t in figure.interactive.data if t.meta == answers]
        np.testing.assert_allclose(np.array(trace.z), r, atol=1e-7)
    axis = figure.interactive.layout.coloraxis
    assert axis.cmin == -axis.cmax
    assert axis.cmax >= max(np.abs(r).max() for r in truth["r"].values())


def test_exactly_the_first_answers_are_visible_at_first(planted):
    _, figures = planted
    for figure in figures.values():
        first = {choice.name: next(iter(choice.options)) for choice in figure.choices}
        for trace in figure.interactive.data:
            shown = all(trace.meta[name] == answer for name, answer in first.items())
            assert (trace.visible is not False) == shown


def test_wide_models_are_cut_and_that_is_said():
    rng = np.random.default_rng(0)
    shown = [
        view(rng.uniform(-0.5, 0.5, (25, 5_000)), covariate=covariate)
        for covariate in ("log1p_count", "count", "mid_rank", "position") * 4
    ]
    marked = [17, 4_321]
    figure = heat_map("map", "Map", shown, marked)
    dims = set(figure.table["dim"].to_pylist())
    assert len(dims) == MAX_CELLS // (16 * 25)
    assert {17, 4_321} <= dims
    largest = np.max([np.abs(v.estimate.value).max(axis=0) for v in shown], axis=0)
    left_out = [dim for dim in range(5_000) if dim not in dims]
    assert largest[left_out].max() <= largest[sorted(dims - {17, 4_321})].min()
    assert f"Of 5,000 dimensions the figure and its CSV show {len(dims):,}" in figure.caption


def test_band_is_of_all_dimensions_and_leaves_nan_out():
    value = np.array([np.linspace(-1, 1, 101), np.full(101, np.nan)])
    value[0, 50] = np.nan
    usual = view(value).usual
    finite = value[0][np.isfinite(value[0])]
    np.testing.assert_array_equal(usual[:, 0], np.percentile(finite, (5, 50, 95)))
    assert np.isnan(usual[:, 1]).all()
    assert view(value[:, 49:60]).usual is None


def test_curves_show_marked_dimensions_first_and_their_values(planted):
    truth, figures = planted
    table = figures["correlate_pearsons_r"].table.to_pylist()
    key = ("pearson_abs", "log1p_count", "text")
    chosen = [row for row in table if (row["statistic"], row["covariate"], row["selection"]) == key]
    names = list(dict.fromkeys(row["series"] for row in chosen))
    assert names[:3] == ["5%", "median", "95%"]
    assert set(names[3:5]) == {"dimension 7", "dimension 41"}
    assert len(names) == 3 + MAX_LINES
    for dim in (7, 41):
        r = [row["value"] for row in chosen if row["series"] == f"dimension {dim}"]
        np.testing.assert_array_equal(r, truth["r"][key][:, dim])


def test_values_of_unequal_size_are_drawn_on_a_logarithmic_axis():
    values = np.random.default_rng(0).uniform(1, 2, (3, 64))
    size = Statistic("size", "size", low=0)
    for largest, scale in ((2.0, "linear"), (24_000.0, "log")):
        values[1, 5] = largest
        figure = layer_curves("size", "Size", [view(values, size, "")])
        assert figure.interactive.layout.yaxis.type == scale
        assert {trace.meta["scale"] for trace in figure.interactive.data} == {scale}


def test_the_largest_chance_of_a_layer_is_the_line():
    null = np.array([[0.1, 0.3], [np.nan, np.nan]])
    chance = view([[0.5, 0.5], [0.5, 0.5]], null=null).chance
    np.testing.assert_array_equal(chance, [0.3, np.nan])
    assert view([[0.5]]).chance is None


def test_frequency_curve_falls_and_keeps_special_tokens_apart(planted):
    truth, figures = planted
    table = figures["token_frequency"].table.to_pylist()
    ordinary = [row for row in table if not row["special"]]
    counts = truth["frequencies"].counts[~truth["frequencies"].special]
    assert [row["count"] for row in ordinary] == sorted(counts[counts > 0], reverse=True)
    assert [row["rank"] for row in ordinary] == list(range(1, len(ordinary) + 1))
    assert {row["token"] for row in table if row["special"]} == {"[UNK]", "[CLS]", "[SEP]"}


def test_a_few_frequent_tokens_are_named(tmp_path):
    long = "<b>" + "x" * 40
    truth = make_run(tmp_path, tokens={4: long, 6: "$\\frac{$"}, steps=("count",))["frequencies"]
    order = [i for i in np.argsort(-truth.counts, kind="stable") if not truth.special[i]]
    expected = [truth.tokens[order[rank - 1]] for rank in (1, 3, 10, 30, 100)]
    figure = rank_curve(read_study(tmp_path).frequencies)
    notes = figure.interactive.layout.annotations
    assert expected[:2] == [long, "$\\frac{$"]
    expected[:2] = ["&lt;b&gt;xxxxxxxxxx…", "&#36;\\frac{&#36;"]  # plotly reads tags and TeX
    assert [note.text for note in notes] == [f"“{name}”" for name in expected]
    assert [10**note.x for note in notes] == pytest.approx([1, 3, 10, 30, 100])
    svg = figure.svg().decode()
    assert all(f">“{name}”</text>" in svg for name in ["$\\frac{$", *expected[2:]])


@pytest.mark.parametrize("count", [0, 1, 1_200, 1_201, 30_522, 2_000_000])
def test_thinned_ranks_rise_and_keep_both_ends(count):
    ranks = thinned(count)
    assert len(ranks) <= 1_200
    assert (np.diff(ranks) > 0).all()
    if count:
        assert (ranks[0], ranks[-1]) == (0, count - 1)


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


def test_labels_without_special_meaning_are_not_read_as_tex():
    odd = Statistic("odd", "a $x_{$ <b>", unit="$")
    figure = layer_curves("odd", "Odd", [view([[1.0, 2.0]], odd, "")])
    assert "&#36;x_{&#36; &lt;b&gt;" in figure.interactive.layout.yaxis.title.text
    assert b"a $x_{$ &lt;b&gt;" in figure.svg()
