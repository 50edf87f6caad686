"""Masks filled and prompts continued under several ablations at once, as one by one."""

import pytest
import torch
from outdim import Ablation
from outdim.errors import ArgumentError
from outdim.models import apply_ablation
from outdim.models.completion import ENDED, continue_prompt, distinct, fill_masks, longest_repeat
from tiny import tiny_model

MASK = 4
MANY = [None, Ablation([3, 9]), Ablation([5], mode="scale", value=-4.0)]


def test_masks_are_filled_as_by_each_model_alone():
    model = tiny_model("bert", head="MaskedLM")
    ids = [2, 17, MASK, 60, MASK, 3]
    tokens, chances = fill_masks(model, ids, MASK, MANY * 7, top=3)
    assert tokens.shape == chances.shape == (21, 2, 3)
    for m, ablation in enumerate(MANY * 7):
        with torch.inference_mode(), apply_ablation(model, ablation):
            chance = model(torch.tensor([ids])).logits[0, [2, 4]].double().softmax(-1)
        expected = chance.topk(3)
        assert torch.equal(tokens[m], expected.indices)
        assert torch.allclose(chances[m], expected.values, rtol=1e-4)
    assert float((chances[0] - chances[1]).abs().max()) > 1e-4


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_prompts_are_continued_as_by_each_model_alone(family):
    model = tiny_model(family, head="CausalLM")
    before = model.generation_config
    prompt = [17, 60, 33]
    written = continue_prompt(model, prompt, 8, MANY)
    assert model.generation_config is before
    end = before.eos_token_id
    for m, ablation in enumerate(MANY):
        ids = list(prompt)
        with torch.inference_mode(), apply_ablation(model, ablation):
            for _ in range(8):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        new = ids[len(prompt) :]
        kept = new[: new.index(end)] if end in new else new
        assert written[m].tolist() == kept + [ENDED] * (8 - len(kept))


def test_a_text_ends_where_the_model_ends_it():
    model = tiny_model("gpt2", head="CausalLM")
    model.generation_config.eos_token_id = None
    free = continue_prompt(model, [17, 60, 33], 6, [None])[0].tolist()
    model.generation_config.eos_token_id = [free[2], 199]
    place = free.index(free[2])
    assert continue_prompt(model, [17, 60, 33], 6, [None])[0].tolist() == free[:place] + [ENDED] * (
        6 - place
    )
    with pytest.raises(ArgumentError, match="at least one token, got none"):
        continue_prompt(model, [], 6, [None])


@pytest.mark.parametrize(
    ("ids", "shares", "repeat"),
    [
        ([1, 2, 3, 4, 5, 6], (1.0, 1.0, 1.0), 0),
        ([1, 1, 1, 1, 1, 1], (1 / 6, 1 / 5, 1 / 4), 5),
        ([1, 2, 1, 2, 1, 2], (1 / 3, 2 / 5, 1 / 2), 4),
        ([9, 1, 2, 3, 1, 2, 3, 8], (5 / 8, 5 / 7, 5 / 6), 3),
        ([1, 2, 3, 1, 2], (3 / 5, 3 / 4, 1.0), 0),  # no whole period came again
        ([7], (1.0, None, None), 0),
    ],
)
def test_repetition(ids, shares, repeat):
    for n, share in enumerate(shares, 1):
        found = distinct(ids, n)
        assert found != found if share is None else found == pytest.approx(share)
    assert longest_repeat(ids) == repeat
