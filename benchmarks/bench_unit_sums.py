"""Sums of unit vectors by block of documents: products of matrices of torch, outdim."""

from __future__ import annotations

import common
import torch
from outdim import ops
from outdim.bench.inputs import Inputs
from outdim.bench.timing import Case, Variant
from torch import Tensor

_SEGMENTS, _LEFT_OUT = 60, 3


def cases(inputs: Inputs, threads: int) -> list[Case]:
    hidden = inputs.hidden
    N, D = hidden.shape
    # Sequences of 128 tokens that stay together, as documents do.
    segment = (torch.arange(N, device=hidden.device) // 128) % _SEGMENTS
    order, starts = ops.segments(segment, _SEGMENTS)
    left_out = torch.arange(_LEFT_OUT, device=hidden.device)
    exact = ops.unit_sums(hidden, order, starts, left_out=left_out, backend="reference")

    def check(sums: Tensor) -> dict[str, float]:
        error = float((sums - exact).abs().max() / exact.abs().max())
        assert error <= 1e-4, f"the error of sums is {error:.1e}, expected at most 1e-4"
        return {"error": error}

    variants = [
        Variant(
            "outdim",
            lambda: ops.unit_sums(hidden, order, starts, left_out=left_out),
            check,
            role="ours",
        ),
        Variant("torch products", lambda: _products(hidden, segment, left_out), check),
    ]
    moved = hidden.element_size() * N * D + 8 * N + 32 * D * int((starts.diff() > 0).sum())
    return [Case("unit_sums", hidden, threads, moved, "read", variants, {})]


def _products(hidden: Tensor, segment: Tensor, left_out: Tensor) -> Tensor:
    """Unit vectors in float32, and which rows each segment has as a matrix."""
    rows = hidden.float()
    member = torch.nn.functional.one_hot(segment, _SEGMENTS).T.float()
    found = []
    for part in (rows, rows.index_fill(1, left_out, 0)):
        unit = torch.nn.functional.normalize(part, dim=1)
        found += [member @ unit, member @ unit.square()]
    return torch.stack(found, 1).double()


if __name__ == "__main__":
    common.run("unit_sums", common.options(__doc__), cases)
