"""What an r over occurrences is worth: intervals over types, what chance gives, what carries it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from outdim.analysis.table import COVARIATES
from outdim.stats.type_drivers import Drivers, drivers
from outdim.stats.type_intervals import Interval, bootstrap, effective_types, jackknife
from outdim.stats.type_null import ExchangeNull, exchange_null
from outdim.stats.type_units import Of, TypeUnits
from outdim.text import number, percent

LEVEL = 0.95
FEW_TYPES = 30  # the interval of an r of .5 is then about as wide as [.2, .7]
MUCH_LOST = 0.02
MUCH_LEVERAGE = 0.1

_DRAWS = 1000
_LEADERS = 3  # dimensions a point, whose r are looked at one by one
_DRIVERS = 5  # types
_MIN_UNITS = 3


class Leader(NamedTuple):
    """One of the largest |r| of |h| at a point.

    Attributes:
        point, covariate, dim: Whose it is.
        r, low, high: With its interval over types (jackknife).
        bootstrap_low, bootstrap_high: The interval by drawing types anew.
        effective_types: How many types with equal leverage would vary as these do.
        null: What the largest |r| of the point stays below by chance, in 95 of 100 exchanges.
        p: Of an |r| as large in any dimension of the point, by chance.
        p_all: Of one as large in any dimension of any point.
        p_within: As ``p``, where types are exchanged only with those of like frequency.
        drivers: The types that carry it.
    """

    point: str
    covariate: str
    dim: int
    r: float
    low: float
    high: float
    bootstrap_low: float
    bootstrap_high: float
    effective_types: float
    null: float
    p: float
    p_all: float
    p_within: float
    drivers: Drivers


@dataclass(frozen=True, eq=False)
class Worth:
    """Everything that is made of the table of types, without the model.

    Attributes:
        units: Types, or buckets of types alike in frequency, with their sums.
        labels: Of the token ids, for people.
        unknown: Id of the token that stands for any word the vocabulary lacks; None without one.
    """

    units: TypeUnits
    labels: Sequence[str]
    unknown: int | None = None

    def leading(self, covariate: str) -> Leader | None:
        """The leader with the largest |r| of all points; None where none is defined."""
        found = [leader for leader in self.leaders if leader.covariate == covariate]
        return max(found, key=lambda leader: abs(leader.r), default=None)

    @property
    def known(self) -> bool:
        """Whether there are enough types to say anything."""
        return len(self.units.n) >= _MIN_UNITS

    @cached_property
    def _intervals(self) -> dict[tuple[str, Of], Interval]:
        return {}

    @cached_property
    def _nulls(self) -> dict[tuple[Of, bool], ExchangeNull]:
        return {}

    def interval(self, point: str, of: Of) -> Interval:
        """Intervals of every dimension, [K, D]."""
        if (point, of) not in self._intervals:
            self._intervals[point, of] = jackknife(self.units, point, of, level=LEVEL)
        return self._intervals[point, of]

    def null(self, of: Of, *, within: bool = False) -> ExchangeNull:
        """What |r| reaches by chance."""
        if (of, within) not in self._nulls:
            self._nulls[of, within] = exchange_null(self.units, of=of, draws=_DRAWS, within=within)
        return self._nulls[of, within]

    def columns(self, point: str, covariate: str, of: Of) -> dict[str, Any]:
        """``low``, ``high``, ``null`` and ``p`` of the tidy table; none for other covariates."""
        if not self.known or covariate not in self.units.names:
            return {}
        k = self.units.index(covariate)
        interval, null = self.interval(point, of), self.null(of)
        return {
            "low": interval.low[k],
            "high": interval.high[k],
            "null": np.full_like(interval.low[k], null.quantile(LEVEL, point)[k]),
            "p": null.p[point][k],
        }

    @cached_property
    def effective(self) -> dict[str, float]:
        """Effective number of types by covariate."""
        return dict(zip(self.units.names, effective_types(self.units).tolist(), strict=True))

    @cached_property
    def leaders(self) -> list[Leader]:
        """The largest |r| of |h| of every point and covariate, the largest of a point first."""
        return [leader for point in self.units.points for leader in self._leaders_at(point)]

    def _leaders_at(self, point: str) -> list[Leader]:
        interval = self.interval(point, "abs")
        null, within = self.null("abs"), self.null("abs", within=True)
        p, p_all, p_within = null.p[point], null.p_all[point], within.p[point]
        quantile = null.quantile(LEVEL, point)
        largest = [_largest(interval.r[k]) for k in range(len(self.units.names))]
        drawn = sorted({dim for dims in largest for dim in dims})
        again = bootstrap(self.units, point, drawn, "abs", level=LEVEL)
        return [
            Leader(
                point=point,
                covariate=covariate,
                dim=dim,
                r=float(interval.r[k, dim]),
                low=float(interval.low[k, dim]),
                high=float(interval.high[k, dim]),
                bootstrap_low=float(again.low[k, drawn.index(dim)]),
                bootstrap_high=float(again.high[k, drawn.index(dim)]),
                effective_types=self.effective[covariate],
                null=float(quantile[k]),
                p=float(p[k, dim]),
                p_all=float(p_all[k, dim]),
                p_within=float(p_within[k, dim]),
                drivers=drivers(self.units, point, covariate, dim, "abs", number=_DRIVERS),
            )
            for k, covariate in enumerate(self.units.names)
            for dim in largest[k]
        ]

    def cautions(self) -> list[str]:
        """Where the numbers rest on few types, or frequencies vary within what is kept together."""
        few = {name: n for name, n in self.effective.items() if n < FEW_TYPES}
        found = [
            f"r with {COVARIATES[name]} rests on {number(n, 0)} effective types, for a few words "
            "decide it: see its interval."
            for name, n in few.items()
            if name in COVARIATES
        ]
        found += self._unknown_words()
        lost = dict(zip(self.units.names, self.units.lost.tolist(), strict=True))
        worst = max(lost, key=lambda name: lost[name])
        if lost[worst] > MUCH_LOST:
            found.append(
                f"{percent(lost[worst])} of the variance of {COVARIATES.get(worst, worst)} lies "
                "between types that the run kept together, and is lost to r: give the run more "
                "buckets (--types), or keep all types for chosen dimensions (--per-token)."
            )
        return found

    def _unknown_words(self) -> list[str]:
        """Where the token for unknown words, which is no word, decides much of an r."""
        of_unknown = self.units.ids == (-2 if self.unknown is None else self.unknown)
        leverage = (self.units.weights**2 / self.units.n)[:, of_unknown].sum(1)
        share = dict(zip(self.units.names, leverage.tolist(), strict=True))
        most = max(share, key=lambda name: share[name])
        if not share[most] > MUCH_LEVERAGE:
            return []
        return [
            f"{self.labels[self.unknown or 0]} stands for any word the vocabulary lacks, and holds "
            f"{percent(share[most])} of the leverage on r with {COVARIATES.get(most, most)}: "
            "see r without it (--exclude unk)."
        ]

    def table(self, layers: Mapping[str, int]) -> pa.Table:
        """``leaders.parquet``: one row a `Leader`."""
        rows = [
            {
                **leader._asdict(),
                "layer": layers[leader.point],
                "drivers": [
                    {"id": int(i), "token": self.labels[i], "r_without": float(alone)}
                    for i, alone in zip(leader.drivers.ids, leader.drivers.without, strict=True)
                ],
                "r_without_all": float(leader.drivers.without_all[-1])
                if len(leader.drivers.without_all)
                else leader.r,
            }
            for leader in self.leaders
        ]
        return pa.Table.from_pylist(rows, schema=LEADERS)


LEADERS = pa.schema(
    [
        ("point", pa.string()),
        ("layer", pa.int16()),
        ("covariate", pa.string()),
        ("dim", pa.int32()),
        *(
            (name, pa.float64())
            for name in Leader._fields
            if name not in ("point", "covariate", "dim", "drivers")
        ),
        (
            "drivers",
            pa.list_(
                pa.struct([("id", pa.int64()), ("token", pa.string()), ("r_without", pa.float64())])
            ),
        ),
        ("r_without_all", pa.float64()),
    ]
)


def _largest(r: np.ndarray[Any, Any]) -> list[int]:
    """The dimensions with the largest |r|; none of those where it is not defined."""
    order = np.argsort(-np.abs(r), kind="stable")[:_LEADERS]  # NaN sorts last
    return [int(dim) for dim in order if np.isfinite(r[dim])]
