"""The registered ops outdim::layer_norm and outdim::layer_norm_moments, and their gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from outdim.errors import ArgumentError, DtypeError
from outdim.ops._calls import LayerNormCall, MomentsCall
from outdim.ops._dispatch import choose, kernels, transformed
from outdim.ops._layer_norm_call import (
    NormArguments,
    norm_row_error,
    prepare_norm,
    shape_of_y,
    variant_rows,
)
from outdim.ops._library import register, register_gradient
from outdim.ops._reference.layer_norm import edit_rows, edited, every_variant, normalise, normalised
from outdim.ops._statistics import prepare

_ARGUMENTS = (
    "Tensor x, Tensor? gamma, Tensor? beta, float eps, bool rms, Tensor? residual, "
    "bool return_sum, Tensor? dim_mask, Tensor? scale, Tensor? shift, Tensor? clip, "
    "Tensor? variant, bool each"
)
_STATISTICS = (
    "Tensor? ids, Tensor? table, Tensor? rows, Tensor? group, int groups, float tau, bool exact, "
    "bool shape, Tensor? before_head, Tensor? before_body, bool of_input"
)
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
    call, y = prepare_norm(out, arguments)
    try:
        kernels(choose(backend, call.x)).layer_norm(call, None, False)
    except IndexError as error:
        raise norm_row_error(call, None) from error
    return y, None if call.sum is None else call.sum.view(arguments.x.shape)


def _run(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Do the same as the registered op, with an empty tensor for a sum that is not wanted."""
    y, s = run(NormArguments(*arguments[:-1]), arguments[-1])
    return y, y.new_empty(0) if s is None else s


def run_composed(arguments: NormArguments) -> tuple[Tensor, Tensor | None]:
    """Compute layer_norm from torch's own ops, which every transform of torch.func knows."""
    call, _ = prepare_norm(None, arguments)
    s = call.x if call.residual is None else call.x + call.residual
    y = edited(call.norm, normalised(call.norm, s)).to(s.dtype).view(shape_of_y(arguments))
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
    call, y = prepare_norm(None, arguments)
    stats = statistics(call.x)
    try:
        kernels(choose(backend, call.x)).layer_norm(call, stats, of_input)
    except IndexError as error:
        raise norm_row_error(call, stats) from error
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


def _fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    call, y = prepare_norm(None, NormArguments(*arguments[:-1]))
    return y, _sum_of(call, arguments[0])


def _fake_moments(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    call, y = prepare_norm(None, NormArguments(*arguments[:_COUNT]))
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
    z, xhat, inverse_std = normalise(s, gamma, beta, ctx.eps, ctx.rms, dim_mask)
    g = grad_y.to(z.dtype)
    if ctx.each:
        every, index = every_variant(z.reshape(-1, z.shape[-1]), len(scale))
        g = _edit_backward(g.reshape(every.shape), every, scale, clip, index)
        g = g.view(len(scale), *z.shape).sum(0)
    elif scale is not None:
        g = _edit_backward(g, z, scale, clip, variant_rows(variant, x))
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
    factor = edit_rows(scale, variant, z.dtype).view(shape)
    g = torch.where(factor == 0, 0, g * factor)
    if clip is not None:
        g = g * (z.abs() <= edit_rows(clip, variant, z.dtype).view(shape))
    return g


register(f"layer_norm({_ARGUMENTS}, str backend) -> (Tensor, Tensor)", _run, _fake)
register_gradient("layer_norm", _setup_context, _backward)
register(
    f"layer_norm_moments({_ARGUMENTS}, {_STATISTICS}, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _run_moments,
    _fake_moments,
)
