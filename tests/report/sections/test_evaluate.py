"""The section of an evaluation: what was planted stands in tables and figures."""

import numpy as np
import pytest
from outdim import Ablation
from outdim.analysis.results.compared import gate_in_words
from outdim.analysis.results.evaluation import SUMS, Evaluation
from outdim.analysis.variants.variant import Variant
from outdim.report import summary, write_report
from outdim.report.sections import section_of
from outdim.report.sections.evaluate_lm import _against
from outdim.report.study import read_study
from report.synthetic import write_study

DOSES = (0.75, 0.5, 0.25)


def planted(task: str = "lm", controls: int = 3) -> Evaluation:
    """507 off costs 2 nats, a layer or dose in proportion, 12 and the controls 0.1."""
    variants = [Variant("intact")]
    harm = [0.0]
    for group, (ablation, costs) in enumerate(
        [
            (Ablation([507]), 2.0),
            *((Ablation([507], mode="scale", value=dose), 2 * (1 - dose)) for dose in DOSES),
            *((Ablation([507], [layer]), 0.5 * layer) for layer in (1, 2, 3)),
        ]
    ):
        variants += [Variant("ablated", ablation, group)]
        harm += [costs]
        for number in range(controls):
            other = Ablation([number], ablation.layers, mode=ablation.mode, value=ablation.value)
            variants += [Variant("control", other, group)]
            harm += [0.1]
    variants += [Variant("ablated", Ablation([12]), 0)]
    harm += [0.1]
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 60, 50)
    sums = np.zeros((50, len(variants), len(SUMS)))
    sums[:, :, 0] = tokens[:, None] * (3 + np.array(harm) * rng.uniform(0.8, 1.2, (50, 1)))
    sums[:, :, SUMS.index("correct")] = (tokens[:, None] * 0.4).round()
    return Evaluation(
        task, None if task == "lm" else "random", tuple(variants), sums, tokens, tokens * 4.5, 500,
        0, "", {"without": 2},
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "run"
    return read_study(write_study(path, {"evaluate-lm": planted()}))


def test_the_worst_variant_comes_first_with_interval_controls_and_gate(study):
    found = section_of(study, "evaluate-lm", [])
    assert found.title == "Predicting the next token"
    losses = found.tables[0]
    intact, worst, *_, last = losses.cells()
    assert intact[0].text == "intact"
    assert worst[0].text == "507 off (state)"
    assert worst[1].text.startswith("5.0")
    assert worst[2].text.startswith("2.0")
    assert "[" in worst[2].text
    assert worst[3].text == "0.100"
    assert worst[5].marked
    assert last[0].text == "12 off (state)"
    assert not last[5].marked


@pytest.mark.parametrize(("p", "sure"), [(0.05, True), (0.115, False), (None, False)])
def test_only_what_p_says_too_is_called_sure_and_shaded(p, sure):
    row = {"control": 0.1, "beyond": 1.0, "beyond_low": 0.9, "beyond_high": 1.2, "times": 11.0,
           "gate": "passed", "p": p, "q": p}  # fmt: skip
    _, _, times, _ = _against(row)
    assert times.marked is sure
    assert ("surely" in gate_in_words("passed", p)) is sure
    assert "surely" not in gate_in_words("failed", p)


def test_other_metrics_stand_beside_the_loss(study):
    table = section_of(study, "evaluate-lm", []).tables[1]
    assert table.columns[1:4] == ["perplexity", "bits per byte", "accuracy"]
    assert len(table.rows) == 9
    assert table.rows[0][:2] == ["intact", f"{np.exp(3):.3f}"]


def test_figures_are_of_differences_doses_and_layers(study):
    found = {figure.id: figure for figure in section_of(study, "evaluate-lm", []).figures}
    assert list(found) == [f"evaluate_lm_{name}" for name in ("differences", "doses", "layers")]
    doses = found["evaluate_lm_doses"].table.to_pandas()
    own = doses[doses.series == "507 (state, scale)"]
    assert own.x.tolist() == [0.25, 0.5, 0.75]
    np.testing.assert_allclose(own.y, [1.5, 1.0, 0.5], rtol=0.1)
    assert (own.low < own.y).all()
    grey = doses[doses.series == "1 random (state, scale)"]
    np.testing.assert_allclose(grey.y, 0.1, rtol=0.1)
    layers = found["evaluate_lm_layers"].table.to_pandas()
    assert layers[layers.series == "507 (state, zero)"].x.tolist() == [1, 2, 3]
    differences = found["evaluate_lm_differences"].table.to_pandas()
    assert (differences.series == "control").sum() == 3 * 8
    assert "Right of the line is worse" in found["evaluate_lm_differences"].caption


def test_the_page_and_the_summary_have_it(tmp_path):
    run = write_study(tmp_path / "run", {"evaluate-mlm": planted("mlm")})
    page = write_report(run).read_text()
    assert "Predicting masked tokens" in page
    assert "507 off (state): raises the loss by 2.0" in " ".join(page.split())
    assert len(list((run / "figures").glob("evaluate_mlm_*.svg"))) == 3
    said = summary(run)
    assert "surely more than five times the size" in " ".join(said.split())


def test_without_ablations_there_is_the_loss_and_no_figure(tmp_path):
    alone = planted(controls=0)
    keep = [0]
    found = Evaluation(**{**vars(alone), "variants": (alone.variants[0],),
                          "sums": alone.sums[:, keep]})  # fmt: skip
    study = read_study(write_study(tmp_path / "run", {"evaluate-lm": found}))
    section = section_of(study, "evaluate-lm", [])
    assert section.figures == []
    assert len(section.tables[0].rows) == 1
    assert len(section.tables[0].columns) == 3
