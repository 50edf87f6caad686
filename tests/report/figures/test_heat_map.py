"""The heat map holds every value, and says what it leaves out."""

import numpy as np
from outdim.report.figures.heat_map import MAX_CELLS, heat_map
from outdim.report.statistics import Key
from report.synthetic import view


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
