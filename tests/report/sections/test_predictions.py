"""The section of predictions: what was planted stands in tables and figures."""

from dataclasses import replace

import numpy as np
import pytest
from outdim import Ablation
from outdim.analysis.parts_of_speech import CLASSES
from outdim.analysis.results.predictions import Predictions
from outdim.analysis.variants.variant import Variant
from outdim.report import summary, write_report
from outdim.report.sections import section_of
from outdim.report.study import read_study
from outdim.stats.prediction_sums import Reading
from outdim.tokens import TokenFrequencies
from report.synthetic import write_study

NOUN, VERB = CLASSES.index("NOUN"), CLASSES.index("VERB")


def planted(task: str = "lm", *, tagger: str = "planted 1", controls: int = 3) -> Predictions:
    """507 off predicts the most frequent of 50 tokens alone, and nouns; 12 and controls nothing."""
    rng = np.random.default_rng(0)
    variants = [Variant("intact"), Variant("ablated", Ablation([507])),
                Variant("ablated", Ablation([12]))]  # fmt: skip
    variants += [Variant("control", Ablation([n])) for n in range(controls)]
    corpus = np.floor(1000 / np.arange(1, 51)).astype(np.int64)
    p = corpus / corpus.sum()
    counts = np.zeros((20, 1 + len(variants), 50))
    for series in range(1 + len(variants)):
        counts[:, series] = rng.multinomial(200, p, 20)
    counts[:, 2] = np.eye(50)[0] * 200
    states = rng.normal(size=(20, len(variants), 2, 600))
    states[:, :, 0, 381] = 800
    classes = np.zeros((20, len(variants), len(CLASSES), len(CLASSES)), np.int64)
    classes[:, :, NOUN, NOUN], classes[:, :, VERB, VERB] = 100, 90
    classes[:, :, VERB, NOUN] = 10
    classes[:, 1, VERB, VERB], classes[:, 1, VERB, NOUN] = 0, 100
    columns = np.zeros((4, 600))
    columns[:, 381] = 1, -1, -2, 0.9
    columns[0, 0] = 0.01
    reading = Reading(
        np.arange(50), counts, np.full(20, 200), np.zeros((20, len(variants)), np.int64), states,
        classes, np.zeros((20, len(variants)), np.int64),
    )  # fmt: skip
    readings = {"next": reading} if task == "lm" else {"masked": reading, "unmasked": reading}
    labels = [f"\u0120t{i}" for i in range(50)]
    return Predictions(task, readings, tuple(variants), corpus, labels, columns, tagger, "", {})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "run"
    return read_study(write_study(path, {"predictions-lm": planted()}))


def test_measures_stand_by_variant_and_what_no_control_does_is_marked(study):
    found = section_of(study, "predictions-lm", [381])
    assert found.title == "Which tokens are predicted"
    measures = found.tables[0]
    assert measures.columns[1:4] == ["mean log frequency", "types", "entropy"]
    truth, intact, ablated, other = measures.cells()
    assert [row[0].text for row in (truth, intact, ablated, other)] == [
        "truth", "intact", "507 off (state)", "12 off (state)"
    ]  # fmt: skip
    assert ablated[1].marked
    assert ablated[1].text.startswith("6.91")
    assert ablated[2].text.startswith("1 [")
    assert not other[1].marked
    assert not any(cell.marked for cell in intact + truth)
    assert truth[-1].text == ""  # it predicts no word
    against = found.tables[1]
    assert against.columns[1:] == ["slope", "log slope", "spearman", "logit gap"]
    assert against.cells()[0][1].text.startswith("1.0")
    assert against.cells()[0][-1].text == ""
    assert not against.brief


def test_the_tokens_predicted_most_are_named(study):
    table = section_of(study, "predictions-lm", []).tables[2]
    by_variant = {row[0].text: row[1] for row in table.cells()}
    assert by_variant["507 off (state)"].text == "“\u0120t0” 4,000"
    assert by_variant["507 off (state)"].title == "ids 0"
    assert by_variant["truth"].text.startswith("“\u0120t0” ")


