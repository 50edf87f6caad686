"""LayerNorm and RMSNorm that zero two dimensions: torch's ways and ours."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from outdim.bench.inputs import Inputs, check_rows
from outdim.bench.timing import Case, InCache, Variant
from outdim.ops import Edit, layer_norm
from outdim.ops._calls import LayerNormCall, NormOfRows
from outdim.ops._dispatch import choose, kernels

_EPS = 1e-5
_SEQUENCE = 128  # rows that share a variant of the per-sequence edit
_EDITS = 8
_IN_CACHE_ELEMENTS = 2**20  # a call: an output of 8 MiB may be stored past the caches


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile for exactly these shapes; raises rather than fall back to eager."""
    torch.compiler.reset()  # it compiles a function for at most eight shapes
    return torch.compile(function, dynamic=False, fullgraph=True)


def norm_then_mask(x: Tensor, gamma: Tensor, beta: Tensor, keep: Tensor) -> Tensor:
    """The straightforward way to zero dimensions."""
    return functional.layer_norm(x, (x.shape[-1],), gamma, beta, _EPS) * keep


def rms_norm(x: Tensor, gamma: Tensor) -> Tensor:
    """RMSNorm of torch."""
    return functional.rms_norm(x, (x.shape[-1],), gamma, _EPS)


def moved_bytes(inputs: Inputs) -> int:
    """Read x, write y."""
    return 2 * inputs.x.numel() * inputs.x.element_size()


def norm_in_cache(inputs: Inputs, threads: int) -> tuple[InCache, ...]:
    """The kernel on one row, written over one row; on one core, for the cores would share these.

    Called until it has done as much as there is: the first microseconds of AVX-512 are slow.
    """
    if threads > 1 or inputs.x.is_cuda:
        return ()
    N, D = inputs.x.shape
    rows = min(N, max(1, _IN_CACHE_ELEMENTS // D))
    x, y = (row.expand(rows, D) for row in (inputs.x[:1], torch.empty_like(inputs.x[:1])))
    calls = N // rows
    # The launcher itself: the op refuses an output whose rows overlap, as it should.
    norm = NormOfRows(
        inputs.gamma, inputs.beta, _EPS, False, inputs.keep, None, None, None, None, False
    )
    call = LayerNormCall(norm, x, None, None, y)
    launcher = kernels(choose("auto", x))

    def run() -> None:
        for _ in range(calls):
            launcher.layer_norm(call, None, False)

    return (InCache(run, calls * x.numel()),)


def layer_norm_case(inputs: Inputs, threads: int, *, out: bool = True, edits: bool = True) -> Case:
    """LayerNorm with two dimensions zeroed."""
    x, gamma, beta, keep = inputs.x, inputs.gamma, inputs.beta, inputs.keep
    zeroed = gamma * keep, beta * keep
    check = partial(_check, inputs)
    run_compiled = compiled(norm_then_mask)
    variants = [
        Variant("torch, then mask", lambda: norm_then_mask(x, gamma, beta, keep), check),
        Variant(
            "torch, zeroed gamma and beta",
            lambda: functional.layer_norm(x, (x.shape[-1],), *zeroed, _EPS),
            check,
        ),
        Variant(
            "torch.compile, then mask",
            lambda: run_compiled(x, gamma, beta, keep),
            check,
            compiled=True,
        ),
        Variant(
            "outdim",
            lambda: layer_norm(x, gamma, beta, dim_mask=keep),
            check,
            role="ours",
            in_cache=norm_in_cache(inputs, threads),
        ),
    ]
    if out:
        y = torch.empty_like(x)
        variants.append(
            Variant("outdim, out=", lambda: layer_norm(x, gamma, beta, dim_mask=keep, out=y), check)
        )
    if edits:
        variants += _edit_variants(inputs, check)
    return _case("layer_norm", inputs, threads, variants)


def _edit_variants(inputs: Inputs, check: Callable[[Tensor], dict[str, float]]) -> list[Variant]:
    """Another edit for each sequence, as in eight ablations side by side in one batch."""
    x, gamma, beta = inputs.x, inputs.gamma, inputs.beta
    scale = inputs.keep.float().repeat(_EDITS, 1)
    shift = torch.zeros_like(scale)
    rows = torch.arange(len(x), device=x.device)
    variant = (rows // _SEQUENCE % _EDITS).to(torch.int32)
    edit = Edit(scale, shift, variant=variant)
    index = variant.long()
    tables = scale.to(x.dtype), shift.to(x.dtype)

    def by_torch() -> Tensor:
        y = functional.layer_norm(x, (x.shape[-1],), gamma, beta, _EPS)
        return torch.addcmul(tables[1][index], y, tables[0][index])

    return [
        Variant("torch, then edit per sequence", by_torch, check),
        Variant("outdim, edit per sequence", lambda: layer_norm(x, gamma, beta, edit=edit), check),
    ]


def rms_norm_case(inputs: Inputs, threads: int) -> Case:
    """RMSNorm with two dimensions zeroed."""
    x, gamma, keep = inputs.x, inputs.gamma, inputs.keep
    zeroed = gamma * keep
    check = partial(_check, inputs, rms=True)
    run_compiled = compiled(rms_norm)
    variants = [
        Variant("torch, zeroed gamma", lambda: rms_norm(x, zeroed), check),
        Variant(
            "torch.compile, zeroed gamma", lambda: run_compiled(x, zeroed), check, compiled=True
        ),
        Variant(
            "outdim", lambda: layer_norm(x, gamma, rms=True, dim_mask=keep), check, role="ours"
        ),
    ]
    return _case("rms_norm", inputs, threads, variants)


def _check(inputs: Inputs, y: Tensor, *, rms: bool = False) -> dict[str, float]:
    check_rows(y, inputs, rms=rms)
    return {}


def _case(op: str, inputs: Inputs, threads: int, variants: list[Variant]) -> Case:
    moved = moved_bytes(inputs)
    return Case(op, inputs.x, threads, moved, "copy", variants)
