"""Mid-ranks of token frequencies, and the statistics of one histogram of ranks."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


def double_mid_ranks(counts: Int64) -> Int64:
    """Twice the mid-rank of each token's frequency within the stream that the counts describe.

    The tokens whose type occurs c times all tie, over all types of that count: with `below` tokens
    of rarer types and t tied ones, their mean rank is below + (t + 1) / 2. Types that do not occur
    get the rank they would have, which no token asks for.

    >>> double_mid_ranks(np.array([3, 1, 1, 0])).tolist()  # frequencies 1 1 3 3 3
    [8, 3, 3, 1]
    """
    values, inverse, types = np.unique(counts, return_inverse=True, return_counts=True)
    tied = values * types
    below = np.cumsum(tied) - tied
    ranks: Int64 = (2 * below + tied + 1)[inverse].astype(np.int64)
    return ranks


def pattern_values(dtype: torch.dtype) -> Float64:
    """Value of each of the 65,536 patterns of a 16-bit type, as float64."""
    values: Float64 = torch.arange(1 << 16).to(torch.int16).view(dtype).double().numpy()
    return values


@dataclass(frozen=True)
class ValueHistogram:
    """Distinct values of one dimension in ascending order, with counts and rank sums."""

    values: Float64
    count: Int64
    rank_sum: Int64

    @staticmethod
    def of_patterns(
        values: Float64, count: Int64, rank_sum: Int64, absolute: bool
    ) -> "ValueHistogram":
        """Sort the patterns that occur by value; -0 and +0, and with `absolute` -v and v, tie."""
        present = np.flatnonzero(count)
        keys = np.abs(values[present]) if absolute else values[present] + 0.0
        distinct, inverse = np.unique(keys, return_inverse=True)
        totals = np.zeros((2, len(distinct)), dtype=np.int64)
        np.add.at(totals[0], inverse, count[present])
        np.add.at(totals[1], inverse, rank_sum[present])
        return ValueHistogram(distinct, totals[0], totals[1])

    def spearman(self, n: int, rank_m2: float) -> float:
        """Correlate the mid-ranks of the values with the frequency ranks that were summed.

        Everything is doubled and centred at n + 1, so that the terms are integers and only the
        last sums are rounded. `rank_m2` is sum (double rank - (n + 1))^2 of the frequencies.
        """
        below = np.cumsum(self.count) - self.count
        centred = (2 * below + self.count - n).astype(np.float64)
        sums = (self.rank_sum - self.count * (n + 1)).astype(np.float64)
        m2 = float(np.sum(self.count * centred * centred))
        return float(np.sum(centred * sums) / (np.sqrt(m2) * np.sqrt(rank_m2)))

    def quantile(self, q: float) -> float:
        """Quantile with linear interpolation between order statistics, as numpy.quantile."""
        last = np.cumsum(self.count) - 1
        position = q * float(last[-1])
        low = int(np.floor(position))
        lower, upper = self.values[np.searchsorted(last, [low, min(low + 1, last[-1])])]
        fraction = position - low
        if fraction == 0 or lower == upper:
            return float(lower)
        return float(lower + (upper - lower) * fraction)
