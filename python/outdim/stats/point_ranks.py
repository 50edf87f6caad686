"""Rank histograms of chosen dimensions at many points of a model, from whole forwards only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from outdim.errors import ArgumentError, DataError, DtypeError
from outdim.stats.named import below
from outdim.stats.rank_histogram import HALF_CODES, RankHistogram, check_state
from outdim.stats.rank_result import RankResult

_SHARED = ("dims", "counts", "frequencies", "seen")  # every point sees the same rows
_OWN = ("page_index", "count", "rank_sum", "dtype")


class PointRanks:
    """What a `RankHistogram` per point would hold.

    It is one histogram, of the chosen columns of all points side by side: a batch is counted in one
    call, and on a GPU nothing waits for the forward (`RankHistogram` says when it has to).

    States of 32 bits are rounded to bfloat16 (a relative error of up to 2^-9): values that it
    cannot tell apart tie. Memory: at most 1 MiB a point and dimension, on the CPU in practice some
    tens of KiB.

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
        columns = list(range(len(self.points) * len(self.dims)))
        self._histogram = RankHistogram(columns, counts, frequencies=frequencies)
        self._dtypes: dict[str, torch.dtype] = {}  # those counted; the patterns do not tell
        self._dims = torch.tensor(self.dims)
        self._groups = list(groups)
        self._ids = self._mask = torch.zeros(0)
        self._pending: dict[str, Tensor] = {}

    def begin(self, ids: Tensor, group: Tensor, rows: Tensor) -> None:
        """The next forward has these N rows: ids [N] int64, group [N] uint8."""
        self._pending.clear()
        self._ids, self._mask = ids, torch.zeros_like(group, dtype=torch.bool)
        for number in self._groups:  # a list would have to be sent to the device
            self._mask |= group == number

    def add(self, point: str, hidden: Tensor) -> None:
        """Keep the chosen columns of ``hidden`` [..., D] until `commit`.

        Raises:
            DtypeError: Another dtype than in forwards before.
        """
        if self._dims.device != hidden.device:
            self._dims = self._dims.to(hidden.device)
        rows = hidden.detach().reshape(-1, hidden.shape[-1])
        columns = rows.gather(1, self._dims.expand(len(rows), -1))  # the fastest way to pick a few
        half = columns if columns.dtype in HALF_CODES else columns.bfloat16()
        before = self._dtypes.get(point, half.dtype)
        if before != half.dtype:
            raise DtypeError(f"hidden: expected {before} as before at {point}, got {half.dtype}")
        self._pending[point] = half

    def commit(self) -> None:
        """The forward is complete."""
        if not self._pending:
            return
        if missing := set(self.points) - self._pending.keys():
            raise RuntimeError(f"PointRanks: no hidden states at {', '.join(sorted(missing))}")
        halves = [self._pending[point] for point in self.points]
        patterns = torch.cat([half.view(torch.int16) for half in halves], 1)
        self._histogram.update(patterns.view(torch.bfloat16), self._ids, self._mask)
        self._dtypes = {point: half.dtype for point, half in self._pending.items()}
        self._pending.clear()

    def discard(self) -> None:
        """The forward failed."""
        self._pending.clear()

    def compute(self) -> dict[str, RankResult]:
        """The exact statistics of each point, whose dimension s is ``dims[s]``.

        Raises:
            DataError: The tokens seen are not those that `counts` describes.
        """
        whole, size = self._histogram.compute(), len(self.dims)
        return {
            point: replace(
                whole,
                dims=self.dims,
                page_index=whole.page_index[first * size : (first + 1) * size],
                dtype=self._dtypes.get(point, torch.bfloat16),
            )
            for first, point in enumerate(self.points)
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors ``<point>/<field>``; what all points share is there once.

        They are those of a `RankHistogram` of dimensions 0 to S - 1 at each point.
        """
        whole = self._histogram.state_dict()
        index = whole["page_index"].view(len(self.points), len(self.dims), -1)
        held = index >= 0
        pages = held.sum((1, 2))
        first = pages.cumsum(0) - pages  # pages are in the order of points
        index = torch.where(held, index - first[:, None, None], -1)
        state = {name: whole[name] for name in _SHARED}
        state["dims"] = torch.arange(len(self.dims))
        parts = (torch.split(whole[name], pages.tolist()) for name in ("count", "rank_sum"))
        for point, *fields in zip(self.points, index, *parts, strict=True):
            fields.append(torch.tensor(self._code(point)))
            state |= {
                f"{point}/{name}": part.clone() for name, part in zip(_OWN, fields, strict=True)
            }
        return state

    def _code(self, point: str) -> int:
        return HALF_CODES[self._dtypes[point]] if point in self._dtypes else 0

    def merge(self, state: Mapping[str, Tensor]) -> PointRanks:
        """Add what `state_dict` of another one gave.

        Raises:
            ArgumentError: The hidden states were of another dtype.
            DataError: A state of other points, dims or counts, or a damaged one; nothing of it was
                merged.
        """
        expected = {*_SHARED, *(f"{point}/{name}" for point in self.points for name in _OWN)}
        if state.keys() != expected:
            raise DataError(f"state: expected the keys {sorted(expected)}, got {sorted(state)}")
        shared = {name: state[name] for name in _SHARED}
        parts = {point: below(f"{point}/", state) for point in self.points}
        if not torch.equal(shared["dims"].cpu(), torch.arange(len(self.dims))):
            raise DataError("state: it has other dims; build PointRanks alike")
        for part in parts.values():
            check_state({**shared, **part}, len(self.dims), len(self._histogram.counts))
        dtypes = _dtypes(parts)
        for point, dtype in dtypes.items():
            if self._dtypes.get(point, dtype) != dtype:
                raise ArgumentError(
                    f"state: expected {self._dtypes[point]} at {point}, got {dtype}"
                )
        mine = self._histogram
        other = RankHistogram(mine.dims.cpu(), mine.counts, frequencies=mine.frequencies)
        mine.merge(other.load_state_dict({**shared, **_side_by_side(list(parts.values()))}))
        self._dtypes |= dtypes
        return self


def _dtypes(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, torch.dtype]:
    """The dtype of the hidden states of each point that has some."""
    of_code = {code: dtype for dtype, code in HALF_CODES.items()}
    codes = {point: int(part["dtype"]) for point, part in parts.items()}
    return {point: of_code[code] for point, code in codes.items() if code in of_code}


def _side_by_side(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The fields of a histogram of the columns of several, whose pages follow each other."""
    sizes = [len(part["count"]) for part in parts]
    moved = [
        torch.where(part["page_index"] >= 0, part["page_index"] + first, -1)
        for part, first in zip(parts, accumulate(sizes, initial=0), strict=False)
    ]
    index = torch.cat(moved)
    return {
        "dims": torch.arange(len(index)),
        "page_index": index,
        "count": torch.cat([part["count"] for part in parts]),
        "rank_sum": torch.cat([part["rank_sum"] for part in parts]),
        "dtype": torch.stack([part["dtype"] for part in parts]).max(),
    }
