"""Sums of unit vectors by segment."""

import torch
from torch import Tensor

from outdim.ops._calls import UnitSumsCall
from outdim.ops._reference._parts import BLOCK_VALUES, check_index, rows_of_segments


@torch.no_grad()
def unit_sums(hidden: Tensor, call: UnitSumsCall) -> None:
    """Products of matrices: which rows each segment has, with the weights of rows."""
    left_out, sums = call.left_out, call.sums
    order, segment = rows_of_segments(hidden, call.order, call.starts)
    check_index(left_out, hidden.shape[1], "left_out is outside the dimensions")
    sums.zero_()
    step = max(1, BLOCK_VALUES // hidden.shape[1])
    for start in range(0, len(order), step):
        part = slice(start, start + step)
        rows = hidden[order[part]].double()
        _add_units(rows, segment[part], sums[:, :2])
        _add_units(rows.index_fill_(1, left_out, 0), segment[part], sums[:, 2:])


def _add_units(rows: Tensor, segment: Tensor, sums: Tensor) -> None:
    """Add sums of h / ||h|| and of its square to [S, 2, D]; 0 / 0 is 0."""
    norm = torch.linalg.vector_norm(rows, dim=1)
    finite = norm.isfinite()
    unit = torch.where(finite[:, None], rows, 0)  # else 0 * NaN, in the sums of every segment
    unit = unit / torch.where(finite & (norm > 0), norm, 1)[:, None]
    member = rows.new_zeros(len(sums), len(rows))
    member[segment, torch.arange(len(rows), device=rows.device)] = 1
    bad = member @ (~finite).double() > 0
    found = torch.stack([member @ unit, member @ unit.square()], 1)
    sums += found.masked_fill(bad[:, None, None], torch.nan)
