"""Integer counts at many points of a model by group of tokens, taken from whole forwards only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from outdim import ops
from outdim.errors import DataError


class PointCounts(ABC):
    """Counts int64 [G, D, B] per point: of each group and dimension, B things that are counted.

    Group g of the rows is ``groups[g - 1]``; rows of group 0 are left out. Counts are integers, so
    that any order and any split of the rows gives the same.

    Args:
        points: Names of the points.
        groups: Names of the groups.
    """

    #: B, how many things are counted of a dimension.
    width: int

    def __init__(self, points: Sequence[str], groups: Sequence[str]) -> None:
        self.points, self.groups = tuple(points), tuple(groups)
        self._counts: dict[str, Tensor] = {}  # of whole forwards
        self._group = torch.zeros(0, dtype=torch.uint8)

    def begin(self, ids: Tensor, group: Tensor, rows: Tensor | None = None) -> None:
        """The next forward has N rows: group [N] uint8."""
        self.discard()
        self._group = group

    @abstractmethod
    def add(self, point: str, hidden: Tensor) -> None:
        """Count ``hidden`` [..., D] at ``point``, the rows in the order of `begin`."""

    @abstractmethod
    def commit(self) -> None:
        """The forward is complete: what it gave counts."""

    @abstractmethod
    def discard(self) -> None:
        """The forward failed: nothing of it counts."""

    def counts(self, point: str, groups: Sequence[str]) -> Tensor | None:
        """Counts [D, B] of several groups together; None where there is nothing."""
        found = self._counts.get(point)
        if found is None:
            return None
        return found[[self.groups.index(group) for group in groups]].sum(0).cpu()

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors on the CPU: ``<point>`` [G, D, B] int64."""
        return {point: found.to("cpu", copy=True) for point, found in self._counts.items()}

    def merge(self, state: Mapping[str, Tensor]) -> Self:
        """Add what `state_dict` of another one gave.

        Raises:
            DataError: A state of other points or of another shape; nothing of it was merged.
        """
        for point, later in state.items():
            mine = self._counts.get(point)
            dims = later.shape[1:2] if mine is None else mine.shape[1:2]
            expected = (len(self.groups), *dims, self.width)
            if point not in self.points or later.dtype != torch.int64 or later.shape != expected:
                raise DataError(
                    f"state: expected {expected} int64 at {', '.join(self.points)}, got "
                    f"{tuple(later.shape)} {later.dtype} at {point}"
                )
        for point, later in state.items():
            mine = self._counts.get(point)
            self._counts[point] = later.clone() if mine is None else mine + later.to(mine.device)
        return self


class Extremes(PointCounts):
    """How many tokens have their smallest, and how many their largest value at each dimension.

    Counts [G, D, 2]: smallest, largest. Of equal values the first counts, a NaN as both.
    """

    width = 2

    def __init__(self, points: Sequence[str], groups: Sequence[str]) -> None:
        super().__init__(points, groups)
        self._pending: dict[str, Tensor] = {}  # of the forward under way
        self._offsets: tuple[int, Tensor] | None = None

    def begin(self, ids: Tensor, group: Tensor, rows: Tensor | None = None) -> None:
        """The next forward has N rows: group [N] uint8."""
        super().begin(ids, group, rows)
        self._offsets = None

    def add(self, point: str, hidden: Tensor) -> None:
        """Count ``hidden`` [..., D] at ``point``, the rows in the order of `begin`."""
        self.place(point, ops.token_shape(hidden, group=self._group), hidden.shape[-1])

    def place(self, point: str, shape: ops.TokenShape, dims: int) -> None:
        """Count what `outdim.ops.token_shape` said of the rows at ``point``."""
        if self._offsets is None or self._offsets[0] != dims:
            self._offsets = dims, self._cells_before(dims)
        ends = torch.stack([shape.smallest, shape.largest])
        cells = ends.mul_(2).add_(self._offsets[1]).view(-1)
        size = (1 + len(self.groups)) * dims * self.width
        found = torch.bincount(cells, minlength=size).view(-1, dims, self.width)
        self._pending[point] = found[1:]  # group 0 is padding, and what was excluded

    def _cells_before(self, dims: int) -> Tensor:
        """What the cells of the smallest, the largest of the rows begin with, [2, N]."""
        first = self._group.long() * (dims * self.width)
        first = torch.where(self._group > 0, first, 2)  # the places of group 0 are -1
        return torch.stack([first, first + 1])

    def commit(self) -> None:
        """The forward is complete: what it gave counts."""
        for point, found in self._pending.items():
            before = self._counts.get(point)
            # Not in place: merging goes on outside of inference mode.
            self._counts[point] = found if before is None else before.to(found.device) + found
        self._pending.clear()

    def discard(self) -> None:
        """The forward failed: nothing of it counts."""
        self._pending.clear()
