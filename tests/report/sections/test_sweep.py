"""The section of a sweep: what was planted stands in spikes, grid, curves and table."""

import numpy as np
import pytest
from outdim.analysis.results.evaluation import SUMS, Evaluation
from outdim.analysis.results.screened import Screened
from outdim.analysis.results.swept import Sweep
from outdim.analysis.sweeps.grid import Grid, chosen
from outdim.analysis.variants.variant import Variant
from outdim.models.screening import Screening
from outdim.report import summary, write_report
from outdim.report.sections import section_of
from outdim.report.sections.criteria import agreement, damage
from outdim.report.study import read_study
from report.synthetic import write_study

DIMS, LAYERS, PLANTED = 20, 3, 7


def evaluated(grid: Grid, place: int, harm, documents: int = 40) -> Evaluation:
    """Documents on which a variant loses ``harm`` more."""
    variants = (Variant("intact"), *grid.variants(place))
    rng = np.random.default_rng(place)
    tokens = rng.integers(20, 60, documents)
    sums = np.zeros((documents, len(variants), len(SUMS)))
    costs = np.array([0.0, *harm])
    sums[:, :, 0] = tokens[:, None] * (3 + costs * rng.uniform(0.8, 1.2, (documents, 1)))
    return Evaluation("lm", None, variants, sums, tokens, tokens * 4.5, 300, 0, "", {})


def planted() -> Sweep:
    """7 costs 2 nats over all layers, and as many as the layer has number; 3 helps."""
    sets = tuple((dim,) for dim in range(DIMS))
    grid = Grid(sets, (None, (1,), (2,), (3,)), ((11,), (12,), (13,)))
    places = []
    for place, cost in enumerate((2.0, 1.0, 2.0, 3.0)):
        harm = np.full(DIMS + 3, 0.05)
        harm[PLANTED], harm[3] = cost, -0.4
        places.append(evaluated(grid, place, harm))
    return Sweep("sweep-lm", tuple(places), grid)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read_study(
        write_study(tmp_path_factory.mktemp("study") / "run", {"sweep-lm": planted()})
    )


def test_the_worst_comes_first(study):
    table, _ = section_of(study, "sweep-lm", []).tables
    rows = table.cells()
    assert [row[0].text for row in rows[:3]] == [
        "intact", "7 off (state, layer 3)", "7 off (state)"
    ] or rows[1][0].text == "7 off (state, layer 3)"  # fmt: skip
    assert rows[1][5].marked


def test_what_does_less_harm_than_random_ones_is_no_help():
    """Nor is it named as what the model predicts better without."""
    grid = Grid(tuple((dim,) for dim in range(6)), (None,), ((11,), (12,), (13,)))
    found = Sweep("sweep-lm", (evaluated(grid, 0, [0.05] * 5 + [-0.4] + [0.5] * 3),), grid)
    assert [grid.sets[i - 1] for _, i in found.sure(-1)] == [(5,)]
    assert not found.sure(1)


@pytest.mark.parametrize(("documents", "bound"), [(12, True), (200, False)])
def test_a_q_that_so_few_documents_cannot_make_small_is_told_so(documents, bound):
    """Whatever the harm: 4 of 20 variants cannot come below 5 times the least p."""
    grid = Grid(tuple((dim,) for dim in range(20)), (None,), ((21,), (22,), (23,)))
    harm = [3.0] * 4 + [0.0] * 16 + [0.01, -0.02, 0.03]
    found = Sweep("sweep-lm", (evaluated(grid, 0, harm, documents),), grid)
    said = " ".join(found.headline())
    assert "4 surely do harm" in said
    loss = found.places[0].comparison("loss")
    assert loss.at_least_p(1)
    assert bool(loss.q[1] > 0.05) is bound
    floor = f"since no p of 12 documents is below {loss.least:.3f}"
    assert (f"So says the p of the whole sweep; q is up to {loss.q[1]:.3f} here, {floor}" in said
            ) is bound  # fmt: skip
    assert (f"but q is {loss.q[1]:.3f}, {floor}" in said) is bound


def test_nothing_of_three_documents_is_sure_and_the_table_says_so_too():
    """The p of the whole sweep is no smaller than the p of one, and stands in the table."""
    grid = Grid(((0,), (1,)), (None, (1,)), ((11,), (12,), (13,)))
    harm = [3.0, 0.0, 0.01, -0.02, 0.03]
    few, many = (
        Sweep("sweep-lm", tuple(evaluated(grid, place, harm, n) for place in (0, 1)), grid)
        for n in (3, 40)
    )
    assert (
        "Of 4 variants none surely does five times what random dimensions change: no p of 3 "
        "documents is below"
    ) in " ".join(few.headline())
    for found in (few, many):
        rows = [row for row in found.tables()["sweep_lm"].to_pylist() if row["p"] is not None]
        assert all(row["family"] >= row["p"] for row in rows)
        sure = [(row["group"], row["dims"]) for row in rows
                if row["metric"] == "loss" and row["family"] < 0.05]  # fmt: skip
        assert sure == ([] if found is few else [(0, [0]), (1, [0])])
    assert "Of 4 variants, 2 surely do harm" in " ".join(many.headline())


def test_both_numbers_of_which_a_ratio_is_are_told():
    """The mean size of controls that do good and harm is not the size of their mean."""
    grid = Grid(((0,),), (None,), ((11,), (12,), (13,)))
    found = Sweep("sweep-lm", (evaluated(grid, 0, [3.0, 0.01, -0.02, 0.03]),), grid)
    said = found.headline()[-1]
    loss = found.places[0].comparison("loss")
    assert f"by {loss.control[1]:.3f} on average, {loss.size[1]:.3f} in size, which" in said
    assert loss.size[1] > 2 * loss.control[1]
    assert loss.difference.value[1] / loss.size[1] == pytest.approx(loss.times[1])
    assert f"({float(f'{loss.times[1]:.1e}'):.0f} times)." in said


