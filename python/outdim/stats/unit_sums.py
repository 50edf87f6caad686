"""Sums of unit vectors by block of documents, from which the cosines of all pairs follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outdim.errors import DataError
from outdim.ops.segment_sums import Segments, segments
from outdim.ops.unit_sums import UNIT_ROWS, unit_sums
from outdim.stats.jackknife import LeftOut

Floats = NDArray[np.float64]


class Cosines(NamedTuple):
    """Expected cosine of two different rows, over all pairs.

    Attributes:
        n: Rows.
        value: The mean cosine over all n (n - 1) pairs.
        low, high: 95 % interval by a jackknife over blocks of documents; NaN with few of them.
        contribution: What each dimension adds to it, [D]; their sum is ``value``.
        blocks: How many blocks hold rows.
    """

    n: int
    value: float
    low: float
    high: float
    contribution: Floats
    blocks: int


class UnitSums:
    """Sums of u = h / ||h|| and of u^2 by block, float64, for every point and group of tokens.

    The mean of cos(h_i, h_j) over all pairs i != j needs no pair: sum_ij u_i u_j is the square of
    the sum, dimension by dimension, and the pairs of a row with itself are the sum of squares. The
    same with some dimensions left out of every row, norms taken anew.

    Sums are those of `outdim.ops.unit_sums`, float64 after the load. Rows of norm 0 count as zeros.
    A row that is not finite makes the sums of its own group and block NaN, and no others.

    Args:
        points: Names of the points.
        groups: Names of the groups; group g of the rows is ``groups[g - 1]``, 0 is left out.
        blocks: K blocks.
        left_out: Dimensions that are left out, by point; none for other points.
    """

    def __init__(
        self,
        points: Sequence[str],
        groups: Sequence[str],
        blocks: int,
        left_out: Mapping[str, Sequence[int]],
    ) -> None:
        self.points, self.groups, self.blocks = tuple(points), tuple(groups), blocks
        self.left_out = {point: list(left_out.get(point, ())) for point in points}
        self._sums: dict[str, Tensor] = {}  # [G, K, 4, D] of whole forwards
        self._counts: Tensor | None = None  # [G, K] int64
        self._pending: dict[str, Tensor] = {}  # [cells, 4, D] of the forward under way
        self._pending_counts = torch.zeros(0)
        self._cells = torch.zeros(0, dtype=torch.int64)  # which have rows in it
        self._rows: Segments | None = None

    def begin(self, ids: Tensor, group: Tensor, rows: Tensor) -> None:
        """The next forward has N rows: group [N] uint8, rows [N] int64, the block of each."""
        self._pending.clear()
        cell = torch.where(group > 0, (group.long() - 1) * self.blocks + rows, -1)
        order, starts = segments(cell, len(self.groups) * self.blocks)
        sizes = starts.diff()
        self._pending_counts = sizes.view(len(self.groups), self.blocks)
        self._cells = sizes.nonzero()[:, 0]
        self._rows = Segments(order, torch.cat([starts[:1], starts[1:][self._cells]]))

    def add(self, point: str, hidden: Tensor) -> None:
        """Add ``hidden`` [..., D] at a point."""
        if self._rows is None:
            raise RuntimeError("UnitSums.begin was not called before the forward")
        dims = torch.tensor(self.left_out[point], dtype=torch.int64, device=hidden.device)
        self._pending[point] = unit_sums(hidden, *self._rows, left_out=dims)

    @torch.inference_mode()  # what a pass took cannot be changed in place outside of it
    def commit(self) -> None:
        """The forward is complete: what it gave counts."""
        for point, found in self._pending.items():
            if point not in self._sums:
                size = len(self.groups), self.blocks, UNIT_ROWS, found.shape[-1]
                self._sums[point] = found.new_zeros(size)
            self._sums[point] = self._sums[point].to(found.device)  # what was merged: the CPU's
            self._sums[point].flatten(0, 1).index_add_(0, self._cells, found)
        if self._pending:
            counts = self._pending_counts
            before = self._counts
            self._counts = counts if before is None else before.to(counts.device) + counts
        self._pending.clear()

    def discard(self) -> None:
        """The forward failed: nothing of it counts."""
        self._pending.clear()

    def cosines(self, point: str, groups: Sequence[str], *, left_out: bool) -> Cosines | None:
        """Over all pairs of rows of some groups; None with fewer than two rows."""
        if self._counts is None or point not in self._sums:
            return None
        index = [self.groups.index(group) for group in groups]
        rows = slice(2, 4) if left_out else slice(2)
        sums = self._sums[point][index, :, rows].sum(0).cpu().numpy()
        counts = self._counts[index].sum(0).cpu().numpy()
        n, total = int(counts.sum()), sums.sum(0)
        if n < 2:
            return None
        contribution = _cosine(total, n)
        value = float(contribution.sum())
        left = n - counts
        used = (counts > 0) & (left > 1)
        without = np.full(self.blocks, value)
        for block in used.nonzero()[0]:
            without[block] = _cosine(total - sums[block], left[block]).sum()
        low, high = LeftOut(np.array(value), without, used).interval()
        return Cosines(n, value, float(low), float(high), contribution, int((counts > 0).sum()))

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors on the CPU: ``<point>`` [G, K, 4, D] float64, ``counts`` [G, K] int64."""
        state = {point: found.to("cpu", copy=True) for point, found in self._sums.items()}
        if self._counts is not None:
            state["counts"] = self._counts.to("cpu", copy=True)
        return state

    def merge(self, state: Mapping[str, Tensor]) -> Self:
        """Add what `state_dict` of another one gave, as of later rows.

        Raises:
            DataError: A state of other points, groups, blocks or D; nothing of it was merged.
        """
        for name, later in state.items():
            mine = self._counts if name == "counts" else self._sums.get(name)
            expected = (len(self.groups), self.blocks)
            shape = tuple(later.shape[:2])
            if (name != "counts" and name not in self.points) or shape != expected:
                raise DataError(
                    f"state: expected {expected} groups and blocks at {', '.join(self.points)}, "
                    f"got {tuple(later.shape)} at {name}"
                )
            if mine is not None and mine.shape != later.shape:
                raise DataError(f"state: expected {tuple(mine.shape)} at {name}, got others")
        for name, later in state.items():
            mine = self._counts if name == "counts" else self._sums.get(name)
            total = later.clone() if mine is None else mine + later.to(mine.device)
            if name == "counts":
                self._counts = total
            else:
                self._sums[name] = total
        return self


def _cosine(sums: Floats, n: float) -> Floats:
    """What each dimension adds to the mean cosine of n rows with ``sums`` [2, D]."""
    contribution: Floats = (sums[0] ** 2 - sums[1]) / (n * (n - 1))
    return contribution
