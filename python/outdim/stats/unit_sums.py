"""Sums of unit vectors by block of documents, from which the cosines of all pairs follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outdim.errors import DataError
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

    Within a batch norms and sums are float32 products of matrices (float64 for float64 states), a
    relative error of about 1e-6; batches are added in float64. Rows of norm 0 count as zeros. A row
    that is not finite makes the sums of its own group and block NaN, and no others.

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
        self._sums: dict[str, Tensor] = {}  # [2, G, K, 2, D] of whole forwards
        self._counts: Tensor | None = None  # [G, K] int64
        self._pending: dict[str, Tensor] = {}
        self._pending_counts = torch.zeros(0)
        self._kept = torch.zeros(0, dtype=torch.int64)
        self._member = torch.zeros(0, 0)

    def begin(self, ids: Tensor, group: Tensor, rows: Tensor) -> None:
        """The next forward has N rows: group [N] uint8, rows [N] int64, the block of each."""
        block = rows
        self._pending.clear()
        self._kept = (group > 0).nonzero()[:, 0]
        cell = (group.long() - 1)[self._kept] * self.blocks + block[self._kept]
        cells = len(self.groups) * self.blocks
        self._member = torch.zeros(cells, len(cell), device=group.device)
        self._member[cell, torch.arange(len(cell), device=group.device)] = 1
        self._pending_counts = self._member.sum(1).long().view(len(self.groups), self.blocks)

    def add(self, point: str, hidden: Tensor) -> None:
        """Add ``hidden`` [..., D] at a point."""
        rows = hidden.reshape(-1, hidden.shape[-1])[self._kept]
        rows = rows if rows.dtype == torch.float64 else rows.float()
        dims = torch.tensor(self.left_out[point], dtype=torch.int64, device=rows.device)
        # Norms are summed anew: a difference is noise where what is left out is nearly all.
        norms = [torch.linalg.vecdot(part, part) for part in (rows, rows.index_fill(-1, dims, 0))]
        found = torch.stack([self._by_cell(rows, norm) for norm in norms])
        found[1].index_fill_(-1, dims, 0)
        self._pending[point] = found

    def _by_cell(self, rows: Tensor, squared_norm: Tensor) -> Tensor:
        """Sums of u and of u^2, [G, K, 2, D] float64: products with the weights of the rows."""
        finite = squared_norm.isfinite()
        rows = torch.where(finite[:, None], rows, 0)  # else 0 * NaN, in the sums of every cell
        inverse = torch.where(finite & (squared_norm > 0), squared_norm, torch.inf).rsqrt()
        member = self._member.to(rows.dtype)
        sums = [(member * inverse) @ rows, (member * inverse.square()) @ rows.square()]
        nonfinite = (member @ (~finite).to(rows.dtype) > 0)[:, None, None]
        found = torch.where(nonfinite, torch.nan, torch.stack(sums, 1))
        return found.double().view(len(self.groups), self.blocks, 2, -1)

    def commit(self) -> None:
        """The forward is complete: what it gave counts."""
        for point, found in self._pending.items():
            before = self._sums.get(point)
            self._sums[point] = found if before is None else before + found
        if self._pending:
            counts = self._pending_counts
            self._counts = counts if self._counts is None else self._counts + counts
        self._pending.clear()

    def discard(self) -> None:
        """The forward failed: nothing of it counts."""
        self._pending.clear()

    def cosines(self, point: str, groups: Sequence[str], *, left_out: bool) -> Cosines | None:
        """Over all pairs of rows of some groups; None with fewer than two rows."""
        if self._counts is None or point not in self._sums:
            return None
        index = [self.groups.index(group) for group in groups]
        sums = self._sums[point][int(left_out)][index].sum(0).cpu().numpy()
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
        """Flat tensors on the CPU: ``<point>`` [2, G, K, 2, D] float64, ``counts`` [G, K] int64."""
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
            shape = tuple(later.shape) if name == "counts" else tuple(later.shape[1:3])
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
