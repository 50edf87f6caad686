"""Ablations side by side in a batch, and one within another: each as if it were alone."""

import pytest
import torch
from ablated_by_hand import ENDERS, PRE, headed, kept, logits
from outdim import Ablation, ablate, ablate_each
from outdim.errors import DataError
from outdim.models import Edited, apply_ablation, architecture
from tiny import SINGLE, tiny_inputs

pytestmark = pytest.mark.usefixtures("found_once")


MANY = [
    None,
    Ablation([3]),
    Ablation([5, 6], mode="scale", value=[0.5, 2.0]),
    Ablation([9], [0, 2, 3], mode="clip", value=0.1),
    Ablation([1, 9], [1, 4], mode="mean", value=[[0.5, 1.0], [2.0, -1.0]]),
    Ablation([[1], [], [4, 5]], [1, 2, 3]),
]


@pytest.mark.parametrize("family", SINGLE)
def test_each_block_of_a_batch_is_its_ablation_alone_to_the_bit(family):
    model = kept(family)
    found = architecture(model)
    ablations = list(MANY)
    if family in ENDERS:
        ablations += [Ablation([3], at="parameters"), Ablation([3], [2], "parameters", "mean")]
    elif family in PRE:
        ablations += [Ablation([3], at="readers")]
    if family != "olmo2":
        ablations += [Ablation([3, 4], at="denominator"),
                      Ablation([3], at="denominator", mode="clip", value=0.1)]  # fmt: skip
    inputs = tiny_inputs(model, batch=2)
    inputs = {
        key: value.repeat(len(ablations), *[1] * (value.dim() - 1)) for key, value in inputs.items()
    }
    with ablate_each(model, ablations, found=found) as edited:
        together = logits(model, **inputs)
    assert len(edited) == len(ablations)
    for i, ablation in enumerate(ablations):
        rows = slice(2 * i, 2 * i + 2)
        with apply_ablation(model, ablation, found=found):
            alone = logits(model, **inputs)
        assert torch.equal(together[rows], alone[rows]), ablation
        assert ablation is None or not torch.equal(alone, logits(model, **inputs))


def test_blocks_within_a_context_and_within_blocks():
    model = kept("bert")
    inputs = {k: v.repeat(6, 1) for k, v in tiny_inputs(model, batch=1).items()}
    two = [None, Ablation([3], at="parameters")]
    three = [None, Ablation([4], at="parameters"), Ablation([5])]
    with ablate(model, [6], at="parameters"), ablate_each(model, two), ablate_each(model, three):
        together = logits(model, **inputs)
    for row in range(6):
        with (
            ablate(model, [6], at="parameters"),
            apply_ablation(model, two[row // 3]),
            apply_ablation(model, three[row // 2]),
        ):
            assert torch.equal(together[row], logits(model, **inputs)[row])


def test_a_batch_that_is_no_multiple():
    model = kept("bert")
    with (
        pytest.raises(DataError, match=r"a multiple of 2 sequences.*got a batch of 3; repeat"),
        ablate_each(model, [None, Ablation([3])]),
    ):
        logits(model)


@pytest.mark.parametrize("at", ["state", "parameters", "denominator"])
def test_contexts_nest(at):
    model = kept("bert")
    with ablate(model, [3, 17], at=at):
        expected = logits(model)
    with ablate(model, [3], at=at):
        once = logits(model)
        with ablate(model, [17], at=at):
            assert torch.equal(logits(model), expected)
        assert torch.equal(logits(model), once)


def test_the_inner_of_two_contexts_comes_first():
    model = kept("bert")
    for at in ("state", "parameters"):
        with ablate(model, 3, at=at, mode="clip", value=0.1):
            bounded = logits(model)
            with ablate(model, 3, at=at, mode="scale", value=1e6):
                assert not torch.equal(logits(model), bounded)
        with ablate(model, 3, at=at, mode="clip", value=0.1), ablate(
            model, 3, at=at, mode="scale", value=0.0
        ):  # fmt: skip
            nothing = logits(model)
        with ablate(model, 3, at=at):
            assert torch.equal(logits(model), nothing)


def test_none_is_the_model_as_it_is():
    model = headed("gpt2")
    with apply_ablation(model, None) as edited:
        assert torch.equal(logits(model), logits(headed("gpt2")))
    assert edited == Edited((), 0)