def test_figures_show_what_was_planted(study):
    found = {figure.id: figure for figure in section_of(study, "sweep-lm", [PLANTED]).figures}
    assert list(found) == ["sweep_lm_spikes", "sweep_lm_grid", "sweep_lm_layers"]
    spikes = found["sweep_lm_spikes"].table.to_pandas()
    whole = spikes[spikes.series == "all layers at once"]
    assert whole.dims.tolist() == list(range(DIMS))
    assert whole.value.idxmax() == PLANTED
    np.testing.assert_allclose(whole.value.max(), 2, rtol=0.1)
    assert set(found["sweep_lm_spikes"].choices[0].options.values()) == {
        "all layers at once", "layer 1", "layer 2", "layer 3"}  # fmt: skip
    grid = found["sweep_lm_grid"].table.to_pandas()
    by_layer = grid[grid.dim == PLANTED].set_index("layer").loss_difference_signed_log10
    np.testing.assert_allclose(by_layer, np.log10(1 + np.array([1, 2, 3]) / 1e-3), rtol=0.02)
    assert (grid[grid.dim == 3].loss_difference_signed_log10 < 0).all()
    curves = found["sweep_lm_layers"].table.to_pandas()
    np.testing.assert_allclose(curves[curves.series == "7"].y, [1, 2, 3], rtol=0.1)
    grey = curves[curves.series == "mean of random dimensions"]
    np.testing.assert_allclose(grey.y, 0.05, rtol=0.1)


def test_dimensions_that_were_not_swept_are_in_no_figure(study, tmp_path):
    """No column of the grid, and no line of the spikes leads across them."""
    grid = Grid(((2,), (PLANTED,), (15,)), (None, (1,), (2,)), ((11,), (12,), (13,)))
    harms = [0.1, 2.0, 0.2, 0.05, 0.05, 0.05]
    sweep = Sweep("sweep-lm", tuple(evaluated(grid, place, harms) for place in range(3)), grid)
    run = write_study(tmp_path / "run", {"sweep-lm": sweep})
    figures = section_of(read_study(run), "sweep-lm", [3, PLANTED]).figures
    found = {figure.id: figure for figure in figures}
    shown = found["sweep_lm_grid"]
    assert shown.table["dim"].to_pylist() == [2, PLANTED, 15] * 2
    assert "All 3 dimensions that were measured are shown." in shown.caption
    assert "Empty cells" not in shown.caption
    assert "outlier dimensions 7." in shown.caption
    assert found["sweep_lm_spikes"].plot().data[0].mode == "markers"
    every = {figure.id: figure for figure in section_of(study, "sweep-lm", []).figures}
    assert f"All {DIMS} dimensions are shown." in every["sweep_lm_grid"].caption
    assert every["sweep_lm_spikes"].plot().data[0].mode == "lines"
    for figure in found.values():
        figure.save(tmp_path)


def test_the_page_and_the_summary_have_it(tmp_path):
    run = write_study(tmp_path / "run", {"sweep-lm": planted()})
    page = " ".join(write_report(run).read_text().split())
    assert "Every dimension, next tokens" in page
    assert "7 (layer 3)" in page
    assert "Without these the model predicts better: 3" in page
    assert len(list((run / "figures").glob("sweep_lm_*.svg"))) == 3
    assert "more than intact" in summary(run)


def test_a_verified_screening_is_a_scatter_and_a_verdict(tmp_path):
    scores = np.full((LAYERS, DIMS), 1.0) - 0.01 * np.arange(DIMS)
    scores[1, PLANTED] = 9.0
    screened = Screened(
        Screening(range(1, 4), {"squared": scores}, 10.0, 100, 100),
        tuple(f"block.{i}" for i in range(LAYERS)),
    )
    grid = chosen(Grid((), (None,), ()), screened.ranked("squared", by_layer=True), 5, 30, 0)
    place = grid.sets.index((PLANTED,))
    assert grid.layers_of(0, place) == (2,)
    harm = np.full(35, 0.05)
    harm[place] = 2.0
    found = Sweep("sweep-lm", (evaluated(grid, 0, harm),), grid, screened, "squared")
    study = read_study(write_study(tmp_path / "run", {"sweep-lm": found}))
    (figure,) = section_of(study, "sweep-lm", []).figures
    table = figure.table.to_pandas()
    assert table.label[table.damage.idxmax()] == "7 (layer 2)"
    assert table["first"].sum() == 5
    assert len(table) == 35
    assert "over score: mean of (h dL/dh)²" in figure.alt
    assert study.document("sweep_lm_verification.json")["population"] == 60
    said = " ".join(write_report(tmp_path / "run").read_text().split())
    assert found.verification.words()[0] in said


def test_rules_on_hidden_states_are_compared_with_the_damage(study):
    document = {
        "agreement": {
            "all": {"names": ["massive", "parameters"], "jaccard": [[1.0, 0.0], [0.0, 1.0]]}
        },
        "found": [{"rule": "massive", "selection": "all", "dims": [PLANTED, 2]}],
        "parameters": [4],
    }
    assert damage(study) == {PLANTED}  # 3 helps, the others do no more than random ones
    table = agreement(document, damage(study))
    assert [[cell.text for cell in row] for row in table.cells()] == [
        ["massive", "1.00", "0.00", "0.50"],
        ["parameters", "0.00", "1.00", "0.00"],
        ["damage", "0.50", "0.00", "1.00"],
    ]
    assert "1 dimension that" in table.caption
    assert len(agreement(document, None).rows) == 2
