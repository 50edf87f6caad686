"""Greedy sets of a classifier: the carriers found one by one, and measured on other items."""

import numpy as np
import pytest
import torch
import xxhash
from outdim import Ablation, manifest
from outdim.analysis.greedy import greedy
from outdim.analysis.variants.predict import logits
from outdim.errors import ArgumentError, DataError
from outdim.models import apply_ablation
from outdim.report.sections import section_of
from outdim.report.study import read_study
from outdim.tables import read_parquet
from planted_classifier import CARRIER, NEGATIVE, POSITIVE, planted_classifier, sentences
from run_helpers import Options, give
from tiny import tiny_tokenizer

SECOND = 9


def model():
    """Reads the label off two dimensions, the second of which says it half as loud."""
    found = planted_classifier(scale=0.1)
    vocabulary = tiny_tokenizer().get_vocab()
    bert, head = found.bert, found.classifier.weight
    with torch.no_grad():
        words = bert.embeddings.word_embeddings.weight
        words[:, SECOND] = 0
        for table in (bert.embeddings.position_embeddings, bert.embeddings.token_type_embeddings):
            table.weight[:, SECOND] = 0
        bert.embeddings.LayerNorm.bias[SECOND] = 0
        for layer in bert.encoder.layer:
            for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm):
                norm.bias[SECOND] = 0
        words[vocabulary[POSITIVE], SECOND], words[vocabulary[NEGATIVE], SECOND] = 0.8, -0.8
        head[:, SECOND] = head[:, CARRIER] / 2
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("glue") / "dev.tsv"
    path.write_text("".join(f"{text}\t{label}\n" for text, label in sentences()))
    return path


def test_carriers_are_chosen_on_one_half_and_measured_on_the_other(data):
    found = greedy(model(), tiny_tokenizer(), data, task="glue:sst2", rounds=2, controls=3,
                   draws=100)  # fmt: skip
    assert found.dims == [CARRIER, SECOND]
    assert [choice.tried for choice in found.choices] == [32, 31]
    items = sentences()
    other = [xxhash.xxh64_intdigest(text.encode(), 0) % 2 == 1 for text, _ in items]
    assert found.choices[0].predicted == len(items) - sum(other)
    measured = [item for item, own in zip(items, other, strict=True) if own]
    truth = torch.tensor([label for _, label in measured])
    for size in (1, 2):
        with apply_ablation(model_ := model(), Ablation(found.dims[:size])):
            outputs = logits(model_, tiny_tokenizer(), [text for text, _ in measured]).double()
        loss = torch.nn.functional.cross_entropy(outputs, truth)
        assert found.measured.comparison("loss").value.value[size] == pytest.approx(loss.item())
    assert (np.diff(found.harm()) > 0).all()
    assert found.harm("acc")[1] < -0.3
    assert found.measured.comparison("loss").beyond.low[2] > 0
    spared = greedy(model(), tiny_tokenizer(), data, task="glue:sst2", rounds=1, goal="spare",
                    dims=[CARRIER, SECOND, 12], controls=0, draws=50)  # fmt: skip
    assert spared.dims == [12]


def test_a_run_gives_what_python_gives(data, tmp_path):
    model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    options = Options(
        model=str(tmp_path / "model"), task="sst2", data=[str(data)], output=tmp_path / "run",
        device="cpu", workers=1, rounds=2, dims=["0-12"], controls=2, block=6, draws=50,
    )  # fmt: skip
    run = give("greedy glue", [], options)
    found = greedy(model(), tiny_tokenizer(), str(data), task="glue:sst2", rounds=2, dims="0-12",
                   controls=2, draws=50)  # fmt: skip
    rounds = read_parquet(run / "greedy_glue_rounds.parquet").to_pylist()
    assert [row["dim"] for row in rounds] == found.dims
    rows = read_parquet(run / "greedy_glue.parquet").to_pylist()
    sets = [row for row in rows if row["metric"] == "loss" and row["role"] == "ablated"]
    assert [row["difference"] for row in sets] == pytest.approx(found.harm(), abs=1e-6)
    section = section_of(read_study(run), "greedy-glue", [])
    captions = [one.caption for one in (*section.tables, *section.figures)]
    assert all("documents" not in caption and " texts" in caption for caption in captions)
    (figure,) = section.figures
    assert figure.title == "What the set does as it grows"
    assert "texts, a half drawn at random" in manifest.read(run)["cautions"]["greedy-glue"][0]


def test_what_cannot_be_done_is_said(data, tmp_path):
    path = tmp_path / "one.tsv"
    path.write_text("w1 w2\t0\nw1 w2\t1\n")
    asked = {"task": "glue:sst2", "rounds": 1, "dims": [1, 2], "controls": 0}
    with pytest.raises(DataError, match=r"a half of the items, drawn at random .* is empty"):
        greedy(model(), tiny_tokenizer(), path, **asked)
    for given, said in (({"mask_share": 0.2}, "mask_share: not for"), ({"token_budget": 9}, "256")):
        with pytest.raises(ArgumentError, match=said):
            greedy(model(), tiny_tokenizer(), data, **asked, **given)
