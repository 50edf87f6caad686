"""The registered ops outdim::layer_norm and outdim::layer_norm_moments, and their gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from outdim.errors import ArgumentError, DtypeError
from outdim.ops import _reference
from outdim.ops._calls import LayerNormCall, MomentsCall
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
from outdim.ops._dispatch import choose, kernels, transformed
from outdim.ops._library import register, register_gradient
from outdim.ops._statistics import prepare, row_error

_ARGUMENTS = (
    "Tensor x, Tensor? gamma, Tensor? beta, float eps, bool rms, Tensor? residual, "
    "bool return_sum, Tensor? dim_mask, Tensor? scale, Tensor? shift, Tensor? clip, "
    "Tensor? variant, bool each"
)
_STATISTICS = (
    "Tensor? ids, Tensor? table, Tensor? rows, Tensor? group, int groups, float tau, bool exact, "
    "bool shape, Tensor? before_head, Tensor? before_body, bool of_input"
)


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


_COUNT = len(NormArguments._fields)


def needs_gradient(arguments: NormArguments) -> bool:
    """Whether autograd must see the call."""
    return torch.is_grad_enabled() and any(
        isinstance(value, Tensor) and value.requires_grad for value in arguments
    )


def run(
    arguments: NormArguments, backend: str, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Validate, allocate, launch; the second result is the sum where it is wanted."""
    call, y = _prepare(out, arguments)
    try:
        kernels(choose(backend, call.x)).layer_norm(call, None, False)
    except IndexError as error:
        raise _row_error(call, None) from error
    return y, None if call.sum is None else call.sum.view(arguments.x.shape)


