"""What a finished state of moments says."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.ops.layout import BASE_ROWS, BodyRow, ShapeRow, comoment_row, shape_row

Of = Literal["h", "abs"]

# sum h^2 carries a rounding error of about 2^-52 times itself; below this share of it, the M2 of
# |h| of a dimension that changes sign, which is computed as a difference, is noise.
_ABS_NOISE = 2.0**-48
_SIGN_NOISE = 2.0**-40


@dataclass(frozen=True, eq=False)
class MomentsResult:
    """Statistics of D dimensions over n tokens, each computed when first asked for.

    All are float64 tensors [D] on the CPU unless stated. A dimension with a NaN or infinite value
    has NaN statistics, but min, max, absmax, fraction_over and nonfinite.

    Attributes:
        head: [1 + 2 K] n, covariate means, covariate M2 (see `outdim.ops.MomentsState`).
        body: [R, D] state of the dimensions.
        names: K names of covariates, those of the table first.
        tau: Threshold of `fraction_over`.
        shape: Whether skewness, kurtosis, min, max, absmax, fraction_over, unit_mean and
            nonfinite were accumulated; asking for one that was not is an ArgumentError.
    """

    head: Tensor
    body: Tensor
    names: tuple[str, ...]
    tau: float
    shape: bool

    @cached_property
    def n(self) -> int:
        """Number of tokens."""
        return int(self.head[0])

    @cached_property
    def mean(self) -> Tensor:
        """Mean of h."""
        return self._or_nan(self.body[BodyRow.MEAN])

    @cached_property
    def variance(self) -> Tensor:
        """Population variance of h, M2 / n."""
        return self.body[BodyRow.M2] / self.n if self.n else self._or_nan(self.body[BodyRow.M2])

    @cached_property
    def std(self) -> Tensor:
        """Population standard deviation of h."""
        return self.variance.sqrt()

    @cached_property
    def mean_abs(self) -> Tensor:
        """Mean of |h|."""
        return self._or_nan(self.body[BodyRow.MEAN_ABS])

    @cached_property
    def skewness(self) -> Tensor:
        """Skewness sqrt(n) M3 / M2^1.5; NaN for a constant dimension."""
        sigma = self.std.masked_fill(self._constant("h"), torch.nan)
        return self._shape_row(ShapeRow.M3) / self.n / sigma / sigma / sigma

    @cached_property
    def kurtosis(self) -> Tensor:
        """Kurtosis n M4 / M2^2, 3 for a normal distribution; NaN for a constant dimension."""
        variance = self.variance.masked_fill(self._constant("h"), torch.nan)
        return self._shape_row(ShapeRow.M4) / self.n / variance / variance

    @cached_property
    def min(self) -> Tensor:
        """Smallest value that is not NaN; NaN where there is none."""
        row = self._shape_row(ShapeRow.MIN)
        return row.masked_fill(row > self._shape_row(ShapeRow.MAX), torch.nan)

    @cached_property
    def max(self) -> Tensor:
        """Largest value that is not NaN; NaN where there is none."""
        row = self._shape_row(ShapeRow.MAX)
        return row.masked_fill(row < self._shape_row(ShapeRow.MIN), torch.nan)

    @cached_property
    def absmax(self) -> Tensor:
        """Largest |h|."""
        return torch.maximum(self.min.abs(), self.max.abs())

    @cached_property
    def fraction_over(self) -> Tensor:
        """Share of the tokens with |h| >= tau."""
        return self._or_nan(self._shape_row(ShapeRow.COUNT_OVER) / max(self.n, 1))

    @cached_property
    def unit_mean(self) -> Tensor:
        """Mean of h / ||h||, the direction of an anisotropic space.

        Rows of norm zero, or with a value that is not finite, count as the zero vector.
        """
        return self._or_nan(self._shape_row(ShapeRow.UNIT_SUM) / max(self.n, 1))

    @cached_property
    def nonfinite(self) -> Tensor:
        """Number of NaN and infinite values, int64."""
        return self._shape_row(ShapeRow.NONFINITE).long()

    @cached_property
    def covariate_mean(self) -> Tensor:
        """Mean of each covariate over the tokens, [K]."""
        return self._or_nan(self.head[1 : 1 + len(self.names)])

    @cached_property
    def covariate_std(self) -> Tensor:
        """Population standard deviation of each covariate, [K]."""
        m2 = self.head[1 + len(self.names) :]
        return self._or_nan(m2 / max(self.n, 1)).sqrt()

    def pearson(self, covariate: str, of: Of = "h") -> Tensor:
        """Pearson's r of a covariate with h or with |h|; NaN where `reason` says why.

        r = C(x, y) / sqrt(M2 x * M2 y), whose square roots are taken apart so that it holds for
        values of any size.

        Raises:
            ArgumentError: An unknown covariate or another `of` than "h" and "abs".
        """
        k = self._index(covariate)
        y_row, c_row = self._rows(k, of)
        x_norm = self.head[1 + len(self.names) + k].sqrt()
        r = self.body[c_row] / (x_norm * self.body[y_row].clamp(min=0).sqrt())
        undefined = torch.from_numpy(self.reason(covariate, of) != "")
        return r.clamp(-1, 1).masked_fill(undefined, torch.nan)

    def reason(self, covariate: str | None = None, of: Of = "h") -> npt.NDArray[np.str_]:
        """Why each r is NaN: array [D] of texts, "" where it is a number.

        Without a covariate: why mean, variance, skewness and kurtosis are. The texts are "fewer
        than two tokens", "nonfinite values", "constant covariate" and "constant dimension"; where
        several hold, the first of these.
        """
        reasons = np.full(self.body.shape[1], "", dtype="<U21")
        reasons[self._constant(of).numpy()] = "constant dimension"
        bad = self.body[BodyRow.M2].isnan()
        if covariate is not None:
            k = self._index(covariate)
            y_row, c_row = self._rows(k, of)
            x_m2 = self.head[1 + len(self.names) + k]
            if x_m2 == 0:
                reasons[:] = "constant covariate"
            bad = self.body[y_row].isnan() | self.body[c_row].isnan() | x_m2.isnan()
        reasons[bad.numpy()] = "nonfinite values"
        if self.n < 2:
            reasons[:] = "fewer than two tokens"
        return reasons

    def _constant(self, of: Of) -> Tensor:
        """Whether h or |h| is constant.

        States take deviations from a value of the data, so that a constant h has M2 = 0 exactly;
        min == max says the same of values whose squares underflow. |h| of a dimension that takes
        both signs, like +1 and -1, is constant up to rounding only.
        """
        mean, m2, mean_abs, m2_abs = self.body[:BASE_ROWS]
        constant: Tensor = m2 == 0
        if self.shape:
            constant |= self._shape_row(ShapeRow.MIN) == self._shape_row(ShapeRow.MAX)
        if of == "abs":
            flips = mean_abs - mean.abs() > _SIGN_NOISE * mean_abs
            squares = m2 + self.n * mean.square()
            constant |= (m2_abs <= 0) | (flips & (m2_abs <= _ABS_NOISE * squares))
        return constant

    def _index(self, covariate: str) -> int:
        if covariate not in self.names:
            raise ArgumentError(f"covariate: expected one of {list(self.names)}, got {covariate!r}")
        return self.names.index(covariate)

    def _rows(self, k: int, of: Of) -> tuple[int, int]:
        """Rows of the body that hold M2 y and C(x_k, y)."""
        if of not in ("h", "abs"):
            raise ArgumentError(f'of: expected "h" or "abs", got {of!r}')
        of_abs = of == "abs"
        m2 = BodyRow.M2_ABS if of_abs else BodyRow.M2
        return m2, comoment_row(len(self.names), k, of_abs=of_abs)

    def _shape_row(self, row: ShapeRow) -> Tensor:
        if not self.shape:
            raise ArgumentError(
                "shape: this statistic needs a state accumulated with shape=True, got shape=False"
            )
        return self.body[shape_row(len(self.names), row)]

    def _or_nan(self, row: Tensor) -> Tensor:
        return row if self.n else torch.full_like(row, torch.nan)
