"""The loss of predicted tokens as one number with a gradient, a part of the tokens at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from outdim.models.losses import Logits

_CELLS = 1 << 24  # logits at a time: 64 MB in float32, and as much again for their gradient


def loss_sum(
    logits: Logits, states: Tensor, targets: Tensor, vocab_size: int, *, cells: int = _CELLS
) -> Tensor:
    """The sum of -log p of the true tokens, float64 [], with its gradient at the states.

    Logits and their softmax are there for some tokens at a time, and once: the gradient is taken
    with the loss.

    Args:
        logits: `outdim.models.Predictor.logits`.
        states: [R, D].
        targets: The true tokens, int64 [R].
        vocab_size: V.
        cells: Logits at a time; a row at least.
    """
    apply: Any = _LossSum.apply
    total: Tensor = apply(states, logits, targets, vocab_size, cells)
    return total


class _LossSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, logits: Logits, targets: Tensor, vocab_size: int, cells: int
    ) -> Tensor:
        gradient = torch.empty_like(states)
        total = torch.zeros((), dtype=torch.float64, device=states.device)
        step = max(1, cells // vocab_size)
        for start in range(0, len(states), step):
            rows = slice(start, start + step)
            with torch.enable_grad():
                some = states[rows].detach().requires_grad_()
                every = logits(some, slice(0, vocab_size))
                loss = cross_entropy(every, targets[rows], reduction="sum")
            (gradient[rows],) = torch.autograd.grad(loss, some)
            total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer.to(gradient.dtype), None, None, None, None
