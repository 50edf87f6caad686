"""Merging the moments of disjoint sets of rows, in float64 and in the order given.

Only separate elementwise additions, multiplications and divisions are used (each rounded once, so
never addcmul or lerp), hence the same bytes on every processor and device.

Sources: Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983), for means
and second moments; Pebay, "Formulas for robust, one-pass parallel computation of covariances and
arbitrary-order statistical moments" (Sandia SAND2008-6212, 2008), for co-moments, M3 and M4.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

BASE_ROWS = 4
SHAPE_ROWS = 7


def body_rows(covariates: int, shape: bool) -> int:
    """Rows of a body: means and M2 of h and |h|, 2 K co-moments, and the shape rows."""
    return BASE_ROWS + 2 * covariates + (SHAPE_ROWS if shape else 0)


def empty_state(
    covariates: int, d: int, shape: bool, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return head [1 + 2 K] and body [R, D] of no rows: zeros, with min +inf and max -inf."""
    head = torch.zeros(1 + 2 * covariates, dtype=torch.float64, device=device)
    body = torch.zeros(body_rows(covariates, shape), d, dtype=torch.float64, device=device)
    if shape:
        body[-5] = torch.inf
        body[-4] = -torch.inf
    return head, body


def merge_states(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], shape: bool
) -> tuple[Tensor, Tensor]:
    """Merge head [1 + 2 K] and body [R, D] of rows `a` with those of the rows `b` after them.

    A state of no rows leaves the bytes of the other as they are; on the CPU the other itself is
    returned.
    """
    (head_a, body_a), (head_b, body_b) = a, b
    if head_a.is_cuda:  # branches would wait for the device
        head, body = _merge(torch, head_a, body_a, head_b, body_b, shape)
        keep_a, keep_b = head_b[0] == 0, head_a[0] == 0
        head = torch.where(keep_a, head_a, torch.where(keep_b, head_b, head))
        body = torch.where(keep_a, body_a, torch.where(keep_b, body_b, body))
        return head, body
    if not head_b[0]:
        return a
    if not head_a[0]:
        return b
    # The same arithmetic in NumPy costs a third: it is all calls on short arrays.
    with np.errstate(all="ignore"):
        head, body = _merge(
            np, head_a.numpy(), body_a.numpy(), head_b.numpy(), body_b.numpy(), shape
        )
    return torch.from_numpy(head), torch.from_numpy(body)


def _merge(
    xp: Any, head_a: Any, body_a: Any, head_b: Any, body_b: Any, shape: bool
) -> tuple[Any, Any]:
    """Merge arrays of xp, which is torch or NumPy."""
    k = (head_a.shape[0] - 1) // 2
    na, nb = head_a[0], head_b[0]
    n = na + nb
    share = nb / n
    weight = na * share

    x_delta = head_b[1 : 1 + k] - head_a[1 : 1 + k]
    head = head_a + head_b
    head[1 : 1 + k] = head_a[1 : 1 + k] + x_delta * share
    head[1 + k :] += x_delta * x_delta * weight

    # Rows 0 and 2 are the means of h and |h|, rows 1 and 3 their M2: [2, D] each.
    delta = body_b[0:4:2] - body_a[0:4:2]
    weighted = delta * weight
    body = body_a + body_b
    body[0:4:2] = body_a[0:4:2] + delta * share
    body[1:4:2] += delta * weighted
    comoments = body[4 : 4 + 2 * k].reshape(2, k, body.shape[1])  # a view
    comoments += x_delta[:, None] * weighted[:, None, :]
    if shape:
        # na nb / n and the ratios keep every factor in range for any count.
        _merge_powers(body, body_a, body_b, delta[0], na / n, share, weight)
        body[-5] = xp.minimum(body_a[-5], body_b[-5])
        body[-4] = xp.maximum(body_a[-4], body_b[-4])
    return head, body


def _merge_powers(
    body: Any, body_a: Any, body_b: Any, delta: Any, a: Any, b: Any, weight: Any
) -> None:
    """Add to the sums of M3 and M4 in `body` what the distance of the means contributes.

    a and b are the shares of the two sides in n.
    """
    m2a, m2b = body_a[1], body_b[1]
    m3a, m3b = body_a[-7], body_b[-7]
    square = delta * delta
    body[-7] += delta * square * (weight * (a - b)) + 3 * delta * (a * m2b - b * m2a)
    body[-6] += (
        square * square * (weight * (a * a - a * b + b * b))
        + 6 * square * (a * a * m2b + b * b * m2a)
        + 4 * delta * (a * m3b - b * m3a)
    )
