"""The largest |r| by chance: hidden profiles exchanged between types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outdim.errors import ArgumentError
from outdim.stats.type_intervals import correlations
from outdim.stats.type_units import Array, Of, TypeUnits

# Draws times units at a time, 16 MB of each of the weights: few large products, since many small
# ones wait for one another's threads (128 draws a time were four times slower on busy cores).
_WEIGHTS = 1 << 22
_FIRST_GROUP = 32

Single = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ExchangeNull:
    """What |r| reaches where hidden states know nothing of frequency.

    Attributes:
        names: K names of the covariates.
        r: Pearson's r by point, [K, D].
        largest: The largest |r| of the dimensions of a point in each draw, ascending, [K, draws].
        largest_of_all: The largest of the dimensions of all points, ascending, [K, draws].
        p: Probability, by chance, of an |r| as large in any dimension of the point that is not yet
            found to be larger, by point, [K, D]: the step-down max-T of Westfall and Young (1993,
            algorithm 2.8), adjusted for the number of dimensions and their dependence. NaN where r
            is.
        p_all: Probability, by chance, of an |r| as large in any dimension of any point, [K, D]:
            (1 + #{draws whose largest is >= |r|}) / (1 + draws), their single-step max-T.
        within: Whether types were exchanged only with those of like numbers of tokens.
    """

    names: tuple[str, ...]
    r: Mapping[str, Array]
    largest: Mapping[str, Array]
    largest_of_all: Array
    p: Mapping[str, Array]
    p_all: Mapping[str, Array]
    within: bool

    def quantile(self, q: float = 0.95, point: str | None = None) -> Array:
        """What the largest |r| of a point (None: of all) stays below with probability q, [K]."""
        largest = self.largest_of_all if point is None else self.largest[point]
        return np.asarray(np.quantile(largest, q, axis=1))


def exchange_null(
    units: TypeUnits,
    points: Sequence[str] | None = None,
    of: Of = "abs",
    *,
    draws: int = 1000,
    within: bool = False,
    seed: int = 0,
) -> ExchangeNull:
    """Exchange the hidden profiles of types, which keep their frequencies and numbers of tokens.

    A draw gives every type the hidden states of another one, in all dimensions and points at once,
    so that their dependence stays, and r is that of the tokens thus relabelled. Occurrences of a
    type move together: they are not independent, which is what Fisher's test over tokens gets
    wrong. ``within`` exchanges types only with those of like numbers of tokens (the 32 with most,
    then groups twice as large each), for means over few tokens vary more. It asks whether r is
    there among words of like frequency as well, which is much to ask.

    Where units are types, this is the permutation test. A bucket of types stands for as many draws
    of a single type as it has types: the mean of its stratum, and its own deviation from it scaled
    up to what single types vary by (variances between and within types follow from those between
    and within buckets); where a bucket receives a profile, the deviation is scaled down to that of
    a mean over its types. On WikiText-2 with MiniLM, 1,024 buckets instead of 15,324 types lower
    the 95 % quantile of the largest |r| from .64 to .60 (raw counts) and from .45 to .44 (log):
    means over types have lighter tails than types.

    Draws are computed in float32, as products of matrices: r of a draw is good to about 1e-6. Cost:
    2 (K + 2) draws U D operations a point.

    Args:
        units: Of the table.
        points: Names; None: all.
        of: "h" or "abs".
        draws: How often.
        within: Exchange only types with like numbers of tokens.
        seed: Of the draws; the same seed gives the same ones for every point and ``of``.

    Raises:
        ArgumentError: No such point, or no draws.
    """
    if draws < 1:
        raise ArgumentError(f"draws: expected at least 1, got {draws}")
    chosen = tuple(units.points if points is None else points)
    r = {point: correlations(units, point, of) for point in chosen}
    profiles = {point: _type_profiles(units, point, of) for point in chosen}
    compared = {point: _StepDown(rows, draws) for point, rows in r.items()}
    donors = _donors(units, draws, within, seed)
    step = max(1, _WEIGHTS // max(len(units.n), 1))
    for start in range(0, draws, step):
        part = donors[start : start + step]
        scaled = units.n / np.sqrt(units.effective)
        of_r, of_mean, of_n = (
            [_given(part, row) for row in rows]
            for rows in (units.weights / np.sqrt(units.effective), [scaled], [units.n])
        )
        for point, (profile, second) in profiles.items():
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = profile @ of_mean[0]
                deviation = np.sqrt(second @ of_n[0] - mean * mean / np.float32(units.n.sum()))
                for k, weights in enumerate(of_r):
                    compared[point].add(k, start, np.abs(profile @ weights) / deviation)
    largest = {point: each.largest for point, each in compared.items()}
    of_all = np.sort(np.fmax.reduce([np.zeros((len(units.names), draws)), *largest.values()]), 1)
    return ExchangeNull(
        units.names,
        r,
        {point: np.sort(each, 1) for point, each in largest.items()},
        of_all,
        {point: each.p() for point, each in compared.items()},
        {point: _exceeded(each, of_all) for point, each in r.items()},
        within,
    )


def _donors(units: TypeUnits, draws: int, within: bool, seed: int) -> NDArray[np.int32]:
    """Which unit's profile each unit gets, [draws, U].

    A unit has as many profiles to give as it has types, and gets one.
    """
    rng = np.random.default_rng(seed)
    donors = np.empty((draws, len(units.n)), np.int32)
    for group in _groups(units) if within else [np.arange(len(units.n))]:
        profiles = np.repeat(group, units.types[group].astype(np.int64))
        for draw in donors:
            draw[group] = rng.choice(profiles, len(group), replace=False)
    return donors


def _groups(units: TypeUnits) -> list[NDArray[np.int64]]:
    """Units of like numbers of tokens a type: 32 of them, 64, 128, ..."""
    order = np.argsort(-units.n / units.types, kind="stable")
    edges = _FIRST_GROUP * (2 ** np.arange(1, 32) - 1)
    inner = edges[edges + _FIRST_GROUP <= len(order)]  # no small last group
    return np.split(order, inner)


class _StepDown:
    """Compares the |r| of draws with those observed at a point.

    largest: the largest |r| of each draw, [K, draws]; NaN where no r is defined.
    """

    def __init__(self, r: Array, draws: int) -> None:
        self.largest = np.full((len(r), draws), np.nan)
        self._r, self._draws = np.abs(r), draws
        self._order = [np.flatnonzero(np.isfinite(row)) for row in r]
        for k, known in enumerate(self._order):
            self._order[k] = known[np.argsort(self._r[k, known], kind="stable")]
        self._reached = [np.zeros(len(order), np.int64) for order in self._order]

    def add(self, k: int, start: int, r: Single) -> None:
        """Count the |r| of the draws from ``start`` on with covariate ``k``, [D, draws]."""
        order = self._order[k]
        if len(order):
            # The largest of a dimension and those with less |r| than it.
            highest = np.fmax.accumulate(r[order], axis=0)
            self.largest[k, start : start + r.shape[1]] = highest[-1]
            self._reached[k] += (highest >= _reach(self._r[k, order])[:, None]).sum(1)

    def p(self) -> Array:
        """Return p of each r, no smaller than that of any with a larger |r|, [K, D]."""
        p = np.full_like(self._r, np.nan)
        for k, order in enumerate(self._order):
            share = (1 + self._reached[k]) / (1 + self._draws)
            p[k, order] = np.maximum.accumulate(share[::-1])[::-1]
        return p


def _reach(r: Array) -> Array:
    """What a draw must reach: one that changes nothing gives r but for rounding, and counts."""
    return np.abs(r) * (1 - 1e-5)


def _given(donors: NDArray[np.int32], weights: Array) -> Single:
    """Sum of the weights of the units that each unit gives its profile to, [U, draws]."""
    draws, size = donors.shape
    place = donors + size * np.arange(draws)[:, None]
    given = np.bincount(place.ravel(), np.tile(weights, draws), draws * size)
    return given.astype(np.float32).reshape(draws, size).T


def _type_profiles(units: TypeUnits, point: str, of: Of) -> tuple[Single, Single]:
    """Mean and second moment, about the mean over all types, of a single type of each unit, [D, U].

    In standard deviations over tokens; NaN in dimensions without r.
    """
    sums = units.profiles(point, of)
    n, effective, types = (v[:, None] for v in (units.n, units.effective, units.types))
    mean = sums.first / n
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = (types * mean).sum(0) / types.sum() + 0 * sums.total  # NaN where the total is
        profile = mean - centre
        second = sums.second / n - mean**2 + profile**2
        for stratum in np.unique(units.stratum[units.types > 1]):
            s = np.flatnonzero((units.stratum == stratum) & (units.types > 1))
            if len(s) < 2:
                continue
            common = (effective[s] * mean[s]).sum(0) / effective[s].sum()
            deviation = np.sqrt(effective[s]) * (mean[s] - common)
            between = (deviation**2).sum(0) / (len(s) - 1)
            everything = (sums.second[s] - n[s] * (mean[s] ** 2 - (mean[s] - common) ** 2)).sum(0)
            everything /= n[s].sum()
            # Of the variance of tokens within types, a mean over k types with n tokens has the
            # share k / n, that of a single type with n_t tokens 1 / n_t.
            a = float((effective[s] / n[s]).mean())
            b = float(np.average(units.inverse[s], weights=units.types[s]))
            share = max(b - a, 0) / (1 - a) if a < 1 else 0.0
            single = between + share * np.maximum(everything - between, 0)
            scale = np.where(between > 0, np.sqrt(single / between), 0)
            profile[s] = common - centre + scale * deviation
            second[s] = profile[s] ** 2 + np.maximum(everything - single, 0)
        variance = sums.total / units.n.sum()
        return _single(profile / np.sqrt(variance)), _single(second / variance)


def _single(values: Array) -> Single:
    return np.ascontiguousarray(values.T, np.float32)


def _exceeded(r: Array, largest: Array) -> Array:
    """Share of the draws at or above |r|, r itself counted as one, [K, D]; NaN where r is."""
    draws = largest.shape[1]
    p = np.full_like(r, np.nan)
    for k, row in enumerate(r):
        known = np.isfinite(row)
        below = np.searchsorted(largest[k], _reach(row[known]))
        p[k, known] = (1 + draws - below) / (1 + draws)
    return p
