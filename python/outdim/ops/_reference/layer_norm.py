"""LayerNorm or RMSNorm and its edit, with the moments of what came or what was stored."""

import torch
from torch import Tensor

from outdim.ops._calls import LayerNormCall, MomentsCall, NormOfRows
from outdim.ops._reference._parts import check_index, work_dtype
from outdim.ops._reference.moments import moments


@torch.no_grad()
def layer_norm(call: LayerNormCall, stats: MomentsCall | None, of_input: bool) -> None:
    """Write y (and the sum, and the statistics of the input or the output)."""
    s = call.x if call.residual is None else call.x + call.residual
    if call.sum is not None:
        call.sum.copy_(s)
    norm = call.norm
    if norm.scale is not None and norm.variant is not None:
        check_index(norm.variant, len(norm.scale), "a variant is outside the tables")
    call.y.copy_(edited(norm, normalised(norm, s)))
    if stats is not None:
        moments(s if of_input else call.y, stats)


def normalised(norm: NormOfRows, s: Tensor) -> Tensor:
    """Return z of rows (..., D), in work_dtype."""
    z, _, _ = normalise(s, norm.gamma, norm.beta, norm.eps, norm.rms, norm.dim_mask)
    return z


def normalise(
    s: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    rms: bool,
    dim_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return z = xhat * gamma + beta of rows (..., D), then xhat and 1 / std, in work_dtype."""
    s = s.to(work_dtype(s.dtype))
    if not rms:
        s = s - s.mean(-1, keepdim=True)
    inverse_std = torch.rsqrt(s.square().mean(-1, keepdim=True) + eps)
    xhat = s * inverse_std
    z = xhat
    if gamma is not None:
        z = z * masked(gamma.to(s.dtype), dim_mask)
    elif dim_mask is not None:
        z = z * dim_mask.to(s.dtype)
    if beta is not None:
        z = z + masked(beta.to(s.dtype), dim_mask)
    return z, xhat, inverse_std


def masked(parameter: Tensor, dim_mask: Tensor | None) -> Tensor:
    """Zero gamma or beta at the disabled dimensions."""
    return parameter if dim_mask is None else parameter * dim_mask.to(parameter.dtype)


def edit_rows(table: Tensor, variant: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Look up the row of an edit's table for each row of x; [N, D] or [1, D]."""
    table = table.to(dtype)
    return table[:1] if variant is None else table[variant.long()]


def edited(norm: NormOfRows, z: Tensor) -> Tensor:
    """Apply the edit of a norm to its rows z [N, D]; [M * N, D] with `each`."""
    variant = norm.variant
    if norm.each and norm.scale is not None:
        z, variant = every_variant(z, len(norm.scale))
    return apply_edit(z, norm.scale, norm.shift, norm.clip, variant)


def every_variant(z: Tensor, variants: int) -> tuple[Tensor, Tensor]:
    """Repeat rows [N, D] once a variant, and say which variant each is of."""
    index = torch.arange(variants, device=z.device).repeat_interleave(len(z))
    return z.repeat(variants, 1), index


def apply_edit(
    z: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    clip: Tensor | None,
    variant: Tensor | None,
) -> Tensor:
    """Return clamp(z, -clip, clip) * scale + shift; scale 0 gives shift whatever z is."""
    if scale is None or shift is None:
        return z
    if clip is not None:
        bound = edit_rows(clip, variant, z.dtype)
        z = torch.minimum(torch.maximum(z, -bound), bound)
    factor = edit_rows(scale, variant, z.dtype)
    return torch.where(factor == 0, 0, z * factor) + edit_rows(shift, variant, z.dtype)
