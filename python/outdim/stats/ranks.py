"""Mid-ranks of token frequencies, and the statistics of histograms of ranks."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from outdim.errors import ArgumentError
from outdim.ops.rank_histogram import PAGE_BINS

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


def double_mid_ranks(counts: Int64, frequencies: Int64 | None = None) -> Int64:
    """Twice the mid-rank of each token's frequency within the stream that the counts describe.

    The tokens whose types are equally frequent all tie: with `below` tokens of rarer types and t
    tied ones, their mean rank is below + (t + 1) / 2. Types that do not occur in the stream get the
    rank they would have, which no token asks for.

    Args:
        counts: How often each type occurs in the stream, [V].
        frequencies: What is ranked, [V]: those of another corpus, say. None: the counts themselves.

    Raises:
        ArgumentError: 2^62 tokens or more, whose doubled ranks int64 cannot hold.

    Example:
        >>> double_mid_ranks(np.array([3, 1, 1, 0])).tolist()  # frequencies 1 1 3 3 3
        [8, 3, 3, 1]
        >>> double_mid_ranks(np.array([3, 1, 1, 0]), np.array([5, 5, 9, 0])).tolist()  # 5 5 5 5 9
        [5, 5, 10, 1]
    """
    if counts.sum(dtype=np.float64) >= 2.0**62:
        raise ArgumentError(
            f"counts: expected less than 2^62 tokens, whose ranks int64 can hold, got "
            f"{counts.sum(dtype=np.float64):.3g}"
        )
    order = counts if frequencies is None else frequencies
    values, inverse = np.unique(order, return_inverse=True)
    tied = np.zeros(len(values), np.int64)
    np.add.at(tied, inverse, counts)
    below = np.cumsum(tied) - tied
    return (2 * below + tied + 1)[inverse].astype(np.int64)


@cache
def pattern_values(dtype: torch.dtype) -> tuple[Float64, Float64]:
    """Values of a 16-bit type by page of 256 patterns, in ascending order: [256, 256], [128, 256].

    The first are of all patterns, those of negative values from the largest down, then those of
    positive ones up; the second of positive ones alone. NaN is at the ends.
    """
    patterns = torch.arange(1 << 16).to(torch.int16).view(dtype).double().numpy() + 0.0  # no -0
    positive, negative = patterns.reshape(2, -1, PAGE_BINS)
    return np.concatenate([negative[::-1, ::-1], positive]), positive


@dataclass(frozen=True)
class SortedValues:
    """Distinct values of some dimensions, n tokens each: by dimension, ascending within one.

    A dimension with NaN has them at its ends, and NaN as results.
    """

    n: int
    dim: Int64  # [E], from 0
    values: Float64  # [E]
    count: Int64  # [E]
    rank_sum: Int64  # [E]

    @staticmethod
    def of_pages(
        page_index: Int64, sums: Int64, dtype: torch.dtype, n: int, absolute: bool
    ) -> "SortedValues":
        """Gather the pages [2, pages, 256] of dimensions, page_index [S, 256], -1 for none.

        The order of patterns by value is the same for all, so nothing is sorted: pages are taken in
        that order and bins that are zero left out. -0 and +0, and with `absolute` -v and v, tie.
        """
        positive, negative = page_index[:, :128], page_index[:, 128:]
        table = pattern_values(dtype)[int(absolute)]
        if absolute:
            dim, page = np.nonzero((positive >= 0) | (negative >= 0))
            totals = np.zeros((2, len(page), PAGE_BINS), dtype=np.int64)
            for half in (positive[dim, page], negative[dim, page]):
                totals[:, half >= 0] += sums[:, half[half >= 0]]
        else:
            index = np.concatenate([negative[:, ::-1], positive], axis=1)
            dim, page = np.nonzero(index >= 0)
            totals = sums.take(index[dim, page], axis=1)
            totals[:, page < 128] = totals[:, page < 128, ::-1]
        bins = np.flatnonzero(totals[0])
        at = bins // PAGE_BINS
        dim, values = dim[at], table.take(page[at] * PAGE_BINS + bins % PAGE_BINS)
        changes = (dim[1:] != dim[:-1]) | (values[1:] != values[:-1])
        first = np.flatnonzero(np.concatenate([[True], changes]))
        count, rank_sum = np.add.reduceat(totals.reshape(2, -1).take(bins, axis=1), first, axis=1)
        return SortedValues(n, dim[first], values[first], count, rank_sum)

    def has_nan(self) -> Bool:
        """Whether each dimension has a NaN."""
        return np.logical_or.reduceat(np.isnan(self.values), self._starts())

    def constant(self) -> Bool:
        """Whether each dimension has one value only."""
        return np.diff(self._starts(), append=len(self.dim)) < 2

    def spearman(self, rank_m2: float) -> Float64:
        """Correlate the mid-ranks of the values with the frequency ranks that were summed.

        Everything is doubled and centred at n + 1, so that the terms are integers and only the
        last sums are rounded. `rank_m2` is sum (double rank - (n + 1))^2 of the frequencies.
        """
        below = np.cumsum(self.count) - self.count - self.dim * self.n
        centred = (2 * below + self.count - self.n).astype(np.float64)
        sums = (self.rank_sum - self.count * (self.n + 1)).astype(np.float64)
        m2 = np.add.reduceat(self.count * centred * centred, self._starts())
        cross = np.add.reduceat(centred * sums, self._starts())
        with np.errstate(invalid="ignore"):  # 0 / 0 where either is constant
            rho = cross / (np.sqrt(m2) * np.sqrt(rank_m2))
        return np.where(self.has_nan(), np.nan, rho)

    def quantile(self, q: float) -> Float64:
        """Quantiles with linear interpolation between order statistics, as numpy.quantile.

        Between an infinity and another value there is none: NaN.
        """
        position = q * (self.n - 1)
        low = int(np.floor(position))
        starts = self.n * np.arange(self.dim[-1] + 1)
        end = np.cumsum(self.count)
        lower, upper = (
            self.values[np.searchsorted(end, starts + rank, side="right")]
            for rank in (low, min(low + 1, self.n - 1))
        )
        apart = (position > low) & (lower != upper)  # infinite ones have no difference
        step = np.subtract(upper, lower, out=np.zeros_like(lower), where=apart)
        with np.errstate(invalid="ignore"):
            return np.where(self.has_nan(), np.nan, lower + step * (position - low))

    def _starts(self) -> Int64:
        return np.searchsorted(self.dim, np.arange(self.dim[-1] + 1))
