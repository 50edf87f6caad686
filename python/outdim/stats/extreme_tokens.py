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
        offset: Which token of the document is the first of the sequence.
        position: Within the sequence.
        id: Of the token.
        before, after: Ids around it in the sequence.
    """

    value: float
    document: int
    offset: int
    position: int
    id: int
    before: tuple[int, ...]
    after: tuple[int, ...]


class ExtremeTokens:
    """The T tokens with the largest |h| of every point and chosen dimension, in a total order.

    Of equal |h| the earlier document, sequence, then position comes first: so merging is
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
        """Values [P, k, T] float64, NaN where there is none, and places [P, k, T, 3 + window]."""
        size = len(self.points), self.dims, self.kept
        width = 3 + BEFORE + 1 + AFTER
        return (
            torch.full(size, torch.nan, dtype=torch.float64),
            torch.full((*size, width), -1, dtype=torch.int64),
        )

    def add(
        self,
        columns: Mapping[str, Tensor],
        kept: Tensor,
        ids: Tensor,
        documents: Tensor,
        offsets: Tensor,
    ) -> None:
        """Take the values of a forward, all on the CPU.

        Args:
            columns: By point, [B, S, k].
            kept: [B, S] bool, which tokens count.
            ids: [B, S] int64; -1 where padded.
            documents: [B] int64.
            offsets: [B] int64, which token of its document is the first of each sequence.
        """
        if not self.dims or not bool(kept.any()):
            return
        row, position = kept.nonzero(as_tuple=True)
        where = torch.stack([documents[row], offsets[row], position], -1)
        order = _order([*where.unbind(-1)])  # that decides between equal values
        row, position, where = row[order], position[order], where[order]
        values = torch.stack([columns[point][row, position] for point in self.points])  # [P, N, k]
        values = values.double().transpose(1, 2).contiguous()
        among = _candidates(values, self.kept)  # [P, k, n]
        windows = _windows(ids)[row, position]
        where = torch.cat([where, windows], -1)[among]
        found = values.gather(2, among)
        missing = ~found.isfinite()
        found = found.masked_fill(missing, torch.nan)
        where = where.masked_fill(missing[..., None], -1)
        self._pending = _largest(*self._with(self._pending or self._found, found, where), self.kept)

    @staticmethod
    def _with(held: tuple[Tensor, Tensor], values: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([held[0], values], 2), torch.cat([held[1], places], 2)

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
            Extreme(value, document, offset, position, window[BEFORE], *_around(window))
            for value, (document, offset, position, *window) in zip(values, places, strict=True)
            if document >= 0
        ]

    def state_dict(self) -> dict[str, Tensor]:
        """``values`` [P, k, T] float64 and ``places`` [P, k, T, 3 + window] int64."""
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
        both = self._with(self._found, state["values"], state["places"])
        self._found = _largest(*both, self.kept)
        return self


def _candidates(values: Tensor, kept: int) -> Tensor:
    """Indices [P, k, n] of the n largest |values| [P, k, N], of equal ones the first."""
    count = min(kept, values.shape[-1])
    sizes = torch.where(values.isfinite(), values.abs(), -1)
    least = sizes.topk(count).values[..., -1:]
    over, equal = sizes > least, sizes == least
    wanted = count - over.sum(-1, keepdim=True)
    chosen = over | (equal & (equal.cumsum(-1) <= wanted))
    return chosen.nonzero()[:, -1].view(*values.shape[:2], count)


def _largest(values: Tensor, places: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The first ones of [P, k, n] by |value|, document, offset and position; NaN is none."""
    sizes = torch.where(values.isnan(), -1, values.abs())
    order = _order([-sizes, *places[..., :3].unbind(-1)])[..., :kept]
    wide = order[..., None].expand(*order.shape, places.shape[-1])
    return values.gather(-1, order), places.gather(-2, wide)


def _order(keys: Sequence[Tensor]) -> Tensor:
    """Indices that sort the last dimension, by the first key, then the next."""
    order = keys[-1].argsort(dim=-1, stable=True)
    for key in reversed(keys[:-1]):
        order = order.gather(-1, key.gather(-1, order).argsort(dim=-1, stable=True))
    return order


def _windows(ids: Tensor) -> Tensor:
    """Of ids [B, S], those around each: [B, S, window] int64, -1 beyond the ends."""
    padded = torch.nn.functional.pad(ids, (BEFORE, AFTER), value=-1)
    return padded.unfold(1, BEFORE + 1 + AFTER, 1)


def _around(window: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    before, after = window[:BEFORE], window[BEFORE + 1 :]
    return tuple(i for i in before if i >= 0), tuple(i for i in after if i >= 0)
