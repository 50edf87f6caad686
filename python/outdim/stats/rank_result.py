"""What a histogram of ranks says: Spearman's rho, medians and quantiles."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.stats.ranks import Float64, Int64, SortedValues

_BLOCK_DIMS = 16  # at most 1 MiB each, twice over


@dataclass(frozen=True, eq=False)
class RankResult:
    """Spearman's rho, medians and quantiles of S dimensions."""

    dims: list[int]
    token_counts: Int64  # [V]
    double_ranks: Int64  # [V]
    page_index: Int64  # [S, 256]
    sums: Int64  # [2, pages, 256], counts and sums of double ranks
    dtype: torch.dtype

    @property
    def n(self) -> int:
        """Number of tokens."""
        return int(self.token_counts.sum())

    @property
    def median(self) -> Tensor:
        """Median of each dimension, [S] float64."""
        return self.quantile(0.5)

    def spearman(self, of: Literal["h", "abs"] = "h") -> Tensor:
        """Spearman's rho of h or |h| with token frequency, [S] float64; NaN: see `reason`."""
        ranks = self.double_ranks.astype(np.float64) - (self.n + 1)
        rank_m2 = float(np.sum(self.token_counts * ranks * ranks))
        return self._each(of, lambda values: values.spearman(rank_m2)).clamp(-1, 1)

    def reason(self, of: Literal["h", "abs"] = "h") -> list[str]:
        """Why each rho is NaN, "" where it is a number; the texts are those of MomentsResult."""
        if self.n < 2:
            _check_of(of)
            return ["fewer than two tokens"] * len(self.dims)
        used = self.double_ranks[self.token_counts > 0]
        rest = "constant covariate" if used.min() == used.max() else ""
        return [
            "nonfinite values" if nonfinite else rest or ("constant dimension" if constant else "")
            for values in self._blocks(of)
            for nonfinite, constant in zip(values.has_nan(), values.constant(), strict=True)
        ]

    def quantile(self, q: float, of: Literal["h", "abs"] = "h") -> Tensor:
        """Quantile of h or |h|, [S] float64, interpolated linearly as numpy.quantile does.

        NaN where there is no token or a NaN value.

        Raises:
            ArgumentError: q outside [0, 1].
        """
        if not 0 <= q <= 1:
            raise ArgumentError(f"q: expected a number in [0, 1], got {q}")
        return self._each(of, lambda values: values.quantile(q))

    def _each(self, of: str, statistic: Callable[[SortedValues], Float64]) -> Tensor:
        """Take a statistic of every dimension, NaN where there is no token."""
        _check_of(of)
        if not self.n:
            return torch.full((len(self.dims),), torch.nan, dtype=torch.float64)
        return torch.from_numpy(np.concatenate([statistic(v) for v in self._blocks(of)]))

    def _blocks(self, of: str) -> Iterator[SortedValues]:
        """Sort the values of some dimensions at a time, which bounds the memory."""
        _check_of(of)
        for start in range(0, len(self.dims), _BLOCK_DIMS):
            index = self.page_index[start : start + _BLOCK_DIMS]
            yield SortedValues.of_pages(index, self.sums, self.dtype, self.n, of == "abs")


def _check_of(of: str) -> None:
    if of not in ("h", "abs"):
        raise ArgumentError(f'of: expected "h" or "abs", got {of!r}')
