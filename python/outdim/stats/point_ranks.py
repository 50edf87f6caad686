"""Rank histograms of chosen dimensions at many points of a model, from whole forwards only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from outdim.stats.named import below
from outdim.stats.rank_histogram import RankHistogram

_HALVES = (torch.float16, torch.bfloat16)


class PointRanks:
    """A `RankHistogram` per point.

    States of 32 bits are rounded to bfloat16 (a relative error of up to 2^-9): values that it
    cannot tell apart tie. Memory: at most 1 MiB a point and dimension, in practice some tens of
    KiB.

    Args:
        points: Names of the points.
        dims: S dimensions.
        counts: [V] int64, how often each token id occurs among the rows that are counted.
        groups: Numbers of the groups whose rows are counted.
        frequencies: [V] int64, the token frequencies that are ranked; None: the counts.
    """

    def __init__(
        self,
        points: Sequence[str],
        dims: Sequence[int],
        counts: Any,
        groups: Sequence[int],
        frequencies: Any = None,
    ) -> None:
        self.points, self.dims = tuple(points), list(dims)
        numbers = list(range(len(dims)))
        self._histograms = {
            point: RankHistogram(numbers, counts, frequencies=frequencies) for point in points
        }
        self._groups = list(groups)
        self._ids = self._mask = torch.zeros(0)
        self._pending: dict[str, Tensor] = {}

    def begin(self, ids: Tensor, group: Tensor, rows: Tensor) -> None:
        """The next forward has these N rows: ids [N] int64, group [N] uint8."""
        self._pending.clear()
        self._ids = ids
        self._mask = torch.isin(group, torch.tensor(self._groups, device=group.device))

    def add(self, point: str, hidden: Tensor) -> None:
        """Keep the chosen columns of ``hidden`` [..., D] until `commit`."""
        columns = hidden.reshape(-1, hidden.shape[-1])[:, self.dims]
        half = columns if columns.dtype in _HALVES else columns.bfloat16()
        self._pending[point] = half.contiguous()

    def commit(self) -> None:
        """The forward is complete."""
        for point, columns in self._pending.items():
            self._histograms[point].update(columns, self._ids, self._mask)
        self._pending.clear()

    def discard(self) -> None:
        """The forward failed."""
        self._pending.clear()

    def histogram(self, point: str) -> RankHistogram:
        """The histogram at a point; its dimension s is ``dims[s]``."""
        return self._histograms[point]

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors ``<point>/<field>``; what all points share is there once."""
        state: dict[str, Tensor] = {}
        for point, histogram in self._histograms.items():
            fields = histogram.state_dict()
            for name in _SHARED:
                state[name] = fields.pop(name)
            state |= {f"{point}/{name}": tensor for name, tensor in fields.items()}
        return state

    def merge(self, state: Mapping[str, Tensor]) -> PointRanks:
        """Add what `state_dict` of another one gave."""
        shared = {name: state[name] for name in _SHARED if name in state}
        for point, mine in self._histograms.items():
            fields = below(f"{point}/", state)
            other = RankHistogram(mine.dims.cpu(), mine.counts, frequencies=mine.frequencies)
            mine.merge(other.load_state_dict({**shared, **fields}))
        return self


_SHARED = ("dims", "counts", "frequencies", "seen")  # every point sees the same rows
