"""The case that `outdim correlate` has: BERT's residual and LayerNorm, and everything it takes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from outdim.bench.inputs import Inputs
from outdim.bench.layer_norm import norm_in_cache
from outdim.bench.timing import Case, InCache, Variant
from outdim.ops import MomentsState, StatisticsArgs, layer_norm, layer_norm_moments, moments
from outdim.ops.layout import BodyRow, comoment_row, covariates_of

_EPS = 1e-5
_SPECIAL_EVERY = 64  # 1.6 % of the rows: [CLS] and [SEP] of sequences of 128
_EXACT = 1e-12
_FLOAT64 = 1e-9  # of sums without a shift


def everything(inputs: Inputs) -> StatisticsArgs:
    """Four covariates a row, shape, three groups (the last without a row), a state before.

    The covariates are given by row, as an accumulator of many points looks them up: once a batch.
    """
    n, device = len(inputs.ids), inputs.ids.device
    f = inputs.frequency
    position = (torch.arange(n, device=device) % (2 * _SPECIAL_EVERY)).double()
    rows = torch.stack([f, f.expm1(), f.expm1().sqrt(), position])
    group = torch.ones(n, dtype=torch.uint8, device=device)
    group[::_SPECIAL_EVERY] = 2
    args = StatisticsArgs(rows=rows, group=group, groups=3)
    before = moments(inputs.hidden, **vars(args))
    out = MomentsState(*(part.clone() for part in before))
    return StatisticsArgs(rows=rows, group=group, groups=3, before=before, out=out)


def correlate_case(inputs: Inputs, threads: int) -> Case:
    """Residual, LayerNorm and all statistics of its output."""
    x, residual, gamma, beta = inputs.x, inputs.hidden, inputs.gamma, inputs.beta
    wanted = everything(inputs)
    fresh = replace(wanted, before=None, out=None)
    text = (wanted.group == 1).nonzero().squeeze(1)

    def ours() -> Any:
        y, _, state = layer_norm_moments(x, gamma, beta, _EPS, residual=residual, statistics=wanted)
        return y, state

    def apart() -> Any:
        y = layer_norm(x, gamma, beta, _EPS, residual=residual)
        return y, moments(y, **vars(wanted))

    def torch_norm() -> Tensor:
        return functional.layer_norm(x + residual, (x.shape[-1],), gamma, beta, _EPS)

    def by_torch() -> Any:
        """What users write: float64 sums of h and |h|, four covariates, no special rows."""
        y = torch_norm()
        h = y[text].double()
        f = wanted.rows[:, text]
        f = f - f.mean(1, keepdim=True)
        a = h.abs()
        return y, (h.sum(0), (h * h).sum(0), a.sum(0), f @ h, f @ a, (f * f).sum(1), len(text))

    def check_state(tolerance: float, result: Any) -> dict[str, float]:
        y, state = result
        return _check(y, state, replace(wanted, out=None), tolerance)

    def check_sums(result: Any) -> dict[str, float]:
        y, (h, hh, _, fh, _, ff, n) = result
        r = fh / (ff[:, None] * (hh - h * h / n)).sqrt()
        want = _r(moments(y, **vars(fresh), backend="reference"))
        return {"error_r": _differs(r, want, _FLOAT64 * 1e4)}

    variants = [
        Variant("torch, then float64 sums (no shape)", by_torch, check_sums),
        Variant("torch, residual and LayerNorm alone", torch_norm, lambda _: {}),
        Variant(
            "outdim, residual and LayerNorm alone",
            lambda: layer_norm(x, gamma, beta, _EPS, residual=residual),
            lambda _: {},
        ),
        Variant(
            "outdim", ours, partial(check_state, _EXACT), role="ours",
            in_cache=_in_cache(inputs, threads, wanted),
        ),
        Variant("outdim, two calls", apart, partial(check_state, _EXACT)),
        Variant(
            "outdim, moments alone", lambda: moments(residual, **vars(wanted)), lambda _: {}
        ),
    ]  # fmt: skip
    # x and the residual read, y written, a covariate 8 bytes a row.
    moved = 3 * x.numel() * x.element_size() + wanted.rows.numel() * 8 + len(x)
    return Case("as in correlate", x, threads, moved, "copy", variants)


def _in_cache(inputs: Inputs, threads: int, wanted: StatisticsArgs) -> tuple[InCache, ...]:
    """LayerNorm on one row, and the statistics of one row as often as there are rows."""
    if threads > 1 or inputs.x.is_cuda:
        return ()
    row = inputs.hidden[:1].expand(inputs.hidden.shape)
    return (
        *norm_in_cache(inputs, threads),
        InCache(lambda: moments(row, **vars(wanted)), row.numel()),
    )


def _check(
    y: Tensor, state: MomentsState, args: StatisticsArgs, tolerance: float
) -> dict[str, float]:
    want = moments(y, **vars(args), backend="reference")
    return {"error_r": _differs(_r(state), _r(want), tolerance)}


def _r(state: MomentsState) -> Tensor:
    """Pearson's r of h with each covariate in the first group, [K, D]."""
    head, body = state.head[0], state.body[0]
    k = covariates_of(len(head))
    first = comoment_row(k, 0)
    squares = head[1 + k :, None] * body[BodyRow.M2]
    r: Tensor = body[first : first + k] / squares.sqrt()
    return r


def _differs(r: Tensor, want: Tensor, tolerance: float) -> float:
    worst = float((r - want).abs().nan_to_num(0).max())
    assert worst <= tolerance, f"r differs by {worst:.1e}, expected at most {tolerance:.0e}"
    return worst