def _run(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Do the same as the registered op, with an empty tensor for a sum that is not wanted."""
    y, s = run(NormArguments(*arguments[:-1]), arguments[-1])
    return y, y.new_empty(0) if s is None else s


def run_composed(arguments: NormArguments) -> tuple[Tensor, Tensor | None]:
    """Compute layer_norm from torch's own ops, which every transform of torch.func knows."""
    call, _ = _prepare(None, arguments)
    s = call.x if call.residual is None else call.x + call.residual
    z, _, _ = _reference.normalise(s, call.gamma, call.beta, call.eps, call.rms, call.dim_mask)
    y = _reference.edited(call, z).to(s.dtype).view(_shape_of_y(arguments))
    return y, s.view(arguments.x.shape) if arguments.return_sum else None


def run_moments(
    arguments: NormArguments,
    statistics: Callable[[Tensor], MomentsCall],
    of_input: bool,
    backend: str,
) -> tuple[Tensor, Tensor | None, MomentsCall]:
    """Validate, allocate, launch the fused kernel; `statistics` does so for the rows of x."""
    if arguments.each:
        raise ArgumentError(
            "edit: expected one variant a row for statistics, got each=True; take the moments of "
            "each variant's rows with `moments`"
        )
    call, y = _prepare(None, arguments)
    stats = statistics(call.x)
    try:
        kernels(choose(backend, call.x)).layer_norm(call, stats, of_input)
    except IndexError as error:
        raise _row_error(call, stats) from error
    return y, None if call.sum is None else call.sum.view(arguments.x.shape), stats


def _run_moments(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do the same as the registered op, with an empty tensor for a sum that is not wanted."""
    *statistics, of_input, backend = arguments[_COUNT:]
    norm = NormArguments(*arguments[:_COUNT])
    y, s, stats = run_moments(
        norm, lambda rows: prepare(rows, None, *statistics), of_input, backend
    )
    return y, y.new_empty(0) if s is None else s, stats.head, stats.body


def run_pair(
    arguments: NormArguments, statistics: tuple[Any, ...], of_input: bool, backend: str
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Run layer_norm with its gradient, then moments of what it stored."""
    # The sum is needed wherever there is one.
    arguments = arguments._replace(return_sum=arguments.residual is not None)
    if transformed():
        y, s = run_composed(arguments)
    else:
        y, s = torch.ops.outdim.layer_norm(*arguments, backend)
    observed: Any = y if not of_input else s if arguments.return_sum else arguments.x
    head, body = torch.ops.outdim.moments(observed.detach(), *statistics, backend)
    return y, s, head, body


def _sum_of(call: LayerNormCall, x: Tensor) -> Tensor:
    return call.y.new_empty(0) if call.sum is None else call.sum.view(x.shape)


def _prepare(out: Tensor | None, arguments: NormArguments) -> tuple[LayerNormCall, Tensor]:
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
        y = x.new_empty(_shape_of_y(arguments))
    else:
        y = _empty_like(x)
    call = LayerNormCall(
        rows,
        gamma,
        beta,
        eps,
        rms,
        None if residual is None else as_rows(residual),
        dim_mask,
        scale,
        shift,
        clip,
        variant,
        each,
        torch.empty(rows.shape, dtype=x.dtype, device=x.device) if return_sum else None,
        as_rows(y) if out is None else _out_rows(out, arguments),
    )
    return call, y


def _shape_of_y(arguments: NormArguments) -> tuple[int, ...]:
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
    rows = _variant_rows(variant, x)
    return resolved(scale).contiguous(), resolved(shift).contiguous(), clip, rows


def _row_error(call: LayerNormCall, stats: MomentsCall | None) -> ArgumentError:
    """Describe the first row whose variant the tables, or whose id the covariates do not have."""
    if call.scale is not None and call.variant is not None:
        variants = call.scale.shape[0]
        wrong = ((call.variant < 0) | (call.variant >= variants)).nonzero()
        if len(wrong):
            row = int(wrong[0])
            return ArgumentError(
                f"variant: expected values in [0, {variants}), the rows of `scale`, got "
                f"{int(call.variant[row])} in row {row}"
            )
    assert stats is not None
    return row_error(stats)


def _variant_rows(variant: Any, x: Tensor) -> Tensor | None:
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
    shape = _shape_of_y(arguments)
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


def _fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    call, y = _prepare(None, NormArguments(*arguments[:-1]))
    return y, _sum_of(call, arguments[0])


def _fake_moments(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    call, y = _prepare(None, NormArguments(*arguments[:_COUNT]))
    stats = prepare(call.x, None, *arguments[_COUNT:-2])
    return y, _sum_of(call, arguments[0]), stats.head, stats.body


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    norm = NormArguments(*inputs[:-1])
    for name in ("scale", "shift", "clip"):
        table = getattr(norm, name)
        if table is not None and table.requires_grad:
            raise DtypeError(
                f"edit.{name}: expected a table without gradient, got one that requires it; "
                "gradients are taken in x, residual, gamma and beta only, so detach it"
            )
    ctx.save_for_backward(
        norm.x, norm.gamma, norm.beta, norm.residual, norm.dim_mask, norm.scale, norm.clip,
        norm.variant,
    )  # fmt: skip
    ctx.eps, ctx.rms, ctx.each = norm.eps, norm.rms, norm.each
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, grad_sum: Tensor | None) -> tuple[Any, ...]:
    """Gradients in x, gamma, beta and residual, in plain torch, hence differentiable again.

    With g = grad_z * gamma (masked) and averages over D, LayerNorm has
    grad_s = (g - mean g - xhat * mean(g * xhat)) / std; RMSNorm lacks the second term.
    """
    x, gamma, beta, residual, dim_mask, scale, clip, variant = ctx.saved_tensors
    grad_gamma = grad_beta = None

    def grads(grad_s: Tensor | None) -> tuple[Any, ...]:
        """Order the gradients as the op's arguments are; the last is the backend."""
        none = NormArguments(*[None] * _COUNT)  # type: ignore[arg-type]
        norm = none._replace(x=grad_s, gamma=grad_gamma, beta=grad_beta)
        return (*norm._replace(residual=None if residual is None else grad_s), None)

    if grad_y is None:
        return grads(grad_sum)
    s = x if residual is None else x + residual
    z, xhat, inverse_std = _reference.normalise(s, gamma, beta, ctx.eps, ctx.rms, dim_mask)
    g = grad_y.to(z.dtype)
    if ctx.each:
        every, index = _reference.every_variant(z.reshape(-1, z.shape[-1]), len(scale))
        g = _edit_backward(g.reshape(every.shape), every, scale, clip, index)
        g = g.view(len(scale), *z.shape).sum(0)
    elif scale is not None:
        g = _edit_backward(g, z, scale, clip, _variant_rows(variant, x))
    rows = tuple(range(g.dim() - 1))
    mask = None if dim_mask is None else dim_mask.to(g.dtype)
    gm = g if mask is None else g * mask
    if gamma is not None:
        grad_gamma = (gm * xhat).sum(rows).to(gamma.dtype)
        gm = gm * gamma.to(g.dtype)
    if beta is not None:
        grad_beta = (g if mask is None else g * mask).sum(rows).to(beta.dtype)
    h = gm - xhat * (gm * xhat).mean(-1, keepdim=True)
    if not ctx.rms:
        h = h - gm.mean(-1, keepdim=True)
    grad_s = (h * inverse_std).to(x.dtype)
    if grad_sum is not None:
        grad_s = grad_s + grad_sum
    return grads(grad_s)


def _edit_backward(
    g: Tensor, z: Tensor, scale: Tensor, clip: Tensor | None, variant: Tensor | None
) -> Tensor:
    """Take the gradient back through the edit: zero where clamped and where scale is zero."""
    shape = z.shape if variant is not None else (1,) * (z.dim() - 1) + z.shape[-1:]
    factor = _reference.edit_rows(scale, variant, z.dtype).view(shape)
    g = torch.where(factor == 0, 0, g * factor)
    if clip is not None:
        g = g * (z.abs() <= _reference.edit_rows(clip, variant, z.dtype).view(shape))
    return g


register(f"layer_norm({_ARGUMENTS}, str backend) -> (Tensor, Tensor)", _run, _fake)
register_gradient("layer_norm", _setup_context, _backward)
register(
    f"layer_norm_moments({_ARGUMENTS}, {_STATISTICS}, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _run_moments,
    _fake_moments,
)
