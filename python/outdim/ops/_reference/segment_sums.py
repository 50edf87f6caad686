"""Sums over rows by segment."""

import torch
from torch import Tensor

from outdim.ops._calls import SegmentSumsCall
from outdim.ops._reference._parts import check_index, segment_sizes


def segment_sums(hidden: Tensor, call: SegmentSumsCall) -> None:
    """Add to each segment its first row, then its second, and so on: every sum is one chain.

    (index_add_ of all rows would be that on the CPU only: on CUDA its order is anybody's guess.)
    """
    order, starts, read, write, sums = call
    sizes = segment_sizes(order, starts)
    touched = sizes.nonzero().squeeze(1)
    check_index(read[touched] + 1, len(sums) + 1, "read is outside sums")
    check_index(write[touched], len(sums), "write is outside sums")
    check_index(order[starts[0] : starts[-1]], len(hidden), "order is outside hidden")
    mine, others = write[touched], read[touched][read[touched] != write[touched]]
    if (mine.sort().values.diff() == 0).any():
        raise IndexError("write: expected each row of `sums` at most once")
    if torch.isin(mine, others).any():
        raise IndexError("write: expected no row that another segment reads")
    before = sums[read[touched].clamp(min=0)]
    sums[write[touched]] = before.masked_fill((read[touched] < 0)[:, None, None], 0)
    for step in range(int(sizes.max()) if len(touched) else 0):
        there = (sizes > step).nonzero().squeeze(1)
        h = hidden[order[starts[there] + step]].double()
        sums[write[there]] += torch.stack([h, h.abs(), h.square()], 1)
