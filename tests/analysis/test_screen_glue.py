"""Screenings of classifiers: scores are those of plain autograd, however items are batched."""

import numpy as np
import pytest
import torch
from outdim.analysis import screen
from outdim.analysis.in_memory import run_in_memory
from outdim.analysis.inputs import Inputs
from outdim.analysis.screen_glue import ScreenGlue, ScreenGlueOptions
from outdim.models import architecture, observe
from planted_classifier import sentences
from tiny import tiny_model, tiny_tokenizer
from torch.nn.functional import cross_entropy, mse_loss

LABELS = ("entailment", "neutral", "contradiction")


def by_hand(model, tokenizer, items):
    """Sums of |h g|, (h g)^2, -h g and |h| [4, L, D] over the tokens of each item by itself."""
    points, total, losses = architecture(model).blocks(), 0, 0.0
    for text, pair, truth in items:
        held = {}

        def keep(point, hidden, held=held):
            hidden.retain_grad()
            held[point.name] = hidden

        given = [text] if pair is None else [text, pair]
        with observe(model, points, keep):
            logits = model(**tokenizer(*given, return_tensors="pt")).logits.double()
            if isinstance(truth, float):
                loss = mse_loss(logits[:, 0], torch.tensor([truth]).double())
            else:
                loss = cross_entropy(logits, torch.tensor([truth]))
            loss.backward()
        states = [held[point.name] for point in points]
        h = torch.stack([one.detach()[0].double() for one in states])
        product = h * torch.stack([one.grad[0].double() for one in states])
        total = total + torch.stack(
            [one.sum(1) for one in (product.abs(), product**2, -product, h.abs())]
        )
        losses += loss.item()
    return total, losses


def tokenizer_of(model):
    tokenizer = tiny_tokenizer()
    model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if model.config.model_type == "bert":
        tokenizer.model_input_names.append("token_type_ids")
    return tokenizer


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_labels_of_pairs_whose_outputs_stand_in_another_order(family, tmp_path, monkeypatch):
    model = tiny_model(
        family, head="SequenceClassification", num_labels=3, id2label=dict(enumerate(LABELS[::-1]))
    )
    tokenizer, texts = tokenizer_of(model), [text for text, _ in sentences()][:14]
    rows = [(a, b, i % 3) for i, (a, b) in enumerate(zip(texts, texts[::-1], strict=True))]
    path = tmp_path / "dev.tsv"
    lines = ["\t".join(("premise", "hypothesis", "label"))]
    path.write_text("\n".join([*lines, *(f"{a}\t{b}\t{LABELS[i]}" for a, b, i in rows)]) + "\n")
    expected, loss = by_hand(model, tokenizer, [(a, b, 2 - i) for a, b, i in rows])
    options = ScreenGlueOptions(task="mnli", data=[str(path)], batch_size=8)
    for tokens in (1024, 20):  # of a part of a batch
        monkeypatch.setattr(screen, "_TOKENS", tokens)
        inputs = Inputs.of(model=model, tokenizer=tokenizer)
        found = run_in_memory(ScreenGlue, options, inputs).result().screening
        assert (found.targets, found.loss) == (14, pytest.approx(loss))
        for own, name in zip(expected, ("absolute", "squared", "signed", "magnitude"), strict=True):
            np.testing.assert_allclose(found.scores[name], own, rtol=2e-4, atol=1e-5)


def test_scores_of_a_task_by_their_squared_error_and_shards_that_add_up(tmp_path, monkeypatch):
    model = tiny_model("bert", head="SequenceClassification", num_labels=1)
    tokenizer, texts = tokenizer_of(model), [text for text, _ in sentences()][:10]
    rows = [(a, b, 0.5 * i) for i, (a, b) in enumerate(zip(texts, texts[::-1], strict=True))]
    path = tmp_path / "dev.tsv"
    lines = ["\t".join(("sentence1", "sentence2", "score"))]
    path.write_text("\n".join([*lines, *(f"{a}\t{b}\t{score}" for a, b, score in rows)]) + "\n")
    expected, loss = by_hand(model, tokenizer, rows)
    monkeypatch.setattr("outdim.analysis.screen_glue._ITEMS", 4)
    options = ScreenGlueOptions(task="stsb", data=[str(path)])
    step = run_in_memory(ScreenGlue, options, Inputs.of(model=model, tokenizer=tokenizer))
    assert len(step.work(step.recorded, step.inputs)) == 3
    found = step.result().screening
    assert (found.targets, found.loss) == (10, pytest.approx(loss))
    np.testing.assert_allclose(found.scores["absolute"], expected[0], rtol=2e-4, atol=1e-5)
