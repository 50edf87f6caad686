"""What an r over tokens is worth: its interval over types, its effective number of types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outdim.errors import ArgumentError
from outdim.stats.type_units import Array, Of, Profiles, TypeUnits

# Dimensions and draws at a time: the temporaries of 1,024 units take some 10 MB.
_COLUMNS = 256
_DRAWS = 128


@dataclass(frozen=True, eq=False)
class Interval:
    """Pearson's r and its interval over types, each float64 [K, D]; NaN where r is not defined.

    Attributes:
        r: Of the units (`TypeUnits`).
        low, high: Ends of the interval.
        se: Standard error of Fisher's z = artanh r.
        df: Degrees of freedom of the interval; NaN for a bootstrap.
    """

    r: Array
    low: Array
    high: Array
    se: Array
    df: Array

    @property
    def worth(self) -> Array:
        """How many independent pairs would have this standard error, 3 + 1 / se^2 (Fisher)."""
        with np.errstate(divide="ignore"):
            return 3 + 1 / self.se**2


def correlations(units: TypeUnits, point: str, of: Of = "abs") -> Array:
    """Pearson's r over tokens of each covariate with each dimension, [K, D]; NaN if undefined."""
    return correlations_of(units, units.profiles(point, of))


def correlations_of(units: TypeUnits, profiles: Profiles) -> Array:
    """Pearson's r of the dimensions that the profiles have, [K, S]."""
    means = profiles.first / units.n[:, None]
    with np.errstate(invalid="ignore"):
        return np.asarray((units.weights @ means / np.sqrt(profiles.total)).clip(-1, 1))


def effective_types(units: TypeUnits) -> Array:
    """Effective number of types behind the r of each covariate, [K]; NaN for a constant one.

    1 / sum l_u^2 of the leverages l_u = n_u (x_u - x)^2 / S_xx, which sum to 1: how many types with
    equal leverage vary as these do. A bucket of several types counts as ``effective`` many. Three
    words of English hold 73 % of the leverage on a raw count, which leaves five types.
    """
    leverage = units.weights**2 / units.n
    return np.asarray(1 / (leverage**2 / units.effective).sum(1))


