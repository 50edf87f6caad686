"""Labelled tasks with planted truths: one dimension carries the label, and no other does."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from outdim import cli, manifest
from outdim.analysis.results.labelled import LabelledResult
from outdim.analysis.tasks import TASKS
from outdim.analysis.variants.predict import logits, similarities
from outdim.analysis.variants.variant import Variant
from outdim.corpus.labelled import Columns, read_labelled
from outdim.errors import ArgumentError, BackendError, DataError, ResumeError
from outdim.models import Ablation, with_estimated_means
from outdim.run.plan import Study
from outdim.stats.scores import score
from planted_classifier import CARRIER, ITEMS, planted_classifier, sentences
from run_helpers import Options, give, replaced
from tiny import tiny_model, tiny_tokenizer
from transformers import BertModel, FNetConfig, FNetForSequenceClassification


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("glue")
    for name, names in (
        ("model", ("negative", "positive")),
        ("permuted", ("Positive", "NEGATIVE")),
        ("unnamed", ("LABEL_0", "LABEL_1")),
        ("other", ("joy", "anger")),
    ):
        plain = tuple(n.lower() for n in names)
        known = "positive" in plain
        # Without names, output 0 stands for positive.
        model = planted_classifier(plain if known else ("positive", "negative"))
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {n: i for i, n in enumerate(names)}
        model.save_pretrained(path / name)
        tiny_tokenizer().save_pretrained(path / name)
    lines = [f"{text}\t{label}" for text, label in sentences()]
    (path / "dev.tsv").write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def options(folder, tmp_path) -> Options:
    return Options(
        model=str(folder / "model"),
        task="sst2",
        data=[str(folder / "dev.tsv")],
        output=tmp_path / "run",
        device="cpu",
        workers=1,
    )


def glue(options: Options, *, page: bool = False):
    run = give("evaluate glue", [], options, page=page)
    return run, pd.read_parquet(run / "evaluate_glue.parquet")


@pytest.mark.parametrize("at", ["state", "parameters"])
def test_the_dimension_that_carries_the_label_is_found_to_matter_and_no_other(options, at, capsys):
    run, table = glue(replaced(options, ablate=[str(CARRIER), "9"], at=[at], controls=6), page=True)
    assert set(table.metric) == {"acc"}
    intact, ablated = table[table.role == "intact"], table[table.role == "ablated"]
    truth = np.array([label for _, label in sentences()])
    assert intact.value.item() == 1.0
    carrier, other = (
        ablated[[list(d) == [dim] for d in ablated.dims]].iloc[0] for dim in (CARRIER, 9)
    )
    # Nothing is left of the label: all items get the same one.
    share = max(truth.mean(), 1 - truth.mean())
    assert max(carrier.value, 1 - carrier.value) == pytest.approx(share)
    assert carrier.difference == pytest.approx(carrier.value - 1)
    assert carrier.difference_high < -0.3
    assert carrier.beyond_high < -0.3
    assert carrier.gate in ("passed", "undecided")
    assert carrier.q < 0.01
    assert other.value == 1.0
    assert other.difference == 0
    controls = table[table.role == "control"]
    assert len(controls) == 6
    assert (controls.value == 1.0).all()
    assert not controls.dims.apply(lambda dims: CARRIER in dims or 9 in dims).any()
    items = pd.read_parquet(run / "evaluate_glue_items.parquet")
    assert len(items) == ITEMS * len(table)
    hit = (items.truth == items.predicted).groupby(items.variant).mean()
    np.testing.assert_allclose(hit.to_numpy(), table.value)
    said = manifest.read(run)
    first, worst, *_ = said["headlines"]["evaluate-glue"]
    assert first.startswith("On sst2, 120 items, the accuracy of the intact model is 1.000")
    assert worst.startswith(f"{CARRIER} off ({at}): ")
    page = (run / "report.html").read_text()
    assert "What each ablation changes" in page
    assert (run / "figures" / "evaluate_glue_differences.csv").exists()


def test_layer_by_layer(options):
    _, table = glue(replaced(options, ablate=[str(CARRIER)], window=1, controls=2))
    ablated = table[table.role == "ablated"]
    assert [list(layers) for layers in ablated.layers] == [[1], [2], [3], [4]]
    # Before the last layer the mean of the others still tells, and the next norm takes it off.
    assert (ablated.value.iloc[:3] > 0.9).all()
    assert ablated.value.iloc[3] < 0.7
    assert len(table) == 1 + 4 + 4 * 2


def test_a_dimension_is_set_to_its_mean_over_the_items(options, folder, capsys):
    """As `outdim sweep glue` does; half of the items say yes, half no: the mean says neither."""
    run, table = glue(replaced(options, ablate=[str(CARRIER)], mode=["mean"], controls=0))
    assert table[table.role == "ablated"].difference.item() < -0.3
    planned = Study(run)["evaluate-glue"].options["variants"]
    found = next(v.ablation for v in map(Variant.from_dict, planned) if v.ablation)
    tokenizer, texts = tiny_tokenizer(), [text for text, _ in sentences()]
    expected = with_estimated_means(
        Ablation((CARRIER,)),
        BertModel.from_pretrained(folder / "model"),
        [{**tokenizer(texts, return_tensors="pt", padding=True)}],
        special_ids=tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"]),
    )
    for group in ("text", "special"):
        means, own = (np.asarray(getattr(one.value, group)) for one in (found, expected))
        np.testing.assert_allclose(means, own, rtol=6e-4, atol=1e-6)


def test_the_same_numbers_as_a_loop_of_ones_own(options, folder):
    run, table = glue(replaced(options, ablate=["1,2"], at=["parameters"], controls=0))
    model, tokenizer = planted_classifier(), tiny_tokenizer()
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.output.LayerNorm.weight[[1, 2]] = 0
            layer.output.LayerNorm.bias[[1, 2]] = 0
        outputs = [model(**tokenizer(t, return_tensors="pt")).logits[0] for t, _ in sentences()]
    truth = np.array([label for _, label in sentences()])
    expected = score("acc", torch.stack(outputs).argmax(1).numpy(), truth)
    assert table[table.role == "ablated"].value.item() == expected
    assert table.beyond.isna().all()
    assert "task" in json.loads((run / "manifest.json").read_text())


def test_labels_are_mapped_by_name(options, folder):
    _, table = glue(replaced(options, model=str(folder / "permuted")))
    assert table.value.item() == 1.0


def test_outputs_without_names_are_taken_in_order_and_a_better_order_is_named(options, folder):
    unnamed = replaced(options, model=str(folder / "unnamed"))
    run, table = glue(unnamed)
    assert table.value.item() == 0.0
    said = " ".join(s for part in manifest.read(run)["cautions"].values() for s in part)
    assert "have no names (LABEL_0 and LABEL_1)" in said
    assert "--outputs positive negative" in said
    other = replaced(unnamed, outputs=["positive", "negative"], output=options.output / "x")
    assert glue(other)[1].value.item() == 1.0


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"model": "other"}, DataError, "its outputs are joy and anger"),
        ({"task": "mnli"}, DataError, "wants 3 outputs, one for each of entailment"),
        ({"task": "stsb"}, DataError, "wants 1 outputs, one, the score, and the classifier has 2"),
        ({"task": "qnli", "outputs": ["a", "b"]}, ArgumentError, "outputs: expected each of"),
        ({"task": "wnli", "outputs": ["entailment", "not_entailment"]}, DataError, "sentence1"),
        ({"rows": 0}, ArgumentError, "rows: expected at least 1, got 0"),
        ({"task": "other"}, ArgumentError, "task: other needs --data, --text and --label"),
        ({"labels": ["a", "b"]}, ArgumentError, "labels: those of sst2 are known"),
        ({"ablate": ["99"]}, ArgumentError, "dims: expected 0 to 31, got 99"),
        ({"data": ["/nowhere.tsv"]}, DataError, "there is no file /nowhere.tsv"),
        ({"text": ["a", "b", "c"], "label": "l"}, ArgumentError, "text: expected one or two"),
        ({"finetune": True}, ArgumentError, "train: name the training files"),
        ({"epochs": 2}, ArgumentError, "epochs: goes with --finetune"),
        ({"train": ["a.tsv"]}, ArgumentError, "train: goes with --finetune"),
        ({"finetune": True, "device": "cuda:99"}, BackendError, "device: cuda:99: torch sees"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_and_leaves_nothing(options, folder, changes, kind, said):
    if "model" in changes:
        changes = {"model": str(folder / changes["model"])}
    with pytest.raises(kind, match=said):
        glue(replaced(options, **changes))
    assert not options.output.exists()


def test_any_labelled_file(options, folder, tmp_path):
    rows = [{"review": t, "stars": ["bad", "good"][label]} for t, label in sentences()]
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = replaced(
        options, task="other", data=[str(path)], text=["review"], label="stars",
        labels=["bad", "good"], outputs=["bad", "good"],
    )  # fmt: skip
    _, table = glue(other)
    assert table.set_index("metric").value.to_dict() == {"acc": 1.0, "mcc": 1.0}
    glue(other)  # the same again computes nothing anew
    path.write_text(path.read_text().replace('"good"', '"bad"', 1))
    with pytest.raises(ResumeError):
        glue(other)


def test_predictions_do_not_depend_on_batches(folder):
    model, tokenizer = planted_classifier(scale=0.05), tiny_tokenizer()
    texts = [text for text, _ in sentences()]
    done: list[int] = []
    whole = logits(model, tokenizer, texts, batch_size=200, progress=done.append)
    single = logits(model, tokenizer, texts, batch_size=1)
    torch.testing.assert_close(whole, single, atol=1e-5, rtol=1e-5)
    assert sum(done) == sum(len(tokenizer(text).input_ids) for text in texts)
    one = model(**tokenizer(texts[5], return_tensors="pt")).logits[0]
    torch.testing.assert_close(whole[5], one.detach(), atol=1e-5, rtol=1e-5)
    model.config.pad_token_id = None
    with pytest.raises(DataError, match="padding token"):
        logits(model, tokenizer, texts)


@pytest.mark.parametrize(
    ("family", "side"),
    [("xlnet", "left"), ("gpt2", "left"), ("gpt2", "right"), ("llama", "left"), ("fnet", "right")],
)
def test_predictions_do_not_depend_on_padding(family, side):
    if family == "fnet":
        torch.manual_seed(0)
        small = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32}
        model = FNetForSequenceClassification(FNetConfig(vocab_size=200, **small)).eval()
    else:
        model = tiny_model(family, head="SequenceClassification", num_labels=2)
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = side
    tokenizer.model_input_names = ["input_ids"] + ["attention_mask"] * (family != "fnet")
    model.config.pad_token_id = tokenizer.pad_token_id
    texts = [text for text, _ in sentences()][:20]
    together = logits(model, tokenizer, texts)
    alone = torch.cat([logits(model, tokenizer, [text]) for text in texts])
    assert alone.std(0).min() > 1e-3  # the model tells them apart
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


class TestReasons:
    """A number that is not there says why."""

    def rows(self, *, truth=(1.0, 2.0, 3.0, 4.0), control=(2.0, 2.0, 2.0, 3.0), clusters=4):
        variants = [
            Variant("intact"),
            Variant("ablated", Ablation([1])),
            Variant("control", Ablation([2])),
        ]
        outputs = [np.array(one, np.float32)[:, None] for one in (range(4), (2, 0, 1, 3), control)]
        result = LabelledResult(
            step="evaluate-sts", asked=TASKS["sts"], variants=variants, outputs=outputs,
            truth=np.array(truth), clusters=np.arange(4) % clusters, seed=0,
        )  # fmt: skip
        return list(result.rows("pearson"))

    def test_of_four_items_some_draws_have_but_one(self):
        intact, ablated, control = self.rows()
        assert intact["value"] == pytest.approx(1)
        for row in (intact, ablated, control):
            assert row["low"] is None
            assert row["reason"] == "undefined in some draws"

    def test_where_only_the_controls_are_undefined(self, monkeypatch):
        def rows(weights):  # all that is drawn holds two items, but one that controls need
            return np.stack([np.ones(len(weights)), 0.5 + weights[:, 0] / 9,
                             np.where(weights[:, 3] == 0, np.nan, 0.9)], 1)  # fmt: skip

        monkeypatch.setattr(LabelledResult, "statistic", lambda self, metric: rows)
        intact, ablated, control = self.rows()
        assert (intact["low"], intact["reason"]) == (1.0, "")
        assert ablated["difference_low"] is not None
        assert ablated["beyond_low"] is None
        assert ablated["reason"] == "controls undefined in some draws"
        assert control["reason"] == "undefined in some draws"

    def test_of_one_text_and_of_constant_scores(self):
        assert {row["reason"] for row in self.rows(clusters=1)} == {"no interval of one text"}
        constant = "the predictions or the scores are constant"
        assert {row["reason"] for row in self.rows(truth=(1.0,) * 4)} == {constant}
        assert self.rows(control=(1.0,) * 4)[2]["reason"] == constant


class TestSts:
    """Cosines of pooled states against scores."""

    @pytest.fixture
    def pairs(self, tmp_path):
        """Scores that are the cosines themselves, but for noise."""
        model, tokenizer = tiny_model("bert"), tiny_tokenizer()
        first, second = ([text for text, _ in sentences(seed)] for seed in (0, 1))
        cosines = similarities(model, tokenizer, first, second)
        path = tmp_path / "pairs.tsv"
        rows = [
            f"{a}\t{b}\t{5 * float(c):.6f}" for a, b, c in zip(first, second, cosines, strict=True)
        ]
        path.write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n")
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return path

    def test_pooled_is_the_mean_of_all_tokens_but_padding(self):
        model, tokenizer = tiny_model("bert"), tiny_tokenizer()
        texts = ["w1", "w2 w3 w4 w5 w6", "w7 w8"]
        found = similarities(model, tokenizer, texts, [texts[1]] * 3)
        with torch.no_grad():
            pooled = [
                model(**tokenizer(t, return_tensors="pt")).last_hidden_state[0].mean(0)
                for t in texts
            ]
        expected = torch.stack([torch.cosine_similarity(p, pooled[1], dim=0) for p in pooled])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert found[1] == pytest.approx(1.0)

    def test_scores_that_are_cosines_are_found_and_an_ablation_loses_them(self, pairs, tmp_path):
        options = Options(
            model=str(tmp_path / "model"), data=[str(pairs)], output=tmp_path / "run",
            device="cpu", workers=1, controls=2, ablate=["0,1,2,3,4,5,6,7,8,9"],
        )  # fmt: skip
        run = give("evaluate sts", [], options)
        table = pd.read_parquet(run / "evaluate_sts.parquet")
        intact = table[table.role == "intact"].set_index("metric").value
        assert intact["spearman"] == pytest.approx(1, abs=1e-6)
        assert intact["pearson"] == pytest.approx(1, abs=1e-6)
        ablated = table[table.role == "ablated"].set_index("metric")
        assert (ablated.difference < -1e-3).all()
        assert (ablated.difference_low <= ablated.difference).all()

    def test_one_text_has_nothing_to_be_compared_with(self, tmp_path):
        path = tmp_path / "a.tsv"
        path.write_text("text\tscore\nw1\t1\n")
        with pytest.raises(ArgumentError, match="expected two columns"):
            give("evaluate sts", [], Options(
                model=str(self._model(tmp_path)), data=[str(path)], text=["text"], label="score",
                output=tmp_path / "run", device="cpu", workers=1,
            ))  # fmt: skip

    def _model(self, tmp_path):
        tiny_model("bert").save_pretrained(tmp_path / "model")
        tiny_tokenizer().save_pretrained(tmp_path / "model")
        return tmp_path / "model"


def test_the_command_line(options, capsys):
    assert cli.main([
        "evaluate", "glue", "--model", options.model, "--task", "sst2", "--data", *options.data,
        "--output", str(options.output), "--ablate", str(CARRIER), "9", "--controls", "2",
        "--device", "cpu", "--workers", "1",
    ]) == 0  # fmt: skip
    found = capsys.readouterr()
    assert found.out == f"{options.output}\n"
    assert f"{CARRIER} off (state)" in found.err


@pytest.mark.slow
def test_a_step_of_fine_tuning_has_as_many_rows_on_many_gpus(folder, tmp_path, monkeypatch):
    from outdim.analysis import finetune as module

    tiny_model("bert").save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    columns = (Columns(("sentence",), headerless=("sentence", "label")),)
    rows = read_labelled([folder / "dev.tsv"], columns, TASKS["sst2"].labels)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    options = module.FinetuneOptions(train_batch_size=8)
    trainer, _ = module._trainer(
        str(tmp_path / "base"), TASKS["sst2"], rows, rows, options, tmp_path, 64, "auto", id
    )
    assert trainer.args.n_gpu == 1
    assert trainer.args.train_batch_size == 8


def test_fine_tuning_names_the_gpu_that_it_can_use(tmp_path):
    from outdim.analysis import finetune as module

    with pytest.raises(ArgumentError, match=r"the first GPU, got 'cuda:1'; let CUDA_VISIBLE"):
        module.finetune("m", None, None, None, module.FinetuneOptions(), tmp_path, device="cuda:1")


@pytest.mark.slow
def test_fine_tuning_learns_the_planted_word_and_goes_on_where_it_was_interrupted(
    folder, tmp_path, monkeypatch, capfd
):
    """64 rows; the label is a word, which a tiny model learns in a few epochs."""
    from outdim.analysis import finetune as module

    tiny_model("bert").save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    task = TASKS["sst2"]
    rows = read_labelled(
        [folder / "dev.tsv"],
        (Columns(("sentence",), headerless=("sentence", "label")),),
        task.labels,
    )
    train = rows.take(64, 0)
    options = module.FinetuneOptions(
        finetune=True, epochs=6, learning_rate=3e-3, train_batch_size=8
    )
    directory = tmp_path / "model"
    stops = iter([None] * 20 + [KeyboardInterrupt()])

    def stop():
        if (error := next(stops, None)) is not None:
            raise error

    arguments = (str(tmp_path / "base"), task, train, rows, options, directory)
    capfd.readouterr()  # of the base that was written
    with pytest.raises(KeyboardInterrupt):
        module.finetune(*arguments, device="cpu", check_stop=stop)
    assert len(list((directory / "checkpoints").iterdir())) == 2
    assert not (directory / module.RECORD).exists()
    record = module.finetune(*arguments, device="cpu")
    logged = capfd.readouterr().err
    assert "epoch 6 of 6" in logged
    assert "%|" not in logged  # progress bars, which are for terminals
    assert [row["epoch"] for row in record["history"]] == [1, 2, 3, 4, 5, 6]
    best = max(row["acc"] for row in record["history"])
    assert best > 0.9
    assert not (directory / "checkpoints").exists()
    run, table = glue(
        Options(
            model=str(directory), task="sst2", data=[str(folder / "dev.tsv")],
            output=tmp_path / "run", device="cpu", workers=1,
        )
    )  # fmt: skip
    assert table.value.item() == pytest.approx(best)
    assert "best of 6 epochs was chosen on these" in " ".join(
        manifest.read(run)["cautions"]["inputs"]
    )
    assert module.finetune(*arguments, device="cpu") == record
    with pytest.raises(ResumeError, match="options"):
        module.finetune(*arguments[:4], module.FinetuneOptions(epochs=2), directory, device="cpu")
