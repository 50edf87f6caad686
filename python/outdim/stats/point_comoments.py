"""Co-moments of |h| at many points by group of tokens, taken from whole forwards only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from outdim.ops import Comoments, comoments, merge_comoments
from outdim.ops.layout import COMOMENTS_BASE, head_size
from outdim.stats.named import check_groups, check_points, under


class PointComoments:
    """`outdim.ops.Comoments` per (point, group of tokens) with some values of every row.

    What a forward gave counts from `commit` on; `discard` drops it.

    Args:
        points: Names of the points.
        groups: Names of the groups; group g of the rows is ``groups[g - 1]``, 0 is left out.
        values: K.
    """

    def __init__(self, points: Sequence[str], groups: Sequence[str], values: int) -> None:
        self.points, self.groups, self.values = tuple(points), tuple(groups), values
        self._rows, self._group = torch.zeros(0), torch.zeros(0)
        self._kept: dict[str, Comoments] = {}  # of whole forwards
        #: With the one under way: which groups it has, and their new state.
        self._pending: dict[str, tuple[Tensor, Comoments]] = {}

    def begin(self, ids: Tensor, group: Tensor, rows: Tensor) -> None:
        """The next forward has N rows: group [N] uint8, rows [K, N] float64; ids are not asked."""
        self._pending.clear()
        self._group, self._rows = group, rows

    def add(self, point: str, hidden: Tensor) -> None:
        """Take those of ``hidden`` [..., D] at ``point``."""
        found = comoments(hidden, self._rows, self._group, len(self.groups))
        self._pending[point] = self._merged(point, found)

    def commit(self) -> None:
        """The forward is complete: what it gave counts."""
        for point, (present, state) in self._pending.items():
            self._keep(point, present, state)
        self._pending.clear()

    def _merged(self, point: str, later: Comoments) -> tuple[Tensor, Comoments]:
        """Which groups ``later`` has, a few of many blocks, and their state with it."""
        present = (later.head[:, 0] > 0).nonzero()[:, 0]
        found = Comoments(*(part[present] for part in later))
        mine = self._kept.get(point)
        if mine is None:
            return present, found
        before = (part.to(later.head.device)[present] for part in mine)
        return present, merge_comoments(Comoments(*before), found)

    def _keep(self, point: str, present: Tensor, state: Comoments) -> None:
        """Put what `_merged` gave in its place."""
        mine = self._kept.get(point)
        if mine is None:
            mine = Comoments(*(x.new_zeros(len(self.groups), *x.shape[1:]) for x in state))
        self._kept[point] = mine = Comoments(*(part.to(present.device) for part in mine))
        with torch.inference_mode():  # under which forwards make them
            for whole, part in zip(mine, state, strict=True):
                whole[present] = part

    def discard(self) -> None:
        """The forward failed: nothing of it counts."""
        self._pending.clear()

    def of(self, point: str) -> Comoments:
        """Those of all groups at a point, on the CPU."""
        return Comoments(*(part.cpu() for part in self._kept[point]))

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors on the CPU: ``<point>/head`` [G, 1 + 2 K] and ``<point>/body`` [G, R, D].

        Points that no forward has reached are left out.
        """
        kept = under({point: parts._asdict() for point, parts in self._kept.items()})
        return {name: part.to("cpu", copy=True) for name, part in kept.items()}

    def merge(self, state: Mapping[str, Tensor]) -> PointComoments:
        """Merge what `state_dict` of another one gave, as of later rows.

        Raises:
            DataError: A state of other points, groups or values, or a damaged one; nothing of it
                was merged.
        """
        check_points(state, self.points, Comoments._fields)
        given = {}
        for point in self.points:
            if f"{point}/head" not in state:
                continue
            later = Comoments(*(state[f"{point}/{field}"].clone() for field in Comoments._fields))
            d = self._kept.get(point, later).body.shape[-1]
            check_groups(f"{point}/head", later.head, self.groups, (head_size(self.values),))
            rows = COMOMENTS_BASE + self.values
            check_groups(f"{point}/body", later.body, self.groups, (rows, d))
            given[point] = later
        for point, later in given.items():
            self._keep(point, *self._merged(point, later))
        return self
