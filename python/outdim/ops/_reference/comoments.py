"""Co-moments as a part of all the moments."""

from collections.abc import Callable

import torch
from torch import Tensor

from outdim.ops._calls import ComomentsCall, MomentsCall
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
    moments(
        hidden,
        MomentsCall(
            None, None, call.rows, call.group, groups, 0.0, True, False, None, None, head, body
        ),
    )
    first = comoment_row(k, 0, of_abs=True)
    call.head.copy_(head)
    call.body.copy_(
        torch.cat(
            [
                body[:, BodyRow.MEAN_ABS : BodyRow.M2_ABS + 1],
                body[:, first : first + k],
            ],
            1,
        )
    )
