"""Histograms of |h| and shapes of tokens, which criteria take beside moments: torch and outdim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import common
import torch
from outdim import ops
from outdim.bench.inputs import Inputs
from outdim.bench.timing import Case, Variant
from outdim.ops.layout import MAGNITUDE_BINS, MAGNITUDE_FIRST, MAGNITUDE_SHIFT
from torch import Tensor


def cases(inputs: Inputs, threads: int) -> list[Case]:
    hidden = inputs.hidden
    N, D = hidden.shape
    fresh = ops.magnitude_counts_empty(1, D, hidden.device)
    room = torch.zeros(1, D, MAGNITUDE_BINS, dtype=torch.int64, device=hidden.device)
    exact = _bincount(hidden)

    def counts() -> Tensor:
        """As a batch of a stream is counted, but that the counts start anew."""
        ops.magnitude_counts_add(hidden, fresh)
        ops.magnitude_counts_move(fresh, room.zero_())
        return room[0]

    def check_counts(found: Tensor) -> dict[str, float]:
        assert torch.equal(found, exact), "the counts differ"
        return {}

    shape = _shape(hidden)

    def check_shape(found: Any) -> dict[str, float]:
        assert torch.equal(found[0], shape[0]), "the places differ"
        assert torch.equal(found[1], shape[1]), "the places differ"
        torch.testing.assert_close(found[2].double(), shape[2].double(), rtol=1e-4, atol=1e-4)
        return {}

    moved = hidden.element_size() * N * D

    def case(name: str, ours: Callable[[], Any], torchs: Callable[[], Any], check: Any) -> Case:
        variants = [
            Variant("outdim", ours, check, role="ours"),
            Variant("torch", torchs, check),
        ]
        return Case(name, hidden, threads, moved, "read", variants, {})

    return [
        case("magnitude_counts", counts, lambda: _bincount(hidden), check_counts),
        case("token_shape", lambda: ops.token_shape(hidden), lambda: _shape(hidden), check_shape),
    ]


def _bincount(hidden: Tensor) -> Tensor:
    D = hidden.shape[1]
    bins = (hidden.float().contiguous().view(torch.int32) & 0x7FFFFFFF) >> MAGNITUDE_SHIFT
    bins.sub_(MAGNITUDE_FIRST).clamp_(0, MAGNITUDE_BINS - 1)
    bins += torch.arange(D, dtype=torch.int32, device=bins.device) * MAGNITUDE_BINS
    return torch.bincount(bins.view(-1), minlength=D * MAGNITUDE_BINS).view(D, MAGNITUDE_BINS)


def _shape(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    D = hidden.shape[1]
    squares = hidden.float().square()
    fourth = torch.linalg.vecdot(squares, squares).double() / D
    kurtosis = fourth / (squares.sum(-1).double() / D).square() - 3
    return hidden.min(-1).indices, hidden.max(-1).indices, kurtosis


if __name__ == "__main__":
    common.run("magnitudes", common.options(__doc__), cases)
