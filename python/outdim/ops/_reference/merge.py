"""Merging the moments of disjoint sets of rows."""

import torch
from torch import Tensor

from outdim.ops.layout import BodyRow, ShapeRow, body_rows, covariates_of, head_size, shape_row

State = tuple[Tensor, Tensor]


def merged_mean(share: Tensor, mean: Tensor, delta: Tensor) -> Tensor:
    """Mean of two sets of rows; delta is the difference of theirs, share the later rows' of all."""
    return mean + delta * share


def merged_comoment(weight: Tensor, a: Tensor, b: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Co-moment of two sets of rows, M2 where dx is dy; weight is na nb / n."""
    return a + b + dx * dy * weight


def merge_states(a: State, b: State, shape: bool) -> State:
    """Merge head [..., 1 + 2 K] and body [..., R, D] of the rows `b` behind those of `a`.

    The formulas of csrc/core/moments_merge.h in the same order of operations, each rounded once
    (never addcmul or lerp), for where there is no compiled module.
    """
    (head_a, body_a), (head_b, body_b) = a, b
    k = covariates_of(head_a.shape[-1])
    na, nb = head_a[..., :1], head_b[..., :1]
    n = na + nb
    inverse = 1 / n  # infinite where both have no rows, and then not taken
    share_a, share = na * inverse, nb * inverse
    weight = na * share
    means, m2 = slice(1, 1 + k), slice(1 + k, 1 + 2 * k)
    x_delta = head_b[..., means] - head_a[..., means]
    head = torch.cat(
        [
            n,
            merged_mean(share, head_a[..., means], x_delta),
            merged_comoment(weight, head_a[..., m2], head_b[..., m2], x_delta, x_delta),
        ],
        -1,
    )
    means, m2 = (slice(row, row + 3, 2) for row in (BodyRow.MEAN, BodyRow.M2))  # h and |h|
    delta = body_b[..., means, :] - body_a[..., means, :]
    share_a, share, weight = (value[..., None] for value in (share_a, share, weight))
    body = body_a + body_b
    body[..., means, :] = merged_mean(share, body_a[..., means, :], delta)
    body[..., m2, :] = merged_comoment(weight, body_a[..., m2, :], body_b[..., m2, :], delta, delta)
    for of in range(2):
        rows = slice(len(BodyRow) + of * k, len(BodyRow) + (of + 1) * k)
        body[..., rows, :] = merged_comoment(
            weight, body_a[..., rows, :], body_b[..., rows, :],
            x_delta[..., None], delta[..., of : of + 1, :],
        )  # fmt: skip
    if shape:
        _merge_shape(body, body_a, body_b, k, delta[..., 0, :], (share_a, share, weight))
    before, after = nb == 0, na == 0
    return (
        torch.where(before, head_a, torch.where(after, head_b, head)),
        torch.where(before[..., None], body_a, torch.where(after[..., None], body_b, body)),
    )


def _merge_shape(
    body: Tensor,
    body_a: Tensor,
    body_b: Tensor,
    k: int,
    delta: Tensor,
    shares: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Set the shape rows that are no plain sums, which `body` has already."""
    a, b, weight = (value[..., 0] for value in shares)

    def both(row: int) -> tuple[Tensor, Tensor]:
        return body_a[..., row, :], body_b[..., row, :]

    m3, m4, least, most = (
        shape_row(k, row) for row in (ShapeRow.M3, ShapeRow.M4, ShapeRow.MIN, ShapeRow.MAX)
    )
    (m2a, m2b), (m3a, m3b) = both(BodyRow.M2), both(m3)
    square = delta * delta
    body[..., m3, :] += square * delta * (weight * (a - b))
    body[..., m3, :] += 3 * delta * (a * m2b - b * m2a)
    body[..., m4, :] += square * square * (weight * (a * a - a * b + b * b))
    body[..., m4, :] += 6 * square * (a * a * m2b + b * b * m2a)
    body[..., m4, :] += 4 * delta * (a * m3b - b * m3a)
    body[..., least, :] = torch.minimum(*both(least))
    body[..., most, :] = torch.maximum(*both(most))


def empty_state(covariates: int, d: int, shape: bool, device: torch.device | None = None) -> State:
    """Return head [1 + 2 K] and body [R, D] of no rows: zeros, with min +inf and max -inf."""
    head = torch.zeros(head_size(covariates), dtype=torch.float64, device=device)
    body = torch.zeros(body_rows(covariates, shape), d, dtype=torch.float64, device=device)
    if shape:
        body[shape_row(covariates, ShapeRow.MIN)] = torch.inf
        body[shape_row(covariates, ShapeRow.MAX)] = -torch.inf
    return head, body
