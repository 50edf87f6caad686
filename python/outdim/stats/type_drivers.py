"""The types that carry an r: those without which it would be most different."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outdim.errors import ArgumentError
from outdim.stats.type_intervals import correlations_of, without_each
from outdim.stats.type_units import Of, TypeUnits


@dataclass(frozen=True, eq=False)
class Drivers:
    """Types by what becomes of r without them.

    Attributes:
        r: With all types.
        ids: Token ids, the one that changes r most first, int64 [M].
        without: r without each alone, [M].
        without_all: r without the first, the first two, and so on, [M].
    """

    r: float
    ids: NDArray[np.int64]
    without: NDArray[np.float64]
    without_all: NDArray[np.float64]


def drivers(
    units: TypeUnits, point: str, covariate: str, dim: int, of: Of = "abs", *, number: int = 5
) -> Drivers:
    """The single types whose removal changes an r most, taken away one after the other.

    Each is the one that changes most what r is without those before it. Only types with a unit of
    their own have a name; the most frequent ones have.

    Cost: ``number`` times U.

    Args:
        units: Of the table.
        point: Of the units.
        covariate: One of their names.
        dim: The dimension.
        of: "h" or "abs".
        number: At most how many types.

    Raises:
        ArgumentError: No such point, covariate or dimension, or a negative number.
    """
    if number < 0:
        raise ArgumentError(f"number: expected 0 or more, got {number}")
    k = units.index(covariate)
    profiles = units.profiles(point, of, [dim])
    r = first = float(correlations_of(units, profiles)[k, 0])
    left = np.ones(len(units.n), bool)
    alone = without = without_each(units, profiles, k)[:, 0]
    found: list[int] = []
    without_all: list[float] = []
    while len(found) < number:
        change = np.where(left & (units.ids >= 0), np.abs(without - r), np.nan)
        if not np.isfinite(change).any():
            break
        unit = int(np.nanargmax(change))
        r = float(without[unit])
        left[unit] = False
        found.append(unit)
        without_all.append(r)
        without = without_each(units, profiles, k, left)[:, 0]
    return Drivers(first, units.ids[found], alone[found], np.array(without_all))
