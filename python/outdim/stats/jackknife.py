"""Intervals by leaving out blocks in turn: for statistics of sums that are kept by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]

#: Documents fall into so many blocks, which are left out in turn.
BLOCKS = 20
#: With fewer blocks an interval would say little.
MIN_BLOCKS = 5

Keys = TypeVar("Keys", int, "Tensor")


def block_of(keys: Keys) -> Keys:
    """The block of documents by their keys (`outdim.tokens.Piece`), so by their texts alone.

    Not by their numbers, which depend on how a corpus was cut; and equal documents, which are no
    two draws, are left out together.
    """
    return keys % BLOCKS


class LeftOut(NamedTuple):
    """A statistic of all blocks, and of all but one.

    Attributes:
        value: [...].
        without: [blocks, ...]: without each block; those of a block that holds nothing are the
            value itself, and are not counted.
        used: [blocks] bool.
        holds: bool, broadcast to ``without``: which blocks hold something of each value, where
            some of the values rest on fewer blocks than others; None: all that are used.
    """

    value: Floats
    without: Floats
    used: NDArray[np.bool_]
    holds: NDArray[np.bool_] | None = None

    def __sub__(self, other: LeftOut) -> LeftOut:
        """The difference of two statistics of the same documents, block by block."""
        return LeftOut(
            self.value - other.value,
            self.without - other.without,
            self.used & other.used,
            self.held & other.held,
        )

    def at(self, *index: Any) -> LeftOut:
        """Some of the values, by an index of ``value``."""
        of_each = (slice(None), *index)
        return LeftOut(self.value[index], self.without[of_each], self.used, self.held[of_each])

    @property
    def held(self) -> NDArray[np.bool_]:
        """`holds` in full, [blocks, ...]."""
        holds = self.holds
        if holds is None:
            holds = self.used.reshape(-1, *[1] * (self.without.ndim - 1))
        return np.broadcast_to(holds, self.without.shape)

    @property
    def blocks(self) -> NDArray[np.int64]:
        """On how many blocks each value rests, [...]."""
        return np.asarray(self.held.sum(0), np.int64)

    def interval(
        self, *, correlation: bool = False, share: bool = False, level: float = 0.95
    ) -> tuple[Floats, Floats]:
        """Low and high end by the delete-a-group jackknife, Student's t; NaN with few blocks.

        Blocks, and so degrees of freedom, are counted for each value.

        Args:
            correlation: Whether it is an r: then on Fisher's scale.
            share: Whether it is one of all: then it ends at 0 and 1.
            level: Of confidence.
        """
        from scipy.special import stdtrit

        held, count = self.held, self.blocks
        enough = count >= MIN_BLOCKS
        count = np.where(enough, count, MIN_BLOCKS)
        bound = 1 - 1e-15
        to = (lambda r: np.arctanh(np.clip(r, -bound, bound))) if correlation else np.asarray
        without = to(np.where(held, self.without, 0.0))
        with np.errstate(invalid="ignore"):  # what is infinite has no interval
            apart = np.where(held, without - without.sum(0) / count, 0.0)
        spread = (apart**2).sum(0) * (count - 1) / count
        t = stdtrit(np.maximum(np.arange(len(held) + MIN_BLOCKS) - 1, 1), (1 + level) / 2)[count]
        reach = np.where(enough, t * np.sqrt(spread), np.nan)
        centre = to(self.value)
        back = np.tanh if correlation else np.asarray
        low, high = back(centre - reach), back(centre + reach)
        return (np.clip(low, 0, 1), np.clip(high, 0, 1)) if share else (low, high)


def mean_of(found: Sequence[LeftOut]) -> LeftOut:
    """The mean of statistics of the same documents, block by block."""
    return LeftOut(
        np.mean([one.value for one in found], 0),
        np.mean([one.without for one in found], 0),
        np.all([one.used for one in found], 0),
        np.all([one.held for one in found], 0),
    )


def ratio(numerator: Floats, denominator: Floats) -> LeftOut:
    """Sums [blocks, ...] over sums that broadcast to them; NaN where there is nothing.

    Each value rests on the blocks where its own denominator is not 0.
    """

    def divide(top: Floats, bottom: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(bottom > 0, top / bottom, np.nan)

    top, bottom = numerator.sum(0), denominator.sum(0)
    used = np.asarray(denominator.reshape(len(denominator), -1).sum(1) > 0)
    return LeftOut(
        divide(top, bottom), divide(top - numerator, bottom - denominator), used, denominator > 0
    )


def pearson(n: Floats, x: Floats, y: Floats, xx: Floats, yy: Floats, xy: Floats) -> LeftOut:
    """Pearson's r [K, D] from sums by block, about one centre of all.

    Args:
        n: How many, [blocks].
        x: Of one variable, [blocks, K, 1].
        y: Of the other, [blocks, 1, D].
        xx: Of the square of the one.
        yy: Of the square of the other.
        xy: Of their product, [blocks, K, D].
    """

    def r(n: Floats, x: Floats, y: Floats, xx: Floats, yy: Floats, xy: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            m2x, m2y = xx - x * x / n, yy - y * y / n
            # What is left of a constant after rounding is no spread.
            flat = (m2x <= 1e-14 * xx) | (m2y <= 1e-14 * yy)
            return np.where(flat, np.nan, np.clip((xy - x * y / n) / np.sqrt(m2x * m2y), -1, 1))

    sums = (n[:, None, None], x, y, xx, yy, xy)
    totals = [part.sum(0) for part in sums]
    without = [total - part for total, part in zip(totals, sums, strict=True)]
    return LeftOut(r(*totals), r(*without), n > 0)
