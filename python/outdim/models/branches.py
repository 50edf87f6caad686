"""Branches of a block: what its attention and its feed-forward part add to the hidden state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from outdim.models.trace import Call, same


class Branches(NamedTuple):
    """The calls whose outputs are added to the hidden state in a block; None where not found.

    Attributes:
        attention: What gives the first of the two.
        mlp: What gives the second.
        taker: What first takes the hidden state with the attention added; None where both are added
            at once.
    """

    attention: Call | None = None
    mlp: Call | None = None
    taker: Call | None = None


def find_branches(block: Call, end: Tensor | None, calls: Sequence[Call]) -> Branches:
    """Find the branches of a block by what adds up, to the bit.

    The attention is the outermost module of that name whose output, added to what the block takes,
    is what a later module takes. The feed-forward branch is the outermost call behind it whose
    output, added to that sum or to the norm of it, is where the block ends. In parallel blocks
    (GPT-NeoX) both are added to what the block takes.

    Args:
        block: The call of the block.
        end: Where its last sum is: its output, or what the norm that ends it takes.
        calls: Those of the forward.
    """
    hidden = block.source
    if hidden is None or end is None:
        return Branches()
    inside = [call for call in calls if block.holds(call)]
    attention, taker = _attention(hidden, inside)
    if attention is None or taker is None:
        return Branches(*_parallel(hidden, end, inside))
    # What stands behind it: the sum itself or, in post-LN blocks, what a norm makes of it.
    states = [taker.source, taker.output]
    mlp = (
        call
        for call in inside
        if call.start > attention.stop and any(same(_sum(state, call), end) for state in states)
    )
    return Branches(attention, next(mlp, None), taker)


def _attention(hidden: Tensor, inside: Sequence[Call]) -> tuple[Call | None, Call | None]:
    """The attention, and what takes the hidden state with it added."""
    for call in _named_attention(inside):
        total = _sum(hidden, call)
        takers = (c for c in inside if call.stop < c.start and same(total, c.source))
        if (taker := next(takers, None)) is not None:
            return call, taker
    return None, None


def _parallel(
    hidden: Tensor, end: Tensor, inside: Sequence[Call]
) -> tuple[Call | None, Call | None]:
    """Two calls whose outputs are added to the hidden state together, in any order."""
    for first in _named_attention(inside):
        for second in inside:
            if first.holds(second) or second.holds(first) or first is second:
                continue
            orders = ((first, second, hidden), (first, hidden, second), (second, hidden, first))
            if any(same(_sum(_sum(a, b), c), end) for a, b, c in orders):
                return first, second
    return None, None


def _named_attention(inside: Sequence[Call]) -> Iterator[Call]:
    return (c for c in inside if "att" in f"{c.path}{type(c.module).__name__}".lower())


def _sum(left: Tensor | Call | None, right: Tensor | Call | None) -> Tensor | None:
    left, right = (part.output if isinstance(part, Call) else part for part in (left, right))
    if left is None or right is None or left.numel() != right.numel():
        return None
    return left + right.reshape(left.shape)
