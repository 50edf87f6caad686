"""Figures: their numbers are the run's, their files are well-formed, their limits are stated."""

import xml.etree.ElementTree as ElementTree
from io import BytesIO

import numpy as np
import pyarrow.csv
import pytest
from outdim.report.figures import figures_of
from outdim.report.figures.correlation import read_correlations
from outdim.report.figures.frequency import thinned
from outdim.report.figures.heat_map import MAX_CELLS, heat_map
from outdim.report.figures.layer_curves import MAX_LINES, band
from outdim.report.figures.norms import MAX_DOTS
from outdim.report.run_files import read_run
from report.synthetic import make_run


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    truth = make_run(path)
    return truth, {figure.id: figure for figure in figures_of(read_run(path))}


def test_all_figures_are_made(planted):
    _, figures = planted
    assert list(figures) == [
        "correlation_by_layer",
        "correlation_heat_map",
        "layer_norm_parameters",
        "token_frequency",
    ]


def test_heat_map_holds_every_r(planted):
    truth, figures = planted
    figure = figures["correlation_heat_map"]
    assert "All 64 dimensions" in figure.caption
    for (statistic, covariate, selection), r in truth["r"].items():
        column = figure.table[f"{statistic}_{covariate}_{selection}"].to_numpy()
        np.testing.assert_array_equal(column.reshape(r.shape), r)
        answers = {"covariate": covariate, "of": statistic, "selection": selection}
        (trace,) = [t for t in figure.interactive.data if t.meta == answers]
        np.testing.assert_allclose(np.array(trace.z), r, atol=1e-7)


def test_exactly_the_first_answers_are_visible_at_first(planted):
    _, figures = planted
    for figure in figures.values():
        first = {choice.name: next(iter(choice.options)) for choice in figure.choices}
        for trace in figure.interactive.data:
            shown = all(trace.meta[name] == answer for name, answer in first.items())
            assert (trace.visible is not False) == shown


def test_colours_are_centred_at_zero_and_span_all_r(planted):
    truth, figures = planted
    axis = figures["correlation_heat_map"].interactive.layout.coloraxis
    assert axis.cmin == -axis.cmax
    assert axis.cmax >= max(np.abs(r).max() for r in truth["r"].values())


def test_band_is_of_all_dimensions_and_leaves_nan_out():
    r = np.array([np.linspace(-1, 1, 101), np.full(101, np.nan)])
    r[0, 50] = np.nan
    low, middle, high = band(r)
    finite = r[0][np.isfinite(r[0])]
    assert (low[0], middle[0], high[0]) == tuple(np.percentile(finite, (5, 50, 95)))
    assert np.isnan([low[1], middle[1], high[1]]).all()


def test_curves_show_outliers_first_and_their_r(planted):
    truth, figures = planted
    table = figures["correlation_by_layer"].table.to_pylist()
    key = ("pearson_abs", "count", "text")
    chosen = [row for row in table if (row["statistic"], row["covariate"], row["selection"]) == key]
    names = list(dict.fromkeys(row["series"] for row in chosen))
    assert names[:3] == ["5%", "median", "95%"]
    assert set(names[3:5]) == {"dim 7", "dim 41"}
    assert len(names) == 3 + MAX_LINES
    for dim in (7, 41):
        r = [row["r"] for row in chosen if row["series"] == f"dim {dim}"]
        np.testing.assert_array_equal(r, truth["r"][key][:, dim])


def test_norm_bounds_are_k_unbiased_deviations(planted):
    truth, figures = planted
    figure = figures["layer_norm_parameters"]
    gamma = truth["gamma"][2]
    (lines,) = [
        t
        for t in figure.interactive.data
        if t.name == "mean ± 3 σ" and t.meta["layer"] == "block.2.norm"
    ]
    spread = 3 * gamma.std(ddof=1)
    verticals = [lines.x[6], lines.x[9]]
    assert verticals == pytest.approx([gamma.mean() - spread, gamma.mean() + spread])
    np.testing.assert_array_equal(figure.table["gamma"].to_numpy(), truth["gamma"].ravel())
    np.testing.assert_array_equal(figure.table["beta"].to_numpy(), truth["beta"].ravel())


def test_frequency_curve_falls_and_keeps_special_tokens_apart(planted):
    truth, figures = planted
    table = figures["token_frequency"].table.to_pylist()
    ordinary = [row for row in table if not row["special"]]
    counts = truth["counts"]["count"][~truth["counts"]["special"]]
    assert [row["count"] for row in ordinary] == sorted(counts[counts > 0], reverse=True)
    assert [row["rank"] for row in ordinary] == list(range(1, len(ordinary) + 1))
    assert {row["token"] for row in table if row["special"]} == {"[UNK]", "[CLS]", "[SEP]"}


def test_a_few_frequent_tokens_are_named(tmp_path):
    long = "<b>" + "x" * 40
    truth = make_run(tmp_path, tokens={4: long, 6: "$\\frac{$"}, parts=("counts",))["counts"]
    order = [i for i in np.argsort(-truth["count"], kind="stable") if not truth["special"][i]]
    expected = [truth["labels"][order[rank - 1]] for rank in (1, 3, 10, 30, 100)]
    (figure,) = figures_of(read_run(tmp_path))
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
        back = pyarrow.csv.read_csv(BytesIO(figure.csv()))
        assert back.column_names == figure.table.column_names
        for name in back.column_names:
            assert back[name].to_pylist() == figure.table[name].to_pylist(), (figure.id, name)


def test_wide_models_are_cut_by_a_stated_rule(tmp_path):
    make_run(tmp_path, layers=24, dims=5_000, outliers=(17, 4_321), parts=("stats", "detection"))
    run = read_run(tmp_path)
    correlations = read_correlations(run)
    figure = heat_map(correlations)
    dims = set(figure.table["dim"].to_pylist())
    assert len(dims) == MAX_CELLS // 25
    assert {17, 4_321} <= dims
    left_out = [dim for dim in range(5_000) if dim not in dims]
    largest = np.max([np.abs(r).max(axis=0) for r in correlations.r.values()], axis=0)
    kept = [dim for dim in dims if dim not in (17, 4_321)]
    assert largest[left_out].max() <= largest[kept].min()
    assert f"Of 5,000 dimensions the figure and its CSV show {len(dims):,}" in figure.caption
    norms = next(f for f in figures_of(run) if f.id == "layer_norm_parameters")
    drawn = set(norms.table["dim"].to_pylist())
    assert len(drawn) <= MAX_DOTS // 24
    assert {17, 4_321} <= drawn
    assert f"{len(drawn):,} are drawn" in norms.caption


def test_norms_without_beta_are_drawn_by_dimension(tmp_path):
    make_run(tmp_path, beta=False, parts=("stats", "detection"))
    figure = next(f for f in figures_of(read_run(tmp_path)) if f.id == "layer_norm_parameters")
    assert "beta" not in figure.table.column_names
    assert figure.interactive.layout.xaxis.title.text == "dimension"
    assert ElementTree.fromstring(figure.svg()) is not None