def test_tokens_of_a_byte_level_vocabulary_are_shown_as_text(study):
    size = 50
    raw = tuple(f" t{i}\n".encode() if i else b"\xe2\x82" for i in range(size))
    counts = TokenFrequencies(np.ones(size, np.int64), np.zeros(size, bool), ("?",) * size, raw=raw)
    table = section_of(replace(study, frequencies=counts), "predictions-lm", []).tables[2]
    by_variant = {row[0].text: row[1].text for row in table.cells()}
    assert by_variant["507 off (state)"] == "“\\xe2\\x82” 4,000"
    assert "“␣t1\\n” " in by_variant["truth"]


def test_dimensions_are_ranked_by_what_they_add(study):
    table = section_of(study, "predictions-lm", [381]).tables[-1]
    first = table.cells()[0]
    assert [cell.text for cell in first[:5]] == ["381", "4.000", "4.000", "\u22124.000",
                                                 "\u22128.000"]  # fmt: skip
    assert first[5].text.startswith("8.000 [")
    assert first[6].text.startswith("1.000 [")
    assert first[0].marked
    assert not table.cells()[1][0].marked


def test_figures_are_of_ranks_changes_dimensions_and_parts_of_speech(study):
    found = {figure.id: figure for figure in section_of(study, "predictions-lm", [381]).figures}
    assert list(found) == [
        f"predictions_lm_next_{name}" for name in ("ranks", "changes", "dims", "pos")
    ]
    ranks = found["predictions_lm_next_ranks"].table.to_pandas()
    assert set(ranks.series) == {"truth", "intact", "507 off (state)", "12 off (state)",
                                 "0 off (state)", "1 off (state)", "2 off (state)"}  # fmt: skip
    of_truth = ranks[ranks.series == "truth"]
    assert of_truth["rank"].tolist() == list(range(1, 51))
    assert of_truth["count"].is_monotonic_decreasing
    assert ranks[ranks.series == "507 off (state)"]["count"].tolist() == [4000]
    changes = found["predictions_lm_next_changes"].table.to_pandas()
    own = changes[(changes.series == "ablated") & (changes.label == "507 off (state)")]
    assert own.low.item() > 0
    assert (changes.series == "control").sum() == 3 * 2
    dims = found["predictions_lm_next_dims"].table.to_pandas()
    assert dims.label[0] == "381 *"
    pos = found["predictions_lm_next_pos"].table.to_pandas()
    verbs = pos[(pos.true == "VERB") & (pos.predicted == "NOUN")].set_index("variant").share
    assert verbs["intact"] == pytest.approx(0.1)
    assert verbs["507 off (state)"] == 1
    assert set(pos.true) == {"NOUN", "VERB"}


def test_an_ablation_that_changes_nothing_is_drawn(tmp_path):
    found = planted()
    counts = found.readings["next"].counts
    counts[:, 3] = counts[:, 1]
    run = write_study(tmp_path / "run", {"predictions-lm": found})
    figures = {one.id: one for one in section_of(read_study(run), "predictions-lm", []).figures}
    changes = figures["predictions_lm_next_changes"].table.to_pandas()
    own = changes[(changes.series == "ablated") & (changes.label == "12 off (state)")]
    assert own.value.tolist() == [0]


def test_the_page_and_the_summary_have_it(tmp_path):
    run = write_study(tmp_path / "run", {"predictions-mlm": planted("mlm")})
    page = write_report(run).read_text()
    assert "Which tokens are filled in" in page
    assert len(list((run / "figures").glob("predictions_mlm_*.svg"))) == 8
    said = " ".join(summary(run).split())
    assert "Predicting masked tokens, the intact model gives" in said
    assert "dimension 381 adds 8.00" in said


def test_without_ablations_and_tagger_there_is_less(tmp_path):
    whole = planted(controls=0, tagger="")
    (reading,) = whole.readings.values()
    alone = Reading(reading.ids, reading.counts[:, :2], reading.rows, reading.amiss[:, :1],
                    reading.states[:, :1], reading.classes[:, :1, :0, :0],
                    reading.untagged[:, :1])  # fmt: skip
    found = Predictions(**{**vars(whole), "readings": {"next": alone},
                           "variants": whole.variants[:1]})  # fmt: skip
    study = read_study(write_study(tmp_path / "run", {"predictions-lm": found}))
    section = section_of(study, "predictions-lm", [])
    assert [figure.id for figure in section.figures] == [
        "predictions_lm_next_ranks", "predictions_lm_next_dims"
    ]  # fmt: skip
    assert len(section.tables[0].rows) == 2
    assert not section.tables[0].marks
