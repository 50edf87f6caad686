"""How a model takes padding: whether it reaches the text, and what the model pads by itself."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from outdim.models.architecture import Architecture
from outdim.models.forward import Forward
from outdim.models.points import first_hidden, first_hidden_input
from outdim.models.trace import alone, dummy_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TEXT, _PADDING = 5, 4  # tokens of the probe
# Of the size of a typical value. Where only the ids of padding differ, rounding is (nearly, with
# experts) the same; against no padding at all other kernels round otherwise.
_SAME_SHAPE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-4, torch.bfloat16: 1e-3}
_OTHER_SHAPE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.3}


@dataclass(frozen=True)
class Padding:
    """What batches have to know of a model; see `outdim.tokens.batches`.

    Attributes:
        reaches_text: Whether padding behind a text changes the hidden states of the text, masked or
            not: only pieces of one length may then share a batch.
        multiple: The model pads inside to a multiple of this length, and its hidden states are then
            longer than its input: batches are to be padded so before. 1 where it does not.
    """

    reaches_text: bool
    multiple: int


def probe_padding(model: PreTrainedModel, architecture: Architecture, length: int) -> Padding:
    """Try how a model takes padding, on a few dummy tokens and on one sequence of ``length``.

    The model stays as it was.
    """
    multiple = _multiple(model, architecture, length)
    return Padding(padding_reaches_text(model, multiple), multiple)


def padding_reaches_text(
    model: PreTrainedModel, multiple: int = 1, side: Literal["left", "right"] = "right"
) -> bool:
    """Whether masked padding at one side of a text changes its hidden states.

    A text is run with padding of two kinds of ids, and without padding. FNet and the convolutions
    of ConvBERT have no mask; causal models never see what is behind a token. Padding at the left
    moves the text to later positions, which GPT-2 numbers from the padding on.
    """
    forward = Forward(model)
    ids = dummy_inputs(model)["input_ids"].reshape(1, -1)
    width = -(-(_TEXT + _PADDING) // multiple) * multiple
    text, other = ids[:, :_TEXT], ids[:, _TEXT : _TEXT + 1]
    start = width - _TEXT if side == "left" else 0
    mask = torch.zeros(1, width, dtype=torch.int64, device=ids.device)
    mask[:, start : start + _TEXT] = 1
    found = []
    with torch.no_grad(), alone(model):
        for padding in (torch.zeros_like(other), other):
            row = padding.repeat(1, width)
            row[:, start : start + _TEXT] = text
            found.append(_states(forward(row, mask), start))
        bare = _states(forward(text, torch.ones_like(text)), 0)
    dtype = found[0].dtype
    return _differ(found[0], found[1], _SAME_SHAPE[dtype]) or (
        bare.shape[1] == _TEXT and _differ(found[0], bare, _OTHER_SHAPE[dtype])
    )


def _states(output: object, start: int) -> Tensor:
    hidden = first_hidden(output)
    assert hidden is not None
    return hidden[:, start : start + _TEXT].detach()


def _differ(left: Tensor, right: Tensor, tolerance: float) -> bool:
    """Whether a token's typical value changes: outlier dimensions must not hide the others."""
    left, right = left.double(), right.double()
    change = (left - right).abs().median(-1).values
    size = left.abs().median(-1).values
    return bool((change > tolerance * size).any())


def _multiple(model: PreTrainedModel, architecture: Architecture, length: int) -> int:
    """The length to which a model pads sequences of up to ``length`` tokens inside, else 1."""
    forward = Forward(model)
    one = dummy_inputs(model)["input_ids"][:1, :1]
    with torch.no_grad(), alone(model):
        short, long = (
            _inner_length(model, architecture, forward, one.repeat(1, tokens))
            for tokens in (_TEXT, length - 1)
        )
    multiple = short if short > _TEXT else 1
    # BigBird pads only what is too long for full attention: then all is padded to the longest.
    return multiple if long % multiple == 0 and (multiple > 1 or long == length - 1) else long


def _inner_length(
    model: PreTrainedModel, architecture: Architecture, forward: Forward, ids: Tensor
) -> int:
    """How long the hidden states are that the first block takes."""
    point = architecture.points["embeddings"]
    lengths: list[int] = []

    def look(module: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        hidden = first_hidden_input(args, kwargs)
        if hidden is not None:
            lengths.append(hidden.shape[1 if point.batch_first else 0])

    with ExitStack() as stack:
        module = model.get_submodule(point.module)
        stack.callback(module.register_forward_pre_hook(look, with_kwargs=True).remove)
        forward(ids, torch.ones_like(ids))
    return lengths[0]
