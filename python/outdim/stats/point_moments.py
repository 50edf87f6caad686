"""Moments of many points of a model by group of tokens, taken from whole forwards only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from outdim.errors import DataError
from outdim.ops import MomentsState, StatisticsArgs, merge_states
from outdim.ops.checked import CheckedRows, CheckedStatistics
from outdim.ops.layout import body_rows, head_size
from outdim.ops.moments import Accumulate
from outdim.stats.covariates import Covariates
from outdim.stats.moments import TAU, Moments
from outdim.stats.named import check_groups, check_points, under


class PointMoments:
    """`Moments` per (point, group of tokens), resident on the device of the hidden states.

    The moments of a forward are merged into those of the forwards before by the kernel itself, into
    the other of two states of a point: `commit` exchanges the two, `discard` does nothing. So a
    forward that fails half-way (out of memory) leaves nothing behind and can be tried again with
    the same tokens. Nothing goes to the host, and nothing waits for the device, before `state_dict`
    or `moments` is called.

    Args:
        points: Names of the points.
        groups: Names of the groups; group g of the kernels is ``groups[g - 1]``, 0 is left out.
        covariates: By token id and per row. They are looked up once a forward, not once a point.
        accum: ``"exact"``, ``"fast"`` or ``"auto"``, as `outdim.ops.moments`.
        device: Where the hidden states are.
    """

    def __init__(
        self,
        points: Sequence[str],
        groups: Sequence[str],
        covariates: Covariates,
        *,
        accum: Accumulate = "exact",
        device: torch.device | str = "cpu",
    ) -> None:
        self.points, self.groups = tuple(points), tuple(groups)
        self.covariates, self.accum = covariates, accum
        self._table = covariates.table.to(device)
        self._forward: CheckedRows | None = None
        self._states: dict[str, MomentsState] = {}  # of whole forwards
        self._spare: dict[str, MomentsState] = {}  # memory for those of the next
        self._pending: dict[str, MomentsState] = {}  # with the forward that is under way

    def begin(self, ids: Tensor, group: Tensor, rows: Tensor | None = None) -> None:
        """The next forward has these N rows: ids [N] int64, group [N] uint8, rows [K2, N]."""
        self._pending.clear()
        wanted = StatisticsArgs(
            rows=self.covariates.look_up(self._table, ids, group, rows),
            group=group,
            groups=len(self.groups),
            accum=self.accum,
            tau=TAU,
        )
        self._forward = CheckedRows(wanted, len(ids), ids.device)

    def arguments(self, point: str) -> CheckedStatistics:
        """What the fused op takes to fill the state of ``point``; `absorb` then gets its result."""
        if self._forward is None:
            raise RuntimeError("PointMoments.begin was not called before the forward")
        return CheckedStatistics(self._forward, self._states.get(point), self._spare.get(point))

    def absorb(self, point: str, state: MomentsState) -> None:
        """Keep what the fused op gave at ``point`` until `commit`."""
        self._pending[point] = state

    def add(self, point: str, hidden: Tensor) -> None:
        """Take the moments of ``hidden`` [..., D] at ``point``."""
        self.absorb(point, self.arguments(point).moments(hidden))

    def commit(self) -> None:
        """The forward is complete: what it gave counts."""
        for point, state in self._pending.items():
            if point in self._states:
                self._spare[point] = self._states[point]
            self._states[point] = state
        self._pending.clear()

    def discard(self) -> None:
        """The forward failed: nothing of it counts."""
        self._pending.clear()

    def moments(self, point: str, groups: Sequence[str]) -> Moments:
        """The moments of the rows of several groups together, merged in the order given."""
        total = Moments(self.covariates, accum=self.accum)
        if state := self._states.get(point):
            for group in groups:
                index = self.groups.index(group)
                total.absorb(*(part[index].cpu() for part in state))
        return total

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors on the CPU: ``<point>/head`` [G, 1 + 2 K] and ``<point>/body`` [G, R, D].

        Points that no forward has reached are left out. ``digest`` [4] int64 is that of the
        covariates.
        """
        states = under({point: parts._asdict() for point, parts in self._states.items()})
        states["digest"] = self.covariates.digest
        return {name: part.to("cpu", copy=True) for name, part in states.items()}

    def merge(self, state: Mapping[str, Tensor]) -> PointMoments:
        """Merge what `state_dict` of another one gave, as of later rows.

        Raises:
            DataError: A state of other covariates, points or groups, or a damaged one; nothing of
                it was merged.
        """
        digest = state.get("digest")
        if digest is None or not torch.equal(digest, self.covariates.digest):
            raise DataError("state: it was accumulated with other covariates or another table")
        states = {name: part for name, part in state.items() if name != "digest"}
        check_points(states, self.points, MomentsState._fields)
        merged = {}
        for point in self.points:
            if f"{point}/head" in state:
                merged[point] = self._merged(point, state)
        self._states |= merged
        return self

    def _merged(self, point: str, state: Mapping[str, Tensor]) -> MomentsState:
        """The state of ``point`` with the rows of another one behind."""
        later = MomentsState(*(state[f"{point}/{field}"] for field in MomentsState._fields))
        k = len(self.covariates.all_names)
        mine = self._states.get(point)
        d = later.body.shape[-1] if mine is None else mine.body.shape[-1]
        check_groups(f"{point}/head", later.head, self.groups, (head_size(k),))
        check_groups(f"{point}/body", later.body, self.groups, (body_rows(k, shape=True), d))
        if mine is None:
            return MomentsState(*(part.to(self._table.device, copy=True) for part in later))
        return MomentsState(*merge_states(mine, later, shape=True))