def jackknife(units: TypeUnits, point: str, of: Of = "abs", *, level: float = 0.95) -> Interval:
    """Intervals of r over types for every covariate and dimension, by leaving units out.

    r without unit u has a closed form in its sums. With z = artanh r,
    se^2 = (U - 1) / U sum_u (z_(u) - mean z_(.))^2: a jackknife that deletes a group of types at a
    time, where the most frequent types are groups of their own (Efron and Stein 1981; Kott 2001).
    The interval is tanh(z -+ t se). A few units give most of the variance, so t is Student's with
    Satterthwaite's degrees of freedom: of v_u, the terms of se^2, df = 3 (sum v)^2 / sum v^2 - 2
    (the v of normal influences are chi^2, whose squares are 3 on average), at least 1 and no more
    than the effective number of types.

    The types of the text stand for others that might have been: the interval says how far r would
    move with other words of like frequencies, and is far wider than Fisher's over tokens, which
    repeat. In simulations with Zipf types, with and without correlation, 93 to 99 % of the 95 %
    intervals cover the truth; the normal quantile instead of t covers 83 to 93 %.

    Cost: U D K terms, 0.1 s for 1,024 units, 768 dimensions and 3 covariates.

    Args:
        units: At least three.
        point: Of the units.
        of: "h" or "abs".
        level: Probability to cover.

    Raises:
        ArgumentError: No such point, or a level outside of (0, 1).
    """
    from scipy.special import stdtrit  # Student's t; scipy.stats takes a second to import

    if not 0 < level < 1:
        raise ArgumentError(f"level: expected 0 < level < 1, got {level}")
    units.profiles(point, of, [])  # refuses an unknown point
    parts = []
    for columns in _slices(units.width(point), _COLUMNS):
        profiles = units.profiles(point, of, columns)
        r = correlations_of(units, profiles)
        influence = [_variance_terms(units, profiles, k) for k in range(len(units.names))]
        se2 = np.array([v.sum(0) for v in influence]).reshape(r.shape)
        with np.errstate(invalid="ignore", divide="ignore"):
            kurtosis = np.array([(v**2).sum(0) for v in influence]).reshape(r.shape)
            parts.append((r, se2, 3 * se2**2 / kurtosis - 2))
    r, se2, df = (np.concatenate(each, 1) for each in zip(*parts, strict=True))
    df = np.clip(df, 1, np.maximum(effective_types(units), 1)[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        z, se = np.arctanh(r), np.sqrt(se2)
        half = stdtrit(df, (1 + level) / 2) * se
        return Interval(r, np.tanh(z - half), np.tanh(z + half), se, df)


def without_each(
    units: TypeUnits, profiles: Profiles, covariate: int, among: NDArray[np.bool_] | None = None
) -> Array:
    """Pearson's r of the units ``among`` (None: all) with each of these left out, [U, D]."""
    n, x = units.n[:, None], units.x[covariate][:, None]
    kept = np.ones_like(n) if among is None else among[:, None].astype(np.float64)
    terms = (n, n * x, n * x * x, profiles.first, profiles.second, x * profiles.first)
    total, x_sum, x_squares, y_sum, y_squares, products = (
        (kept * term).sum(0) - term for term in terms
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = products - x_sum * y_sum / total
        variances = (x_squares - x_sum**2 / total) * (y_squares - y_sum**2 / total)
        return np.asarray((covariance / np.sqrt(variances)).clip(-1, 1))


def bootstrap(
    units: TypeUnits,
    point: str,
    dims: Sequence[int],
    of: Of = "abs",
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Intervals of r for chosen dimensions by drawing units anew, with replacement.

    Percentiles of r over the draws (Efron 1979); ``se`` is the standard deviation of z. Slower than
    `jackknife` and not symmetric in z, it shows which way r would move: down, where it rests on few
    types. Draws without variance are left out.

    Percentiles over few types are too narrow: in the simulations of `jackknife`, 87 to 98 % of the
    95 % intervals cover the truth. Cost: 2 (K + 2) draws U S operations.

    Raises:
        ArgumentError: No such point or dimension, fewer than two draws, a level outside of (0, 1).
    """
    if draws < 2:
        raise ArgumentError(f"draws: expected at least 2, got {draws}")
    if not 0 < level < 1:
        raise ArgumentError(f"level: expected 0 < level < 1, got {level}")
    profiles = units.profiles(point, of, dims)
    size, n, x = len(units.n), units.n, units.x
    rng, drawn = np.random.default_rng(seed), []
    for part in _slices(draws, _DRAWS):
        count = part.stop - part.start
        # How often each unit was drawn; several times faster than rng.multinomial.
        unit = rng.integers(size, size=(count, size)) + size * np.arange(count)[:, None]
        w = np.bincount(unit.ravel(), minlength=count * size).reshape(count, size).astype(float)
        total = (w @ n)[:, None]
        y, yy = w @ profiles.first, w @ profiles.second
        row = []
        for k in range(len(units.names)):
            mean = (w @ (n * x[k]))[:, None] / total
            xx = (w @ (n * x[k] ** 2))[:, None] - total * mean**2
            xy = w @ (x[k][:, None] * profiles.first) - mean * y
            with np.errstate(invalid="ignore", divide="ignore"):
                row.append(xy / np.sqrt(xx * (yy - y * y / total)))
        drawn.append(np.stack(row))
    r = correlations_of(units, profiles)
    found = np.concatenate(drawn, 1).clip(-1, 1)  # [K, draws, S]
    found[:, :, profiles.reason != ""] = np.nan
    tail = (1 - level) / 2
    low, high, se = (np.full_like(r, np.nan) for _ in range(3))
    for k, s in np.ndindex(*r.shape):
        each = found[k, :, s]
        each = each[np.isfinite(each) & (np.abs(each) < 1)]
        if len(each) > 1 and np.isfinite(r[k, s]):
            low[k, s], high[k, s] = np.quantile(each, [tail, 1 - tail])
            se[k, s] = np.arctanh(each).std()
    return Interval(r, low, high, se, np.full_like(r, np.nan))


def _variance_terms(units: TypeUnits, profiles: Profiles, covariate: int) -> Array:
    """The terms of the jackknife's variance of z, [U, D]; NaN where z is not defined."""
    size = len(units.n)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.arctanh(without_each(units, profiles, covariate))
        return np.asarray((z - z.mean(0)) ** 2 * ((size - 1) / size))


def _slices(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))
