"""Co-moments of |h| with many values of a row, group by group: what r of |h| needs and no more.

`outdim.stats.PointComoments` is the accumulator that keeps them over a stream.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.ops._calls import ComomentsCall
from outdim.ops._check import (
    as_rows,
    as_tensors,
    check_hidden,
    check_values,
    group_error,
    unexpected,
)
from outdim.ops._dispatch import Backend, choose, kernels, via_op
from outdim.ops._library import register
from outdim.ops._statistics import check_rows
from outdim.ops.layout import COMOMENTS_BASE, head_size


class Comoments(NamedTuple):
    """Moments of |h| and of K values in G groups of rows, float64.

    `head[g]` is n, the K means and the K M2 of the values; `body[g]` has rows of length D: mean
    |h|, M2 |h|, then the K co-moments C(x_k, |h|). M2 and C are sums of products of deviations from
    the means; a group without rows is all 0. Arrays where `hidden` was one.
    """

    head: Any  # [G, 1 + 2 K]
    body: Any  # [G, 2 + K, D]


def comoments(
    hidden: Any, rows: Any, group: Any = None, groups: int = 1, *, backend: Backend = "auto"
) -> Comoments:
    """Reduce |h| to mean, M2 and co-moments with K values of each row, in one pass.

    A part of what `moments` gives, which takes h, table and shape as well: 12 values of 2,048 rows
    of 768 take 1.0 ms, all moments 3.6 (one thread, in cache). Everything after the load is
    float64; M2 is as exact as sums about the mean but for a factor of 1 + n / 32. NaN and infinity
    go their way into their own group and dimension, or value.

    Args:
        hidden: (..., D) float32, float16, bfloat16 or float64, N rows.
        rows: [K, N] float64, the values of the rows.
        group: N values, uint8 or bool, of any shape: 0 leaves the row out, g in 1..groups counts
            it in group g - 1. None counts all in group 0.
        groups: G, 1 to 255.
        backend: "auto", "cpu", "cuda" (by the kernel of `moments`) or "reference".

    Returns:
        The same bytes for any number of threads.

    Raises:
        ArgumentError, DtypeError, BackendError: As `moments`.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[1.0], [-3.0], [-5.0]])
        >>> found = comoments(hidden, torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64))
        >>> found.head.tolist()  # n, mean and M2 of the values
        [[3.0, 1.0, 2.0]]
        >>> found.body[0, :, 0].tolist()  # mean and M2 of |h|, and what both share
        [3.0, 8.0, 4.0]
    """
    given, rows, group = as_tensors(hidden=hidden, rows=rows, group=group)
    call = torch.ops.outdim.comoments if via_op(given) else _comoments
    found = call(
        given.detach() if isinstance(given, Tensor) else given, rows, group, groups, backend
    )
    return Comoments(*(part.numpy() for part in found) if isinstance(hidden, np.ndarray) else found)


def merge_comoments(earlier: Comoments, later: Comoments) -> Comoments:
    """Merge the state of other rows behind one, both of tensors (Chan, Golub, LeVeque 1983).

    A group without rows leaves the bytes of the other.
    """
    (head_a, body_a), (head_b, body_b) = earlier, later
    k = (head_a.shape[1] - 1) // 2
    na, nb = head_a[:, :1], head_b[:, :1]
    n = na + nb
    share = torch.where(n > 0, nb / n, 0)
    weight = na * share
    dx = head_b[:, 1 : 1 + k] - head_a[:, 1 : 1 + k]
    dy = body_b[:, :1] - body_a[:, :1]
    head = torch.cat(
        [
            n,
            head_a[:, 1 : 1 + k] + dx * share,
            head_a[:, 1 + k :] + head_b[:, 1 + k :] + dx * dx * weight,
        ],
        1,
    )
    body = body_a + body_b
    body[:, :1] = body_a[:, :1] + dy * share[..., None]
    body[:, 1:] += torch.cat([dy, dx[..., None].expand(-1, -1, dy.shape[2])], 1) * (
        dy * weight[..., None]
    )
    for side, other in ((na, later), (nb, earlier)):
        none = side[:, 0] == 0
        head[none], body[none] = other.head[none], other.body[none]
    return Comoments(head, body)


def _comoments(
    hidden: Tensor, rows: Tensor, group: Tensor | None, groups: int, backend: str
) -> tuple[Tensor, Tensor]:
    check_values(hidden)
    view, call = _prepare(hidden, rows, group, groups)
    try:
        kernels(choose(backend, view)).comoments(view, call)
    except IndexError as error:
        assert call.group is not None
        raise group_error(call.group, groups) from error
    return call.head, call.body


def _prepare(
    hidden: Tensor, rows: Tensor, group: Tensor | None, groups: int
) -> tuple[Tensor, ComomentsCall]:
    check_hidden("hidden", hidden)
    view = as_rows(hidden)
    n, d = view.shape
    if rows is None:
        raise unexpected("rows", rows, (torch.float64,), f"(K, {n})")
    k = rows.shape[0] if isinstance(rows, Tensor) and rows.dim() else 0
    if isinstance(rows, Tensor) and not k:
        raise ArgumentError(f"rows: expected at least one value of each row, got {rows.shape}")
    sizes = (groups, head_size(k)), (groups, COMOMENTS_BASE + k, d)
    found = check_rows(n, view.device, None, None, rows, group, groups, 0.0, True, False)
    assert found.rows is not None
    head, body = (view.new_empty(size, dtype=torch.float64) for size in sizes)
    return view, ComomentsCall(found.rows, found.group, groups, head, body)


def _fake(
    hidden: Tensor, rows: Tensor, group: Tensor | None, groups: int, backend: str
) -> tuple[Tensor, Tensor]:
    _, call = _prepare(hidden, rows, group, groups)
    return call.head, call.body


register(
    "comoments(Tensor hidden, Tensor rows, Tensor? group, int groups, str backend) "
    "-> (Tensor, Tensor)",
    _comoments,
    _fake,
)
