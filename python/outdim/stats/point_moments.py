"""Moments of many points of a model by group of tokens, taken from whole forwards only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from outdim.ops import MomentsState, StatisticsArgs, moments
from outdim.stats.covariates import Covariates
from outdim.stats.moments import Moments


class PointMoments:
    """`Moments` per (point, group of tokens).

    What a forward gives is kept apart until `commit`, so that a forward that fails half-way (out of
    memory) leaves nothing behind and can be tried again with the same tokens.

    Args:
        points: Names of the points.
        groups: Names of the groups; group g of the kernels is ``groups[g - 1]``, 0 is left out.
        covariates: By token id and per row.
        accum: ``"exact"`` or ``"fast"``, as `outdim.ops.moments`.
        device: Where the hidden states are.
    """

    def __init__(
        self,
        points: Sequence[str],
        groups: Sequence[str],
        covariates: Covariates,
        *,
        accum: Literal["exact", "fast"] = "exact",
        device: torch.device | str = "cpu",
    ) -> None:
        self.points, self.groups = tuple(points), tuple(groups)
        self.covariates, self.accum = covariates, accum
        self._moments = {
            (point, group): Moments(covariates, accum=accum)
            for point in self.points
            for group in self.groups
        }
        self._table = covariates.table.to(device)
        self._arguments: StatisticsArgs | None = None
        self._pending: dict[str, MomentsState] = {}

    def begin(self, ids: Tensor, group: Tensor, rows: Tensor | None = None) -> None:
        """The next forward has these N rows: ids [N] int64, group [N] uint8, rows [K2, N]."""
        self._pending.clear()
        self._arguments = StatisticsArgs(
            ids=ids,
            table=self._table,
            rows=rows,
            group=group,
            groups=len(self.groups),
            accum=self.accum,
        )

    def arguments(self, point: str) -> StatisticsArgs:
        """What the fused op takes to fill the state of ``point``; `absorb` then gets its result."""
        if self._arguments is None:
            raise RuntimeError("PointMoments.begin was not called before the forward")
        return self._arguments

    def absorb(self, point: str, state: MomentsState) -> None:
        """Keep what the fused op gave at ``point`` until `commit`."""
        self._pending[point] = state

    def add(self, point: str, hidden: Tensor) -> None:
        """Take the moments of ``hidden`` [..., D] at ``point``."""
        self.absorb(point, moments(hidden, **vars(self.arguments(point))))

    def commit(self) -> None:
        """The forward is complete: what it gave counts."""
        for point, state in self._pending.items():
            head, body = state.head.cpu(), state.body.cpu()
            for index, group in enumerate(self.groups):
                self._moments[point, group].absorb(head[index], body[index])
        self._pending.clear()

    def discard(self) -> None:
        """The forward failed: nothing of it counts."""
        self._pending.clear()

    def moments(self, point: str, groups: Sequence[str]) -> Moments:
        """The moments of the rows of several groups together, merged in the order given."""
        total = Moments(self.covariates, accum=self.accum)
        for group in groups:
            total.merge(self._moments[point, group])
        return total

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors ``<point>/<group>/<field>``."""
        return {
            f"{point}/{group}/{field}": tensor
            for (point, group), moments in self._moments.items()
            for field, tensor in moments.state_dict().items()
        }

    def merge(self, state: Mapping[str, Tensor]) -> PointMoments:
        """Merge what `state_dict` of another one gave, as of later rows."""
        for (point, group), mine in self._moments.items():
            prefix = f"{point}/{group}/"
            fields = {
                key[len(prefix) :]: tensor
                for key, tensor in state.items()
                if key.startswith(prefix)
            }
            mine.merge(Moments(mine.covariates, accum=self.accum).load_state_dict(fields))
        return self
