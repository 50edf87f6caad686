"""Co-moments of |h| with what 12 heads give: all moments, a product of matrices, outdim."""

from __future__ import annotations

import common
import torch
from outdim import ops
from outdim.bench.inputs import Inputs
from outdim.bench.timing import Case, Variant
from torch import Tensor

_HEADS = 12


def cases(inputs: Inputs, threads: int) -> list[Case]:
    hidden = inputs.hidden
    N, D = hidden.shape
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(_HEADS, N, dtype=torch.float64, generator=generator).to(hidden.device) ** 8
    exact = _product(hidden, rows)
    size = exact.abs().amax(1, keepdim=True)

    def check(body: Tensor) -> dict[str, float]:
        error = float(((body - exact).abs() / size).max())
        assert error <= 1e-10, f"the error of co-moments is {error:.1e}, expected at most 1e-10"
        return {"error": error}

    def all_moments() -> Tensor:
        body = ops.moments(hidden, rows=rows, shape=False).body[0]
        return torch.cat([body[2:4], body[4 + _HEADS :]])

    variants = [
        Variant("outdim", lambda: ops.comoments(hidden, rows).body[0], check, role="ours"),
        Variant("outdim moments, without shape", all_moments, check),
        Variant("torch, float64 product", lambda: _product(hidden, rows), check),
    ]
    moved = hidden.element_size() * N * D + 8 * _HEADS * N
    return [Case("comoments", hidden, threads, moved, "read", variants, {"values": _HEADS})]


def _product(hidden: Tensor, rows: Tensor) -> Tensor:
    """Mean and M2 of |h|, and the co-moments, [2 + K, D]."""
    y = hidden.abs().double()
    mean = y.mean(0)
    y -= mean
    deviations = rows - rows.mean(1, keepdim=True)
    return torch.cat([mean[None], y.square().sum(0)[None], deviations @ y])


if __name__ == "__main__":
    common.run("comoments", common.options(__doc__), cases)
