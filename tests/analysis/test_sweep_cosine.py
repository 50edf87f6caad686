"""Sweeps of representations: a planted dimension moves the vectors, and distances are cosines."""

import json

import numpy as np
import pytest
import torch
from outdim import Ablation, manifest
from outdim.analysis.sweep import sweep
from outdim.analysis.sweep_cosine import moved
from outdim.analysis.variants.runner import Rows
from outdim.errors import DataError
from outdim.models import apply_ablation
from run_helpers import give, small
from tiny import LAYERS, tiny_model, tiny_texts, tiny_tokenizer

PLANTED = 7


@pytest.fixture(scope="module")
def texts():
    return tiny_texts(12, 20)


@pytest.fixture(scope="module")
def bert():
    """After every layer one dimension has most of what all tokens have in common."""
    model = tiny_model("bert")
    for layer in model.encoder.layer:
        layer.output.LayerNorm.weight.data[PLANTED] = 0.1
        layer.output.LayerNorm.bias.data[PLANTED] = 20.0
    return model


def vectors(model, tokenizer, text, ablation=None) -> torch.Tensor:
    """The last hidden states of the words."""
    with torch.no_grad(), apply_ablation(model, ablation):
        hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    return hidden[1:-1].double()


def test_the_planted_dimension_moves_most_and_makes_tokens_alike(bert, tokenizer, texts):
    found = sweep(bert, tokenizer, texts, task="cosine", layers=["all", str(LAYERS)], draws=200)
    assert found.harm().shape == (2, 32)
    assert (found.harm().argmax(1) == PLANTED).all()
    assert (found.harm("token_distance").argmax(1) == PLANTED).all()
    others = np.delete(found.harm("similarity"), PLANTED, 1)
    assert (found.harm("similarity")[:, PLANTED] < 10 * others.min(1)).all()
    assert found.places[0].comparison("similarity").value.value[0] > 0.9
    assert found.grid.sets[found.sure(1)[0][1] - 1] == (PLANTED,)
    assert not found.sure(-1)
    table = found.tables()["sweep_cosine"].to_pandas()
    assert set(table.metric) == {"text_distance", "token_distance", "similarity"}
    assert table[(table.metric == "similarity")].gate.isna().all()


def test_distances_are_those_of_a_loop_of_ones_own(bert, tokenizer, texts):
    found = sweep(
        bert, tokenizer, texts, task="cosine", dims=["3", "7,9"], layers="2", controls=0,
        token_budget=100, draws=20,
    )  # fmt: skip
    for number, dims in enumerate(((3,), (7, 9))):
        text, token, alike = [], [], []
        for one in texts:
            intact = vectors(bert, tokenizer, one)
            own = vectors(bert, tokenizer, one, Ablation(dims, [2]))
            text.append(1 - torch.cosine_similarity(own.mean(0), intact.mean(0), dim=0))
            token.append(1 - torch.cosine_similarity(own, intact))
            unit = torch.nn.functional.normalize(own)
            pairs = (unit @ unit.T).fill_diagonal_(0).sum(1) / (len(own) - 1)
            alike.append(pairs)
        expected = {
            "text_distance": torch.stack(text).mean(),
            "token_distance": torch.cat(token).mean(),
            "similarity": torch.cat(alike).mean(),
        }
        for metric, value in expected.items():
            assert found.value(metric)[0, number] == pytest.approx(value.item(), abs=1e-6)


def test_what_is_not_moved_has_no_distance():
    states = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 37)).astype(np.float32))
    rows = Rows(*[torch.arange(64) // 4] * 4)  # most cosines with themselves are not quite 1
    intact, scaled, other = moved(None, [states, 3 * states, states.flip(0)], rows)
    for same in (intact, scaled):
        assert not same[:, [0, 2]].any()
    assert other[:, 2].min() > 0.1


def test_at_its_mean_the_planted_dimension_moves_less_than_at_zero(bert, tokenizer, texts):
    zero, mean = (
        sweep(bert, tokenizer, texts, task="cosine", dims=[PLANTED], mode=mode, controls=0,
              draws=20).harm()[0, 0]
        for mode in ("zero", "mean")
    )  # fmt: skip
    assert 0 <= mean < 0.1 * zero


def test_texts_of_one_token_have_no_pairs(bert, tokenizer):
    found = sweep(bert, tokenizer, ["w1", "w2"], task="cosine", dims="0-3", draws=20)
    assert np.isnan(found.value("similarity")).all()
    assert np.isfinite(found.value("token_distance")).all()
    table = found.tables()["sweep_cosine"].to_pandas()
    assert set(table[table.metric == "similarity"].reason) == {"too few texts of two tokens"}
    with pytest.raises(DataError, match="no token"):
        sweep(bert, tokenizer, [""], task="cosine", dims="0-3")


def test_a_run_of_a_decoder(corpus, tmp_path):
    model = tiny_model("llama", num_hidden_layers=2, hidden_size=8, num_attention_heads=2)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    options = small(tmp_path / "model", tmp_path / "run", controls=2, draws=50, block=6)
    run = give("sweep cosine", corpus, options, page=True)
    found = manifest.read(run)
    assert found["evaluation"]["sweep-cosine"]["sets"] == 8
    assert "Two tokens of a text have a cosine of" in json.dumps(found["headlines"])
    assert "What each dimension does to the distance" in (run / "report.html").read_text()
