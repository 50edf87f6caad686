"""What the ops of layer_norm take: validated, and with the outputs allocated."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.ops._calls import LayerNormCall, MomentsCall, NormOfRows
from outdim.ops._check import (
    FLOATS,
    KERNEL_FLOATS,
    as_rows,
    check_device,
    check_dtype,
    check_hidden,
    check_same,
    resolved,
    unexpected,
)
from outdim.ops._statistics import row_error


class NormArguments(NamedTuple):
    """What the ops take, in the order of their schema; see `outdim.ops.layer_norm`."""

    x: Any
    gamma: Any
    beta: Any
    eps: float
    rms: bool
    residual: Any
    return_sum: bool
    dim_mask: Any
    scale: Any
    shift: Any
    clip: Any
    variant: Any
    each: bool


def prepare_norm(out: Tensor | None, arguments: NormArguments) -> tuple[LayerNormCall, Tensor]:
    """Validate the arguments and allocate y; returns the call and y in the shape of x."""
    x, gamma, beta, eps, rms, residual, return_sum, dim_mask, *tables, each = arguments
    d, device = check_hidden("x", x)[-1], x.device
    if residual is not None:
        check_same("residual", residual, "x", x)
    gamma, beta = check_parameters(x, gamma, beta)
    if dim_mask is not None:
        dim_mask = _of_width("dim_mask", dim_mask, (torch.bool,), d, device)
    scale, shift, clip, variant = _edit(x, *tables)
    if each and (scale is None or variant is not None):
        raise ArgumentError("variant: expected None and tables with each=True, got otherwise")
    rows = as_rows(x)
    if out is not None:
        y = out
    elif each:
        y = x.new_empty(shape_of_y(arguments))
    else:
        y = _empty_like(x)
    call = LayerNormCall(
        NormOfRows(gamma, beta, eps, rms, dim_mask, scale, shift, clip, variant, each),
        rows,
        None if residual is None else as_rows(residual),
        torch.empty(rows.shape, dtype=x.dtype, device=x.device) if return_sum else None,
        as_rows(y) if out is None else _out_rows(out, arguments),
    )
    return call, y


def shape_of_y(arguments: NormArguments) -> tuple[int, ...]:
    shape: tuple[int, ...] = arguments.x.shape
    return (arguments.scale.shape[0], *shape) if arguments.each else shape


def _empty_like(x: Tensor) -> Tensor:
    # The keyword alone costs 0.4 us.
    if x.is_contiguous():
        return torch.empty_like(x)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def check_parameters(x: Tensor, gamma: Any, beta: Any) -> tuple[Tensor | None, Tensor | None]:
    """Check them against x (..., D); return them contiguous."""
    d, device = x.shape[-1], x.device
    # The kernels hold parameters of at most their own float32.
    dtypes = FLOATS if x.dtype == torch.float64 else KERNEL_FLOATS
    if gamma is not None:
        gamma = _of_width("gamma", gamma, dtypes, d, device)
    if beta is not None:
        beta = _of_width("beta", beta, dtypes, d, device)
        if gamma is not None:
            check_dtype("beta", beta, "gamma", gamma.dtype)
    return gamma, beta


def _of_width(
    name: str, value: Any, dtypes: tuple[torch.dtype, ...], d: int, device: torch.device
) -> Tensor:
    """Check for a tensor [D] of one of the dtypes on the device of x; return it contiguous."""
    if not isinstance(value, Tensor) or value.dtype not in dtypes or value.shape != (d,):
        raise unexpected(name, value, dtypes, f"({d},)")
    check_device(name, value, "x", device)
    return resolved(value).contiguous()


def _edit(x: Tensor, scale: Any, shift: Any, clip: Any, variant: Any) -> tuple[Any, ...]:
    """Check the tables of an edit, all of one shape (M, D), and spread `variant` over the rows."""
    if scale is None:
        given = {"shift": shift, "clip": clip, "variant": variant}
        if extra := [name for name, value in given.items() if value is not None]:
            raise ArgumentError(f"scale: expected a table, since {', '.join(extra)} came; got None")
        return None, None, None, None
    d = x.shape[-1]
    if (
        not isinstance(scale, Tensor)
        or scale.dtype != torch.float32
        or scale.dim() != 2
        or scale.shape[1] != d
        or not scale.shape[0]
    ):
        raise unexpected("scale", scale, (torch.float32,), f"(M >= 1, {d})")
    check_device("scale", scale, "x", x.device)
    check_same("shift", shift, "scale", scale)
    if clip is not None:
        check_same("clip", clip, "scale", scale)
        clip = resolved(clip).contiguous()
    rows = variant_rows(variant, x)
    return resolved(scale).contiguous(), resolved(shift).contiguous(), clip, rows


def variant_rows(variant: Any, x: Tensor) -> Tensor | None:
    """Spread a variant over the rows of x."""
    if variant is None:
        return None
    if not isinstance(variant, Tensor) or variant.dtype != torch.int32:
        raise unexpected("variant", variant, (torch.int32,), "one per row,")
    check_device("variant", variant, "x", x.device)
    spread: Tensor = variant
    batch = x.shape[:-1]
    n = batch.numel()
    if spread.shape != (n,):
        try:
            spread = spread.expand(batch)
        except RuntimeError as error:
            raise ArgumentError(
                f"variant: expected ({n},) or a shape that broadcasts to {tuple(batch)}, got "
                f"{tuple(variant.shape)}; one variant per sequence is (batch, 1)"
            ) from error
    return spread.reshape(n).contiguous()


def _out_rows(out: Any, arguments: NormArguments) -> Tensor:
    """View `out` as rows, without a copy."""
    shape = shape_of_y(arguments)
    check_same("out", out, "x", arguments.x, shape)
    rows = as_rows(out)
    (n, d), step = rows.shape, rows.stride(0)
    copied = rows.numel() > 0 and rows.data_ptr() != out.data_ptr()
    if copied or out.requires_grad or (n > 1 and step < d) or (d > 1 and rows.stride(1) != 1):
        raise ArgumentError(
            f"out: expected rows of one stride with contiguous columns, apart in memory, and no "
            f"gradient, got strides {out.stride()}; pass a contiguous tensor"
        )
    for name, other in zip(arguments._fields, arguments, strict=True):
        if isinstance(other, Tensor) and _overlap(out, other):
            raise ArgumentError(f"out: expected memory of its own, got some of {name}'s")
    return rows


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether the ranges of addresses of two tensors intersect."""
    if not a.numel() or not b.numel():
        return False
    (a_low, a_high), (b_low, b_high) = (
        (
            t.data_ptr(),
            t.data_ptr()
            + t.element_size()
            * (1 + sum((size - 1) * step for size, step in zip(t.shape, t.stride(), strict=True))),
        )
        for t in (a, b)
    )
    return a_low < b_high and b_low < a_high


def norm_row_error(call: LayerNormCall, stats: MomentsCall | None) -> ArgumentError:
    """Describe the first row whose variant the tables, or whose id the covariates do not have."""
    scale, variant = call.norm.scale, call.norm.variant
    if scale is not None and variant is not None:
        variants = scale.shape[0]
        wrong = ((variant < 0) | (variant >= variants)).nonzero()
        if len(wrong):
            row = int(wrong[0])
            return ArgumentError(
                f"variant: expected values in [0, {variants}), the rows of `scale`, got "
                f"{int(variant[row])} in row {row}"
            )
    assert stats is not None
    return row_error(stats.given)
