"""Pearson's r of h and |h| of every dimension with token frequency: alone, and out of a LayerNorm.

Every variant ends with r, [2, D] float64. What torch is given to do is what its users write: sums
of h, h^2, |h|, f h and f |h| over the rows, with f centered.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from outdim.bench.inputs import VOCABULARY, Inputs, check_r, check_rows
from outdim.bench.layer_norm import compiled, moved_bytes, norm_in_cache, norm_then_mask
from outdim.bench.timing import Case, InCache, Variant
from outdim.ops import MomentsState, StatisticsArgs, layer_norm, layer_norm_moments, moments

Sums = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Accumulate = Literal["exact", "fast"]

_EXACT = 1e-12
_FAST = 1e-6  # a few thousand rows; 5e-9 from 10^4 on
_FLOAT32 = 1e-3


def sums(hidden: Tensor, f: Tensor) -> Sums:
    """Sums over the rows, in the dtype of f."""
    h = hidden.to(f.dtype)
    a = h.abs()
    f = f[:, None]
    return h.sum(0), (h * h).sum(0), a.sum(0), (f * h).sum(0), (f * a).sum(0)


def gemm_sums(hidden: Tensor, f: Tensor) -> Sums:
    """The same by matrix products, [2, N] @ [N, D]."""
    h = hidden.to(f.dtype)
    a = h.abs()
    left = torch.stack([torch.ones_like(f), f])
    (h_sum, fh), (a_sum, fa) = left @ h, left @ a
    return h_sum, (h * h).sum(0), a_sum, fh, fa


def norm_and_sums(x: Tensor, gamma: Tensor, beta: Tensor, keep: Tensor, f: Tensor) -> Any:
    """LayerNorm with zeroed dimensions, and the sums of its output."""
    y = norm_then_mask(x, gamma, beta, keep)
    return y, sums(y, f)


def r_of_sums(n: int, found: Sums, f: Tensor) -> Tensor:
    """Pearson's r from sums with centered f."""
    h, hh, a, fh, fa = (tensor.double() for tensor in found)
    f = f.double()
    ff = f.dot(f)
    m2 = torch.stack([hh - h * h / n, hh - a * a / n])
    return torch.stack([fh, fa]) / (ff * m2).sqrt()


def r_of_state(state: MomentsState) -> Tensor:
    """Pearson's r with the first covariate in the first group."""
    head, body = state.head[0], state.body[0]
    k = (len(head) - 1) // 2
    r: Tensor = body[[4, 4 + k]] / (head[1 + k] * body[[1, 3]]).sqrt()
    return r


def arguments(inputs: Inputs, accum: Accumulate) -> StatisticsArgs:
    """One covariate and no shape statistics: the work of the rivals."""
    return StatisticsArgs(ids=inputs.ids, table=inputs.table, accum=accum, shape=False)


def moments_in_cache(inputs: Inputs, threads: int, accum: Accumulate) -> tuple[InCache, ...]:
    """The kernel on one row, as often as there are rows."""
    if threads > 1 or inputs.hidden.is_cuda:
        return ()
    row = inputs.hidden[:1].expand(inputs.hidden.shape)
    given = vars(arguments(inputs, accum))
    return (InCache(lambda: moments(row, **given), row.numel()),)


def moments_case(inputs: Inputs, threads: int) -> Case:
    """Pearson's r of hidden states that lie in memory."""
    hidden, n = inputs.hidden, len(inputs.hidden)
    run_compiled = compiled(sums)

    def variant(name: str, run: Callable[[], Tensor], tolerance: float, **kinds: Any) -> Variant:
        return Variant(
            name, run, lambda r: check_r(r, hidden, inputs, tolerance=tolerance), **kinds
        )

    def by_sums(function: Callable[[Tensor, Tensor], Sums], dtype: torch.dtype) -> Tensor:
        f = centered(inputs, dtype)
        return r_of_sums(n, function(hidden, f), f)

    def ours(accum: Accumulate) -> Tensor:
        return r_of_state(moments(hidden, **vars(arguments(inputs, accum))))

    def parts(accum: Accumulate) -> tuple[InCache, ...]:
        return moments_in_cache(inputs, threads, accum)

    f64, f32 = torch.float64, torch.float32
    variants = [
        variant("torch float64 sums", partial(by_sums, sums, f64), _EXACT * 10),
        variant("torch float64 gemm", partial(by_sums, gemm_sums, f64), _EXACT * 10),
        variant("torch float32 sums", partial(by_sums, sums, f32), _FLOAT32),
        variant("torch float32 gemm", partial(by_sums, gemm_sums, f32), _FLOAT32),
        variant(
            "torch.compile float32 sums",
            partial(by_sums, run_compiled, f32),
            _FLOAT32,
            compiled=True,
        ),
        variant(
            "outdim exact", partial(ours, "exact"), _EXACT, role="ours", in_cache=parts("exact")
        ),
        *(
            [variant("outdim fast", partial(ours, "fast"), _FAST, in_cache=parts("fast"))]
            if hidden.is_cuda  # another than exact there alone
            else []
        ),
    ]
    moved = hidden.numel() * hidden.element_size() + _covariate_bytes(inputs)
    return Case("moments", hidden, threads, moved, "read", variants)


