"""Curves by layer: their numbers are those given, against the band of all."""

import numpy as np
from outdim.analysis.table import Statistic
from outdim.report.colours import MUTED, SERIES, Palette, look
from outdim.report.figures.layer_curves import MAX_LINES, layer_curves
from report.synthetic import view


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
        figure = layer_curves("size", "Size", [view(values, size, "")], Palette())
        assert figure.interactive.layout.yaxis.type == scale
        assert {trace.meta["scale"] for trace in figure.interactive.data} == {scale}


def test_the_largest_chance_of_a_layer_is_the_line():
    null = np.array([[0.1, 0.3], [np.nan, np.nan]])
    chance = view([[0.5, 0.5], [0.5, 0.5]], null=null).chance
    np.testing.assert_array_equal(chance, [0.3, np.nan])
    assert view([[0.5]]).chance is None


def test_the_caption_speaks_of_the_lines_that_are_drawn():
    """Of what is marked, what is there; of dashed lines, where there are; of what was measured."""
    values = np.random.default_rng(0).uniform(1, 2, (3, 64))

    def caption(values, marked):
        return layer_curves(
            "size", "Size", [view(values)], Palette(), marked, "dimensions followed"
        ).caption

    others = "dimensions with the largest values at any layer; 8 at most"
    assert caption(values, [7, 3]).startswith(
        f"Solid lines: dimensions followed (7 and 3). Dashed: the other {others}."
    )
    assert caption(values, []).startswith(f"Lines: the {others}.")
    few = np.full_like(values, np.nan)
    few[:, [7, 9]] = values[:, [7, 9]]
    assert caption(few, [7, 9, 3]) == "Solid lines: dimensions followed (7 and 9)."
    assert "any layer, of the 2 of 64 that were measured;" in caption(few, [3])
    assert "Dashed" not in caption(few, [3])


def test_labels_without_special_meaning_are_not_read_as_tex():
    odd = Statistic("odd", "a $x_{$ <b>", unit="$")
    figure = layer_curves("odd", "Odd", [view([[1.0, 2.0]], odd, "")], Palette())
    assert "&#36;x_{&#36; &lt;b&gt;" in figure.interactive.layout.yaxis.title.text
    assert b"a $x_{$ &lt;b&gt;" in figure.svg()


def test_values_that_are_all_0_are_drawn():
    """An empty figure would say nothing, and matplotlib would warn of a legend of nothing."""
    figure = layer_curves("none", "None", [view([[0.0, 0.0, np.nan]] * 2)], Palette())
    assert [list(trace.y) for trace in figure.interactive.data] == [[0, 0]] * 2
    figure.svg()


def test_a_dimension_has_one_look_in_all_figures():
    """Whatever else a figure shows, and in whichever order."""
    values = np.random.default_rng(0).uniform(1, 2, (3, 64))
    palette = Palette()
    palette.of(30)
    seen: dict[str, set[tuple[str, str]]] = {}
    for marked, raised in (((30, 7), 9), ((7,), 12), ((), 7), ((12, 9, 7, 30), 11)):
        values[1, raised] = 10 + raised
        figure = layer_curves("size", "Size", [view(values)], palette, marked)
        drawn = [trace for trace in figure.interactive.data if "dimension" in (trace.name or "")]
        for trace in drawn:
            seen.setdefault(trace.name, set()).add((trace.line.color, trace.marker.symbol))
        assert len({(trace.line.color, trace.marker.symbol) for trace in drawn}) == len(drawn)
    assert len(seen) > len(SERIES)
    assert all(len(looks) == 1 for looks in seen.values())
    assert seen["dimension 30"] == {look(0)[:2]}
    assert len(set.union(*seen.values())) == len(seen)


def test_random_dimensions_are_grey_unless_a_report_is_about_them():
    palette = Palette()
    of_outlier = palette.of(7)
    palette.grey([7, 9])
    assert palette.of(7) == of_outlier != palette.of(9)
    assert palette.of(9).colour == MUTED
    assert palette.of(11).colour in SERIES
