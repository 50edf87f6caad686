"""Largest value of each segment, mean and squares of each row."""

import torch
from torch import Tensor

from outdim.ops._calls import SizesCall
from outdim.ops._reference._parts import BLOCK_VALUES, rows_of_segments


@torch.no_grad()
def sizes(hidden: Tensor, call: SizesCall) -> None:
    """Largest of each segment by a scatter, mean and squares of a block of rows at a time."""
    order, segment = rows_of_segments(hidden, call.order, call.starts)
    largest, squares = call.largest, call.squares
    if largest is not None:
        largest.zero_()
    step = max(1, BLOCK_VALUES // hidden.shape[1])
    for start in range(0, len(order), step):
        part = slice(start, start + step)
        rows = hidden[order[part]]
        if largest is not None:
            index = segment[part, None].expand_as(rows)
            largest.scatter_reduce_(0, index, rows.abs().to(largest.dtype), "amax")
        if squares is not None:
            rows = rows.double()
            mean = rows.new_zeros(len(rows), 1) if call.rms else rows.mean(1, keepdim=True)
            squares[order[part]] = torch.cat([mean, (rows - mean).square().sum(1, keepdim=True)], 1)
