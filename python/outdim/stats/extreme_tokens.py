"""The tokens at which chosen dimensions are largest, with what stands around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from outdim.errors import DataError

#: Tokens of the context that are kept before and behind.
BEFORE, AFTER = 8, 4


class Extreme(NamedTuple):
    """A token at which a dimension is large.

    Attributes:
        value: The h there.
        document: Its number.
        position: Within the sequence.
        id: Of the token.
        before, after: Ids around it in the sequence.
    """

    value: float
    document: int
    position: int
    id: int
    before: tuple[int, ...]
    after: tuple[int, ...]


class ExtremeTokens:
    """The T tokens with the largest |h| of every point and chosen dimension, in a total order.

    Of equal |h| the earlier document, then the earlier position comes first: so merging is
    associative and commutative, and any split of the tokens into batches keeps the same ones.
    Values that are not finite are left out.

    Args:
        points: Names of the points, P.
        dims: How many dimensions, k.
        kept: T.
    """

    def __init__(self, points: Sequence[str], dims: int, kept: int) -> None:
        self.points, self.dims, self.kept = tuple(points), dims, kept
        self._found = self._empty()
        self._pending: tuple[Tensor, Tensor] | None = None

    def _empty(self) -> tuple[Tensor, Tensor]:
        """Values [P, k, T] float64, NaN where there is none, and places [P, k, T, 2 + window]."""
        size = len(self.points), self.dims, self.kept
        width = 2 + BEFORE + 1 + AFTER
        return (
            torch.full(size, torch.nan, dtype=torch.float64),
            torch.full((*size, width), -1, dtype=torch.int64),
        )

    def add(
        self, columns: Mapping[str, Tensor], kept: Tensor, ids: Tensor, documents: Tensor
    ) -> None:
        """Take the values of a forward, all on the CPU.

        Args:
            columns: By point, [B, S, k].
            kept: [B, S] bool, which tokens count.
            ids: [B, S] int64; -1 where padded.
            documents: [B] int64.
        """
        values, places = (part.clone() for part in self._pending or self._found)
        row, position = kept.nonzero(as_tuple=True)
        order = torch.stack([documents[row], position], -1)
        windows = _windows(ids)
        for p, point in enumerate(self.points):
            column = columns[point][row, position].double()  # [N, k]
            for d in range(self.dims):
                size = column[:, d].abs()
                among = _candidates(size, values[p, d], self.kept)
                if not len(among):
                    continue
                found = torch.cat(
                    [order[among], windows[row[among], position[among]]], -1
                )  # [n, 2 + window]
                values[p, d], places[p, d] = _largest(
                    torch.cat([values[p, d], column[among, d]]),
                    torch.cat([places[p, d], found]),
                    self.kept,
                )
        self._pending = values, places

    def commit(self) -> None:
        """The forward is complete: what it gave counts."""
        self._found = self._pending or self._found
        self._pending = None

    def discard(self) -> None:
        """The forward failed: nothing of it counts."""
        self._pending = None

    def tokens(self, point: str, dim: int) -> list[Extreme]:
        """Those of a point and of the dimension with this index, the largest first."""
        p = self.points.index(point)
        values, places = (part[p, dim].tolist() for part in self._found)
        return [
            Extreme(value, document, position, window[BEFORE], *_around(window))
            for value, (document, position, *window) in zip(values, places, strict=True)
            if document >= 0
        ]

    def state_dict(self) -> dict[str, Tensor]:
        """``values`` [P, k, T] float64 and ``places`` [P, k, T, 2 + window] int64."""
        values, places = self._found
        return {"values": values.clone(), "places": places.clone()}

    def merge(self, state: Mapping[str, Tensor]) -> Self:
        """Take those of other tokens.

        Raises:
            DataError: A state of other points or dimensions; nothing of it was merged.
        """
        values, places = self._found
        if state["values"].shape != values.shape or state["places"].shape != places.shape:
            raise DataError(
                f"state: expected {tuple(values.shape)} values, got {tuple(state['values'].shape)}"
            )
        both = torch.cat([values, state["values"]], 2), torch.cat([places, state["places"]], 2)
        values, places = self._empty()
        for p in range(len(self.points)):
            for d in range(self.dims):
                values[p, d], places[p, d] = _largest(both[0][p, d], both[1][p, d], self.kept)
        self._found = values, places
        return self


def _candidates(size: Tensor, held: Tensor, kept: int) -> Tensor:
    """Indices of values that may be among the largest, all of those equal to the last of them."""
    known = size.isfinite()
    least = size.new_tensor(-1.0) if held[-1].isnan() else held[-1].abs()
    if len(size) > kept:
        largest = torch.where(known, size, -1).topk(kept).values[-1]
        least = torch.maximum(least, largest)
    found: Tensor = (known & (size >= least)).nonzero()[:, 0]
    return found


def _largest(values: Tensor, places: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The first ones by |value|, then by document and position; NaN stands for none."""
    order = torch.arange(len(values))
    keys = (places[:, 1], places[:, 0], torch.where(values.isnan(), -1, values.abs()).neg())
    for key in keys:  # the last key decides first
        order = order[key[order].argsort(stable=True)]
    order = order[:kept]
    return values[order], places[order]


def _windows(ids: Tensor) -> Tensor:
    """Of ids [B, S], those around each: [B, S, window] int64, -1 beyond the ends."""
    padded = torch.nn.functional.pad(ids, (BEFORE, AFTER), value=-1)
    return padded.unfold(1, BEFORE + 1 + AFTER, 1)


def _around(window: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    before, after = window[:BEFORE], window[BEFORE + 1 :]
    return tuple(i for i in before if i >= 0), tuple(i for i in after if i >= 0)
