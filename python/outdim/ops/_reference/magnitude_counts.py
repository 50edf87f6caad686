"""Counts of |h| by bins of its bits."""

import torch
from torch import Tensor

from outdim.ops._calls import MagnitudeCountsCall
from outdim.ops._reference._parts import BLOCK_VALUES, check_index
from outdim.ops.layout import (
    MAGNITUDE_BINS,
    MAGNITUDE_BITS,
    MAGNITUDE_FIRST,
    MAGNITUDE_ROOM,
    MAGNITUDE_SHIFT,
)


def magnitude_counts_add(hidden: Tensor, call: MagnitudeCountsCall) -> None:
    """Count the bins of the selected rows: exponent and first bits of the mantissa."""
    group, fresh = call
    if group is None:
        group = torch.ones(len(hidden), dtype=torch.uint8, device=hidden.device)
    check_index(group, len(fresh) + 1, "there is no such group")
    dims = hidden.shape[1]
    offsets = torch.arange(dims, device=hidden.device) * MAGNITUDE_ROOM
    for rows in torch.split(group.nonzero().squeeze(1), max(1, BLOCK_VALUES // dims)):
        bits = hidden[rows].float().contiguous().view(torch.int32)
        bins = ((bits & 0x7FFFFFFF) >> MAGNITUDE_SHIFT) - MAGNITUDE_FIRST
        cells = bins.clamp_(0, MAGNITUDE_BINS - 1) + offsets
        cells += (group[rows].long() - 1)[:, None] * (dims * MAGNITUDE_ROOM)
        ones = torch.ones_like(cells, dtype=torch.int32)
        fresh.view(-1).scatter_add_(0, cells.view(-1), ones.view(-1))
    by_line = fresh[..., :MAGNITUDE_BINS].view(*fresh.shape[:-1], -1, 1 << MAGNITUDE_BITS)
    lines = by_line.any(-1)
    bit = torch.arange(lines.shape[-1], device=lines.device)
    fresh[..., MAGNITUDE_BINS] = (lines.long() << bit).sum(-1).int()
