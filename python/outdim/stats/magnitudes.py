"""Histograms of |h| of every dimension, and quantiles with bounds from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outdim import ops
from outdim.errors import ArgumentError
from outdim.ops.layout import MAGNITUDE_BINS, MAGNITUDE_BITS, MAGNITUDE_FIRST, MAGNITUDE_SHIFT
from outdim.stats.point_counts import PointCounts

#: A quantile of |h| lies within this share of what `MagnitudeCounts.quantile` says, for values of
#: 2^-16 to 2^16: no bin is wider than 1/16 of its lower end.
RELATIVE_ERROR = 2.0**-MAGNITUDE_BITS


class Magnitudes(PointCounts):
    """A histogram of |h| for each dimension, with bins that grow with the value.

    Between a power of two and the next there are 16 bins of equal width, from 2^-16 to 2^16; what
    is smaller is in the first bin, what is larger or not finite in the last. Exact quantiles of all
    dimensions would take a bin for each of 32,768 magnitudes of 16 bits, 64 times as many.
    Memory: 4 KiB a group, dimension and point, and half as much for the batch under way.
    """

    width = MAGNITUDE_BINS

    def __init__(self, points: Sequence[str], groups: Sequence[str]) -> None:
        super().__init__(points, groups)
        self._fresh: dict[str, Tensor] = {}  # of the forward under way, else zeros
        self._taken: set[str] = set()  # the points that it has reached

    @torch.inference_mode()  # what a pass took cannot be changed in place outside of it
    def add(self, point: str, hidden: Tensor) -> None:
        """Count ``hidden`` [..., D] at ``point``, the rows in the order of `begin`."""
        if point not in self._fresh:
            room = ops.magnitude_counts_empty(len(self.groups), hidden.shape[-1], hidden.device)
            self._fresh[point] = room
        self._taken.add(point)
        ops.magnitude_counts_add(hidden, self._fresh[point], group=self._group)

    @torch.inference_mode()
    def commit(self) -> None:
        """The forward is complete: what it gave counts."""
        for point in self._taken:
            fresh = self._fresh[point]
            counts = self._counts.get(point)
            if counts is None:
                counts = fresh.new_zeros((*fresh.shape[:2], MAGNITUDE_BINS), dtype=torch.int64)
            self._counts[point] = counts = counts.to(fresh.device)  # one that was merged: the CPU's
            ops.magnitude_counts_move(fresh, counts)
        self._taken.clear()

    @torch.inference_mode()
    def discard(self) -> None:
        """The forward failed: nothing of it counts."""
        for point in self._taken:
            self._fresh[point].zero_()
        self._taken.clear()


class Bounded(NamedTuple):
    """Values that are known up to bounds, each float64 of one shape."""

    low: NDArray[np.float64]
    value: NDArray[np.float64]
    high: NDArray[np.float64]


def bin_edges() -> NDArray[np.float64]:
    """The B + 1 ends of the bins: 0, then 2^-16 (1 + 1/16), ..., and infinity at the end."""
    codes = (MAGNITUDE_FIRST + np.arange(MAGNITUDE_BINS + 1, dtype=np.int64)) << MAGNITUDE_SHIFT
    edges = codes.astype(np.uint32).view(np.float32).astype(np.float64)
    edges[0], edges[-1] = 0.0, np.inf
    return edges


def magnitude_quantile(counts: Tensor, q: float) -> Bounded:
    """Quantiles of |h| with bounds, from counts [..., B] of `Magnitudes`.

    The quantile that ``numpy.quantile`` gives lies between ``low`` and ``high``; ``value`` takes
    the values of a bin as spread evenly. NaN where there is no value.

    Raises:
        ArgumentError: q outside of [0, 1].
    """
    if not 0 <= q <= 1:
        raise ArgumentError(f"q: expected a number in [0, 1], got {q}")
    below = np.cumsum(counts.numpy(), axis=-1)
    n = below[..., -1:]
    rank = q * (n - 1)
    first, last = np.floor(rank), np.ceil(rank)
    low_bin = (below > first).argmax(-1)
    high_bin = (below > last).argmax(-1)
    edges = bin_edges()
    inside = np.take_along_axis(counts.numpy(), low_bin[..., None], -1)[..., 0]
    before = np.take_along_axis(below, low_bin[..., None], -1)[..., 0] - inside
    place = (rank[..., 0] - before + 0.5) / np.maximum(inside, 1)
    low, high = edges[low_bin], edges[high_bin + 1]
    top = np.where(np.isinf(edges[low_bin + 1]), low, edges[low_bin + 1])
    value = low + np.clip(place, 0, 1) * (top - low)
    nothing = n[..., 0] == 0
    return Bounded(*(np.where(nothing, np.nan, part) for part in (low, value, high)))


def share_over(counts: Tensor, threshold: float) -> NDArray[np.float64]:
    """Share of the values with |h| beyond ``threshold``, from counts [..., B].

    Values in the bin that holds the threshold count as spread evenly over it. The last bin has no
    end: with values in it, NaN for a threshold within it. It also holds what is not finite, which
    counts as beyond.
    """
    edges = bin_edges()
    width = np.diff(edges)
    part = np.clip((edges[1:] - threshold) / np.where(np.isinf(width), 1.0, width), 0.0, 1.0)
    counted = counts.numpy()
    if np.isfinite(threshold):
        part[-1] = threshold <= edges[-2]
    share: NDArray[np.float64] = (counted * part).sum(-1) / np.maximum(counted.sum(-1), 1)
    return np.where((threshold > edges[-2]) & (counted[..., -1] > 0), np.nan, share)