def fused_case(inputs: Inputs, threads: int) -> Case:
    """LayerNorm with zeroed dimensions, and r of its output."""
    x, gamma, beta, keep = inputs.x, inputs.gamma, inputs.beta, inputs.keep
    norm = x, gamma, beta, keep
    zeroed = gamma * keep, beta * keep
    run_compiled = compiled(norm_and_sums)

    def variant(name: str, run: Callable[[], Any], tolerance: float, **kinds: Any) -> Variant:
        return Variant(name, run, partial(_check_pair, inputs, tolerance), **kinds)

    def eager(function: Callable[[Tensor, Tensor], Sums], dtype: torch.dtype) -> Any:
        y = norm_then_mask(*norm)
        f = centered(inputs, dtype)
        return y, r_of_sums(len(y), function(y, f), f)

    def by_compile() -> Any:
        f = centered(inputs, torch.float32)
        y, found = run_compiled(*norm, f)
        return y, r_of_sums(len(y), found, f)

    def ours(accum: Accumulate) -> Any:
        statistics = arguments(inputs, accum)
        y, _, state = layer_norm_moments(x, gamma, beta, dim_mask=keep, statistics=statistics)
        return y, r_of_state(state)

    def apart(accum: Accumulate) -> Any:
        y = layer_norm(x, gamma, beta, dim_mask=keep)
        return y, r_of_state(moments(y, **vars(arguments(inputs, accum))))

    def parts(accum: Accumulate) -> tuple[InCache, ...]:
        return norm_in_cache(inputs, threads) + moments_in_cache(inputs, threads, accum)

    variants = [
        variant("torch, then float64 sums", partial(eager, sums, torch.float64), _EXACT * 10),
        variant("torch, then float32 gemm", partial(eager, gemm_sums, torch.float32), _FLOAT32),
        variant("torch.compile of the whole, float32", by_compile, _FLOAT32, compiled=True),
        variant(
            "outdim exact", partial(ours, "exact"), _EXACT, role="ours", in_cache=parts("exact")
        ),
        *(
            [variant("outdim fast", partial(ours, "fast"), _FAST, in_cache=parts("fast"))]
            if x.is_cuda
            else []
        ),
        variant("outdim exact, two calls", partial(apart, "exact"), _EXACT),
        Variant(
            "torch LayerNorm alone, zeroed gamma and beta",
            lambda: functional.layer_norm(x, (x.shape[-1],), *zeroed, 1e-5),
            lambda y: _check_norm(inputs, y),
        ),
        Variant(
            "outdim LayerNorm alone",
            lambda: layer_norm(x, gamma, beta, dim_mask=keep),
            lambda y: _check_norm(inputs, y),
        ),
    ]
    moved = moved_bytes(inputs) + _covariate_bytes(inputs)
    return Case("layer_norm_moments", x, threads, moved, "copy", variants)


def centered(inputs: Inputs, dtype: torch.dtype) -> Tensor:
    """The covariate of each row minus its mean."""
    f = inputs.frequency
    return (f - f.mean()).to(dtype)


def _check_pair(inputs: Inputs, tolerance: float, pair: tuple[Tensor, Tensor]) -> dict[str, float]:
    """The y of a variant against float64, its r against that of its own y."""
    y, r = pair
    check_rows(y, inputs)
    return check_r(r, y, inputs, tolerance)


def _check_norm(inputs: Inputs, y: Tensor) -> dict[str, float]:
    check_rows(y, inputs)
    return {}


def _covariate_bytes(inputs: Inputs) -> int:
    return inputs.ids.numel() * 8 + VOCABULARY * 8
