"""In how many directions hidden states vary, with intervals by a sample of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outdim.analysis.sampled import Sampled
from outdim.stats.covariance import Scatter
from outdim.stats.spectrum import effective_rank, influence, isoscore, participation_ratio

#: Why selections other than that of the words have no such interval.
NO_SAMPLE = "an interval needs a sample, which is of words where the covariance is"


class Ranged(NamedTuple):
    """A number with its interval, and why either is not there."""

    value: float
    low: float = np.nan
    high: float = np.nan
    reason: str = ""


@dataclass(frozen=True)
class Directions:
    """The covariance of some dimensions by its principal axes.

    Attributes:
        scatter: Covariance of all dimensions, over all tokens.
        kept: Those dimensions, int64 [D].
        sampled: Some of the tokens, for intervals; None where there are none.
    """

    scatter: Scatter
    kept: NDArray[np.int64]
    sampled: Sampled | None = None

    @cached_property
    def _axes(self) -> tuple[Tensor, Tensor]:
        """Variances along the axes, ascending, [D], and the axes [D, D], where these are needed."""
        matrix = self.scatter.covariance[self.kept][:, self.kept]
        nothing = matrix.new_zeros(0)
        if not matrix.isfinite().all():
            return torch.full_like(matrix[0], torch.nan), nothing
        if self._no_interval:
            return torch.linalg.eigvalsh(matrix).clamp(min=0), nothing
        variances, axes = torch.linalg.eigh(matrix)
        return variances.clamp(min=0), axes

    @property
    def variances(self) -> Tensor:
        """Variances along the principal axes, ascending; NaN where values are not finite."""
        return self._axes[0]

    def numbers(self) -> Iterator[tuple[str, Ranged]]:
        """Each statistic by name."""
        rank, ratio = (self._number(one) for one in (effective_rank, participation_ratio))
        size = len(self.kept)
        if size > 1:
            value, low, high = (isoscore(end, size) for end in ratio[:3])
            yield "isoscore", Ranged(value, low, high, ratio.reason)
        else:
            yield "isoscore", Ranged(np.nan, reason="it needs two dimensions")
        yield "effective_rank", rank
        yield "participation_ratio", ratio

    @property
    def _no_interval(self) -> str:
        """Why there is none; "" where there is."""
        if self.sampled is None:
            return NO_SAMPLE
        if self.scatter.n < len(self.kept):
            return "an interval needs as many words as dimensions"
        return self.sampled.no_interval

    def _number(self, statistic: Callable[[Tensor], Tensor]) -> Ranged:
        """A statistic of the variances, with its interval.

        Few tokens, or few documents of them, make some directions look larger than others: both
        statistics fall short by what is, of their reciprocals, in proportion to one over either
        number. The interval reaches from the value and from the value without that.
        """
        variances, axes = self._axes
        if not variances.isfinite().all():
            return Ranged(np.nan, reason="nonfinite values")
        if not variances.any():
            return Ranged(np.nan, reason="nothing varies")
        value = float(statistic(variances))
        if self.sampled is None or self._no_interval:
            return Ranged(value, reason=self._no_interval)
        rows = torch.from_numpy(self.sampled.rows)[:, self.kept]
        parts = ((rows - self.scatter.mean[self.kept]) @ axes).square()
        reach = float(self.sampled.reach(influence(statistic, variances, parts)))

        def reciprocal(part: Tensor) -> float:
            spread = torch.linalg.svdvals(part - part.mean(0)).square()  # n times the variances
            return 1 / float(statistic(spread))

        rest = 1 / value - self.sampled.excess(reciprocal, rows, self.scatter.n)
        size = float(len(self.kept))
        ends = [value, 1 / rest if rest > 1 / size else size]
        return Ranged(value, max(min(ends) - reach, 1.0), min(max(ends) + reach, size))
