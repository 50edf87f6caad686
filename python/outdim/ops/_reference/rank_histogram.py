"""Histograms over 16-bit patterns, by scatters."""

import torch
from torch import Tensor

from outdim.ops._calls import RankAddCall, RankTouchCall
from outdim.ops._reference._parts import check_index


def _patterns(hidden: Tensor, dims: Tensor) -> Tensor:
    """Return the 16-bit patterns [n, S] of the chosen columns, as int64."""
    return hidden[:, dims].contiguous().view(torch.int16).long() & 0xFFFF


def rank_histogram_touch(hidden: Tensor, call: RankTouchCall) -> None:
    """Set touched[s, high byte] for every page that the selected rows need."""
    if call.mask is not None:
        hidden = hidden[call.mask]
    pages = _patterns(hidden, call.dims) >> 8
    call.touched.scatter_(1, pages.T, 1)


def rank_histogram_add(hidden: Tensor, call: RankAddCall) -> None:
    """Add the selected rows to counts and rank sums; every page they need exists."""
    ids, counts, rank_sums = call.ids, call.counts, call.rank_sums
    if call.mask is not None:
        hidden, ids = hidden[call.mask], ids[call.mask]
    if not len(ids):
        return
    check_index(ids, len(call.double_rank), "an id is outside double_rank")
    patterns = _patterns(hidden, call.dims).T
    pages = call.page_index.long().gather(1, patterns >> 8)
    check_index(pages, len(counts), "a page is missing")
    bins = (pages * 256 + (patterns & 0xFF)).reshape(-1)
    rank = call.double_rank[ids].expand_as(patterns).reshape(-1)
    counts.view(-1).scatter_add_(0, bins, torch.ones_like(bins))
    rank_sums.view(-1).scatter_add_(0, bins, rank)
