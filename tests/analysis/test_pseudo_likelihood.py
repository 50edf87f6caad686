"""Pseudo-log-likelihood: every token against its own masked forward, and what words share."""

import pytest
import torch
from outdim.analysis.pseudo_likelihood import Scored, pseudo_log_likelihood
from outdim.errors import ArgumentError
from outdim.models import Predictor
from tiny import tiny_model

MASK = 4


@pytest.fixture(scope="module")
def model():
    return tiny_model("bert", head="MaskedLM")


def masked_forward(model, ids: list[int], hidden: list[int]) -> torch.Tensor:
    row = torch.tensor([ids])
    row[0, hidden] = MASK
    with torch.inference_mode():
        return model(row).logits[0].double().log_softmax(-1)


def test_a_token_is_scored_with_itself_and_the_rest_of_its_word_hidden(model):
    ids = [2, 50, 61, 62, 63, 70, 3]
    words = [None, 0, 1, 1, 1, 2, None]
    hidden = {1: [1], 2: [2, 3, 4], 3: [3, 4], 4: [4], 5: [5]}
    predictor = Predictor(model)
    alone = [Scored(ids, words, [at]) for at in hidden]
    found = pseudo_log_likelihood(predictor, alone, mask_id=MASK)
    for log_p, greedy, (at, masked) in zip(*found, hidden.items(), strict=True):
        expected = masked_forward(model, ids, masked)[at]
        assert float(log_p) == pytest.approx(float(expected[ids[at]]), abs=1e-5)
        assert bool(greedy) == (int(expected.argmax()) == ids[at])
    together = pseudo_log_likelihood(predictor, [Scored(ids, words, list(hidden))], mask_id=MASK)
    assert float(together.log_p[0]) == pytest.approx(float(found.log_p.sum()), abs=1e-5)
    # The original form, which masks the token alone, is another number.
    original = masked_forward(model, ids, [2])[2][ids[2]]
    assert abs(float(original - found.log_p[1])) > 1e-3


@pytest.mark.parametrize("budget", [1, 20, 1000])
def test_batches_and_their_order_change_nothing(model, budget):
    generator = torch.Generator().manual_seed(0)
    sequences = []
    for length in (5, 9, 3, 9, 12):
        ids = torch.randint(5, 200, (length,), generator=generator).tolist()
        sequences.append(Scored(ids, list(range(length)), list(range(1, length - 1))))
    done: list[int] = []
    found = pseudo_log_likelihood(
        Predictor(model), sequences, mask_id=MASK, token_budget=budget, progress=done.append
    )
    assert sum(done) == sum(len(s.targets) for s in sequences)
    for sequence, log_p in zip(sequences, found.log_p, strict=True):
        expected = sum(
            float(masked_forward(model, sequence.ids, [at])[at, sequence.ids[at]])
            for at in sequence.targets
        )
        assert float(log_p) == pytest.approx(expected, abs=1e-4)


def test_nothing_asked_for_and_what_is_not_there(model):
    nothing = Scored([2, 9, 3], [None, 0, None], [])
    assert pseudo_log_likelihood(Predictor(model), [nothing], mask_id=MASK).log_p.tolist() == [0]
    with pytest.raises(ArgumentError, match="positions 0 to 2, got 3"):
        pseudo_log_likelihood(Predictor(model), [Scored([2, 9, 3], [None] * 3, [3])], mask_id=MASK)
