"""Largest |h| of each sequence, and mean and squares of each row: reductions of torch, outdim."""

from __future__ import annotations

import common
import torch
from outdim import ops
from outdim.bench.inputs import Inputs
from outdim.bench.timing import Case, Variant
from torch import Tensor

_LENGTH = 128


def cases(inputs: Inputs, threads: int) -> list[Case]:
    hidden = inputs.hidden
    N, D = hidden.shape
    sequences = N // _LENGTH
    rows = torch.arange(N, device=hidden.device)
    order, starts = ops.segments(rows // _LENGTH, sequences)
    whole = hidden[: sequences * _LENGTH].view(sequences, _LENGTH, D)
    exact = ops.sizes(hidden, order, starts, squares="layer_norm", backend="reference")

    def largest(found: Tensor) -> dict[str, float]:
        assert torch.equal(found.float(), exact.largest), "the largest are exact"
        return {}

    def squares(found: Tensor) -> dict[str, float]:
        error = float((found / exact.squares[: len(found), 1] - 1).abs().max())
        assert error <= 1e-3, f"the error of squares is {error:.1e}, expected at most 1e-3"
        return {"error": error}

    def ours() -> Tensor:
        found = ops.sizes(hidden, order, starts, largest=False, squares="layer_norm").squares
        return found[: len(whole) * _LENGTH, 1]

    moved = hidden.element_size() * N * D
    return [
        Case("sizes, largest", hidden, threads, moved, "read", [
            Variant("outdim", lambda: ops.sizes(hidden, order, starts).largest, largest,
                    role="ours"),
            Variant("torch amax, amin", lambda: torch.maximum(whole.amax(1), -whole.amin(1)),
                    largest),
        ], {}),
        Case("sizes, squares", hidden, threads, moved, "read", [
            Variant("outdim", ours, squares, role="ours"),
            Variant("torch mean, vector_norm", lambda: _squares(whole), squares),
        ], {}),
    ]  # fmt: skip


def _squares(whole: Tensor) -> Tensor:
    rows = whole.flatten(0, 1).float()
    return torch.linalg.vector_norm(rows - rows.mean(-1, keepdim=True), dim=-1).square()


if __name__ == "__main__":
    common.run("sizes", common.options(__doc__), cases)
