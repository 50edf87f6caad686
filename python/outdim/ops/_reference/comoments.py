"""Co-moments as a part of all the moments."""

from collections.abc import Callable

import torch
from torch import Tensor

from outdim.ops._calls import ComomentsCall, MomentsCall, StatisticsOfRows
from outdim.ops._reference.moments import moments
from outdim.ops.layout import BodyRow, body_rows, comoment_row, head_size


def comoments(hidden: Tensor, call: ComomentsCall) -> None:
    """Write head and body from all the moments."""
    comoments_by(moments, hidden, call)


def comoments_by(
    moments: Callable[[Tensor, MomentsCall], None], hidden: Tensor, call: ComomentsCall
) -> None:
    """Write head and body of `comoments` as a part of all the moments that a kernel takes."""
    k, groups = len(call.rows), call.groups
    sizes = (groups, head_size(k)), (groups, body_rows(k, shape=False), hidden.shape[1])
    head, body = (hidden.new_empty(size, dtype=torch.float64) for size in sizes)
    given = StatisticsOfRows(None, None, call.rows, call.group, groups, 0.0, True, False)
    moments(hidden, MomentsCall(given, None, None, head, body))
    first = comoment_row(k, 0, of_abs=True)
    call.head.copy_(head)
    of_abs = slice(BodyRow.MEAN_ABS, BodyRow.M2_ABS + 1)
    call.body.copy_(torch.cat([body[:, of_abs], body[:, first : first + k]], 1))
