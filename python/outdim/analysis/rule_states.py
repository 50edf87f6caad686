"""What rules know of the hidden states of one point, from states that one pass keeps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from outdim.analysis.table import Statistic, define
from outdim.stats import MomentsResult
from outdim.stats.magnitudes import Bounded, magnitude_quantile, share_over

Floats = NDArray[np.float64]

LUO = "Luo et al. 2021"


@dataclass(frozen=True)
class States:
    """What a pass keeps of the hidden states of one point, of one selection of tokens.

    Attributes:
        moments: Of every dimension.
        magnitudes: Histogram of |h|, [D, B] (`outdim.stats.Magnitudes`).
        extremes: How many tokens have their smallest, their largest value at a dimension, [D, 2].
    """

    moments: MomentsResult
    magnitudes: Tensor
    extremes: Tensor

    @property
    def n(self) -> int:
        """Tokens."""
        return self.moments.n

    @property
    def dims(self) -> int:
        """D."""
        return len(self.magnitudes)

    @cached_property
    def mean(self) -> Floats:
        """Mean of each dimension."""
        return floats(self.moments.mean)

    @cached_property
    def variance(self) -> Floats:
        """Variance of each dimension over the tokens."""
        return floats(self.moments.variance)

    @cached_property
    def mean_abs(self) -> Floats:
        """Mean of |h| of each dimension."""
        return floats(self.moments.mean_abs)

    @cached_property
    def absmax(self) -> Floats:
        """Largest |h| of each dimension."""
        return floats(self.moments.absmax)

    @cached_property
    def squares(self) -> Floats:
        """Mean of h^2 of each dimension."""
        return self.variance + self.mean**2

    @cached_property
    def size(self) -> float:
        """Root mean square of all values."""
        return float(np.sqrt(finite_mean(self.squares)))

    @cached_property
    def medians(self) -> Bounded:
        """Median of |h| of each dimension, within bounds."""
        return magnitude_quantile(self.magnitudes, 0.5)

    def quantile(self, q: float) -> Bounded:
        """Quantile of |h| over all tokens and dimensions, within bounds."""
        return magnitude_quantile(self.magnitudes.sum(0), q)

    def share_over(self, threshold: float) -> Floats:
        """Share of the tokens with |h| beyond a threshold, of each dimension.

        NaN where it cannot be said: for values that are not finite, or beyond the histogram.
        """
        share = share_over(self.magnitudes, threshold)
        return np.where(floats(self.moments.nonfinite) > 0, np.nan, share)

    @cached_property
    def ends(self) -> Floats:
        """Share of the tokens whose smallest, whose largest value is at a dimension, [D, 2]."""
        return floats(self.extremes) / max(self.n, 1)


def kurtosis_he(squares: Floats) -> float:
    """mean_j (mean_i x_ij^2)^2 / (mean_ij x_ij^2)^2: how unequal dimensions are; 1 if equal.

    Args:
        squares: mean_i x_ij^2 of every dimension j.
    """
    return finite_mean(squares**2) / (finite_mean(squares) ** 2 or np.nan)


def kurtosis_flat(states: States) -> float:
    """Kurtosis of all values of all tokens and dimensions together; 3 for a normal distribution."""
    shift = states.mean - finite_mean(states.mean)
    variance = states.variance
    std = np.sqrt(variance)
    # A constant dimension has no shape, and none is needed: its own moments are 0.
    third = np.where(variance > 0, floats(states.moments.skewness), 0.0) * variance * std
    fourth = np.where(variance > 0, floats(states.moments.kurtosis), 0.0) * variance**2
    about = fourth + 4 * shift * third + 6 * shift**2 * variance + shift**4
    return finite_mean(about) / (finite_mean(variance + shift**2) ** 2 or np.nan)


#: The topic of all of them.
KURTOSIS = "Kurtosis and how it is defined"
_ONE: Any = {"of_dimensions": False, "topic": KURTOSIS}
_EXTREMUM = "Where tokens have their extreme value"
define(
    Statistic(
        "median_abs", "median of |h|", low=0, topic="Median of |h|", source="from its histogram"
    ),
    Statistic("argmax_share", "share of tokens whose largest h it is", low=0, high=1, source=LUO,
              topic=_EXTREMUM),
    Statistic("argmin_share", "share of tokens whose smallest h it is", low=0, high=1, source=LUO,
              topic=_EXTREMUM),
    Statistic("kurtosis_he", "kurtosis of the sizes of dimensions (1 where equal)", low=1,
              source="He et al. 2024: mean_j (mean_i x²)² / (mean x²)²", aspect="all dimensions",
              **_ONE),
    Statistic("kurtosis_flat", "kurtosis of all values (3 for a normal distribution)", low=1,
              source="Bondarenko et al. 2021: all tokens and dimensions together", **_ONE),
    Statistic("kurtosis_token", "kurtosis within a token, less 3 (0 for a normal distribution)",
              low=-2, source="OSP, Park et al. 2025: uncentred, of each token, then the mean",
              **_ONE),
)  # fmt: skip


def finite_mean(values: Floats) -> float:
    """Mean of the finite values: a dimension that overflows does not hide the others."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else np.nan


def floats(tensor: Tensor) -> Floats:
    """A tensor on the CPU as float64 array."""
    return np.asarray(tensor, np.float64)
