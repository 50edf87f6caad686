"""Sweeps of a classifier: the dimension that carries the label found, and no other."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from outdim import Ablation, cli, manifest
from outdim.analysis.sweep import sweep
from outdim.analysis.sweep_glue import SweepGlue
from outdim.analysis.sweeps.ranking import ranked_dims
from outdim.analysis.variants.predict import VariantLogits, logits
from outdim.errors import ArgumentError, Interrupted
from outdim.models import apply_ablation, with_estimated_means
from outdim.report.sections import section_of
from outdim.report.study import read_study
from planted_classifier import CARRIER, planted_classifier, sentences
from run_helpers import Options, give, replaced, results
from safetensors.torch import load_file
from tiny import LAYERS, tiny_model, tiny_tokenizer

DIMS = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("glue")
    planted_classifier(scale=0.1).save_pretrained(path / "model")
    tiny_tokenizer().save_pretrained(path / "model")
    lines = [f"{text}\t{label}" for text, label in sentences()]
    (path / "dev.tsv").write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def options(folder) -> Options:
    return Options(
        model=str(folder / "model"), task="sst2", data=[str(folder / "dev.tsv")],
        output=folder / "run", device="cpu", workers=1, layers=["all", "4"], draws=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(options):
    return give("sweep glue", [], options, page=True)


def test_intervals_are_said_to_be_over_first_texts(run):
    section = section_of(read_study(run), "sweep-glue", [])
    captions = [one.caption for one in (*section.tables, *section.figures)]
    assert not any("documents" in caption for caption in captions)
    assert sum("over texts" in caption for caption in captions) >= 3


def test_the_dimension_that_carries_the_label_is_the_worst_and_no_other_matters(run):
    table = pd.read_parquet(run / "sweep_glue.parquet")
    assert set(table.metric) == {"loss", "probability", "acc"}
    assert set(table[table.role != "intact"].group) == {0, 1}
    for metric, worse in (("loss", 1), ("probability", -1), ("acc", -1)):
        rows = table[(table.metric == metric) & (table.role == "ablated")]
        assert len(rows) == 2 * DIMS
        harm = worse * rows.difference
        carrier = np.array([list(dims) == [CARRIER] for dims in rows.dims])
        assert harm[carrier].min() > 5 * harm[~carrier].abs().max()
        assert (rows[carrier].p < 0.02).all()
    loss = table[(table.metric == "loss") & (table.role == "ablated")]
    passed = loss[loss.gate == "passed"]
    assert [list(dims) for dims in passed.dims] == [[CARRIER], [CARRIER]]
    first, *said = manifest.read(run)["headlines"]["sweep-glue"]
    assert first.startswith("On sst2, 120 items, the accuracy of the intact model is 1.000")
    assert (
        "Of 64 variants, 2 surely do harm, and more than five times what random dimensions change: "
        f"{CARRIER} (all layers) and {CARRIER} (layer 4)."
    ) in said
    page = (run / "report.html").read_text()
    assert "What each dimension does to the loss" in page
    assert "probability" in page


def test_without_a_carrier_nothing_is_found(options, tmp_path):
    """The same model reads every other word: no dimension tells the labels apart."""
    path = tmp_path / "dev.tsv"
    path.write_text("".join(f"{text}\t{i % 2}\n" for i, (text, _) in enumerate(sentences(3))))
    found = give("sweep glue", [], replaced(options, data=[str(path)], output=tmp_path / "run"))
    table = pd.read_parquet(found / "sweep_glue.parquet")
    acc = table[(table.metric == "acc") & (table.role == "ablated")]
    assert len(acc) == 2 * DIMS
    assert "passed" not in set(acc.gate)
    assert acc.q.min() > 0.05
    said = " ".join(manifest.read(found)["headlines"]["sweep-glue"])
    assert "surely do harm" not in said


def test_a_variant_is_the_same_ablation_alone(options, run, tmp_path):
    asked = replaced(options, layers=None, window=None, ablate=["3", "9"], controls=0, draws=None)
    asked = Options(**{k: v for k, v in vars(asked).items() if v is not None})
    alone = give("evaluate glue", [], replaced(asked, output=tmp_path / "run"))
    expected, found = tensors(alone, "evaluate-glue"), tensors(run, "sweep-glue")["0.0/outputs"]
    assert torch.equal(found[:, 0], expected["outputs/0"])
    for number, dim in ((1, 3), (2, 9)):
        assert torch.equal(found[:, 1 + dim], expected[f"outputs/{number}"])
    assert not torch.equal(found[:, 10], found[:, 0])


def tensors(run, step):
    return {k: v for file in (run / "state" / step).iterdir() for k, v in load_file(file).items()}


def test_python_gives_what_the_run_gives(options, run):
    found = sweep(
        planted_classifier(scale=0.1), tiny_tokenizer(), options.data, task="glue:sst2",
        layers=["all", "4"], draws=300,
    )  # fmt: skip
    table = pd.read_parquet(run / "sweep_glue.parquet")
    pd.testing.assert_frame_equal(
        found.tables()["sweep_glue"].to_pandas()[["variant", "value", "p"]],
        table[["variant", "value", "p"]],
    )
    for task, said in (("glue", "expected 'lm', 'mlm'"), ("glue:no", "task: expected")):
        with pytest.raises(ArgumentError, match=said):
            sweep(planted_classifier(), tiny_tokenizer(), options.data, task=task)


def test_several_variants_fill_a_small_batch_by_default(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text("".join(f"{text}\t{label}\n" for text, label in sentences()[:8]))
    model, calls = planted_classifier(scale=0.1), []
    model.register_forward_hook(lambda *of: calls.append(1))

    def run(at_once):
        calls.clear()
        found = sweep(
            model, tiny_tokenizer(), path, task="glue:sst2", dims="0-5", controls=0, draws=20,
            variants_at_once=at_once,
        )  # fmt: skip
        return found.value(), len(calls)

    (alone, one_each), (filled, several) = run(1), run(None)
    assert one_each - several == 5  # 6 variants of 8 items of at most 8 tokens: in one forward
    np.testing.assert_allclose(filled, alone, rtol=1e-5)


@pytest.mark.parametrize(
    ("controls", "said"),
    [(0, "There are no controls:"), (2, "2 controls say little"), (5, None)],
)
def test_few_controls_are_warned_of(options, controls, said):
    found = sweep(
        planted_classifier(scale=0.1), tiny_tokenizer(), options.data, task="glue:sst2", dims="3",
        controls=controls, draws=20,
    )  # fmt: skip
    few = [caution for caution in found.cautions() if "controls" in caution]
    assert bool(few) == bool(said)
    assert said is None or few[0].startswith(said)


def test_means_are_those_of_the_items_by_group_of_tokens(options):
    """Half of the items say yes, half no: at its mean the carrier says neither."""
    model, tokenizer, items = planted_classifier(scale=0.1), tiny_tokenizer(), sentences()
    asked = {"task": "glue:sst2", "dims": [3, "5,9"], "controls": 0, "draws": 20}
    found = sweep(model, tokenizer, options.data, **asked, mode="mean")
    batches = [
        {**tokenizer([text for text, _ in some], return_tensors="pt", padding=True)}
        for some in (items[:50], items[50:])
    ]
    ids = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    (place,) = found.places
    for number, dims in enumerate(((3,), (5, 9)), 1):
        ablation = with_estimated_means(Ablation(dims), model, batches, special_ids=ids)
        with apply_ablation(model, ablation):
            expected = logits(model, tokenizer, [text for text, _ in items])
        np.testing.assert_allclose(place.outputs[number], expected, atol=2e-3)
    zero = sweep(model, tokenizer, options.data, **asked)
    assert not np.allclose(zero.places[0].outputs[2], place.outputs[2], atol=0.02)
    assert found.harm("acc")[0, 0] < -0.3
    with pytest.raises(ArgumentError, match="mode: expected one of zero, mean"):
        sweep(model, tokenizer, options.data, **asked, mode="resample")


def test_what_a_screening_puts_first_is_measured_beside_random_others(options, tmp_path):
    run = give("sweep glue", [], replaced(
        options, output=tmp_path / "run", layers=["all"], verify=3, verify_random=28
    ))  # fmt: skip
    table = pd.read_parquet(run / "sweep_glue.parquet")
    loss = table[table.metric == "loss"]
    assert loss.role.tolist() == ["intact"] + ["ablated"] * 3 + ["control"] * 28
    first = loss.sort_values("score", ascending=False).iloc[0]
    assert list(first.dims) == [CARRIER]
    assert first.difference == loss.difference.max()
    verdict = json.loads((run / "sweep_glue_verification.json").read_text())
    assert (verdict["population"], verdict["verdict"]) == (DIMS, "passed")
    (figure,) = section_of(read_study(run), "sweep-glue", []).figures
    assert figure.title == "The screening, verified"
    plan = manifest.read(run)["options"]
    assert plan["screen-glue"]["items"] == plan["sweep-glue"]["items"]
    whole = sweep(planted_classifier(scale=0.1), tiny_tokenizer(), options.data, task="glue:sst2",
                  controls=0, draws=50)  # fmt: skip
    for row in loss[loss.role != "intact"].itertuples():
        assert row.difference == pytest.approx(whole.harm()[0, row.dims[0]], abs=1e-6)
    assert ranked_dims(run)[0] == CARRIER
    named = replaced(
        options, output=tmp_path / "worst", layers=["all"], dims=["worst:2"], ranking=str(run),
        controls=2,
    )  # fmt: skip
    again = give("sweep glue", [], named)
    assert manifest.read(again)["options"]["sweep-glue"]["grid"]["sets"][0] == [CARRIER]
    assert "ranked the dimensions on 1 of the 1 text" in str(manifest.read(again)["cautions"])


@pytest.mark.parametrize("family", ["bert", "gpt2", "xlnet"])
def test_outputs_are_to_the_bit_those_of_each_ablation(family):
    """Pairs of texts, whose token types come along."""
    model = tiny_model(family, head="SequenceClassification", num_labels=3)
    tokenizer = tiny_tokenizer()
    model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if family == "bert":
        tokenizer.model_input_names.append("token_type_ids")
    texts = [text for text, _ in sentences()][:30]
    pairs = texts[::-1]
    asked = [Ablation([2]), Ablation([5], [LAYERS]), Ablation([5, 6], [2, 3])]
    size = {"batch_size": 8}
    found = VariantLogits(model)(tokenizer, texts, pairs, asked, **size)
    side_by_side = VariantLogits(model)(tokenizer, texts, pairs, asked, at_once=3, **size)
    for ablation, own in zip([None, *asked], found, strict=True):
        with apply_ablation(model, ablation):
            expected = logits(model, tokenizer, texts, pairs, **size)
        assert torch.equal(own, expected)
    torch.testing.assert_close(side_by_side, found, atol=1e-5, rtol=1e-5)
    assert not torch.equal(found[0], found[1])


def test_interrupted_it_goes_on_and_ends_with_the_same_bytes(options, run, tmp_path, monkeypatch):
    update, done = SweepGlue.update, []

    def stopping(self, unit, progress):
        done.append(unit)
        if len(done) == 2:
            raise Interrupted(15)
        return update(self, unit, progress)

    monkeypatch.setattr(SweepGlue, "update", stopping)
    again = replaced(options, output=tmp_path / "run")
    with pytest.raises(Interrupted):
        give("sweep glue", [], again)
    assert results(give("sweep glue", [], again)) == results(run)
    assert len({json.dumps(unit) for unit in done}) == len(done) - 1


def test_every_variant_is_noted_and_may_be_the_last(options, tmp_path, monkeypatch):
    noted = []

    def noting(self, share, said):
        noted.append((share, said))
        if len(noted) == 30:
            raise Interrupted(15)

    monkeypatch.setattr("outdim.run.local.Progress.note", noting)
    with pytest.raises(Interrupted):
        give("sweep glue", [], replaced(options, output=tmp_path / "run", batch_size=60))
    shares = [share for share, _ in noted]
    assert noted[0] == (0.5 / 32, "variant 1/32")
    assert shares == sorted(shares)
    assert {said for _, said in noted} == {f"variant {i}/32" for i in range(1, 31)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dims": ["32"]}, "dims: expected 0 to 31, got 32"),
        ({"layers": ["window:9"]}, "window:1 to window:4"),
        ({"block": 0}, "block: expected at least 1"),
        ({"rows": 0}, "rows: expected at least 1"),
        ({"draws": 1}, "draws: expected at least 2"),
        ({"labels": ["a", "b"]}, "labels: those of sst2 are known"),
    ],
)
def test_bad_options_are_said_and_leave_nothing(options, tmp_path, changes, said):
    with pytest.raises(ArgumentError, match=said):
        give("sweep glue", [], replaced(options, output=tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_the_command_line(options, tmp_path, capsys):
    assert cli.main([
        "sweep", "glue", "--model", options.model, "--task", "sst2", "--data", *options.data,
        "--output", str(tmp_path / "run"), "--dims", "0-5", "--controls", "2", "--rows", "40",
        "--device", "cpu", "--workers", "1", "--draws", "50",
    ]) == 0  # fmt: skip
    assert f"{CARRIER} off (state)" in capsys.readouterr().err
