"""Without a forward pass: correlate the sums per token that a run kept with any frequencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from outdim.analysis.results.correlation import PEARSON_OF
from outdim.analysis.results.estimate import Estimate
from outdim.analysis.results.worth import Worth
from outdim.analysis.step import Result
from outdim.analysis.table import PEARSON_ABS, TidyRows, describe, place
from outdim.errors import DataError
from outdim.tokens import TokenFrequencies, unjoined_words

Floats = NDArray[np.float64]

_LEADING = "log1p_count"
_CONSTANT = "constant covariate"
_DRIVERS = 20  # tokens listed per point and dimension


@dataclass(frozen=True)
class KeptSums:
    """Sums over the occurrences of each token id, at P points for S dimensions; ordinary tokens.

    Attributes:
        points, dims: Names [P] and dimensions [S].
        ids, n: Token ids seen, ascending, and how often: int64 [U].
        sums, sums_abs: Of h and |h|, float64 [U, P, S].
        m2, m2_abs: Sums of squared deviations of h and |h| over all rows, float64 [P, S].
    """

    points: tuple[str, ...]
    dims: tuple[int, ...]
    ids: NDArray[np.int64]
    n: NDArray[np.int64]
    sums: Floats
    sums_abs: Floats
    m2: Floats
    m2_abs: Floats

    @classmethod
    def of_tables(cls, token_sums: pa.Table, stats: pa.Table) -> KeptSums:
        """From ``token_sums.parquet`` and ``stats.parquet`` of a run.

        Raises:
            DataError: The run kept sums, but saw no ordinary token.
        """
        if not token_sums.num_rows:
            raise DataError("the run kept sums per token, but saw no ordinary token.")
        # Rows are in the order id, point, dim, each value of which occurs with every other.
        points = tuple(token_sums["point"].unique().to_pylist())
        dims = tuple(token_sums["dim"].unique().to_pylist())
        shape = (-1, len(points), len(dims))
        columns = {
            name: token_sums[name].to_numpy().reshape(shape)
            for name in ("id", "n", "sum", "sum_abs")
        }
        ids, n = columns["id"][:, 0, 0], columns["n"][:, 0, 0]
        sums, sums_abs = columns["sum"], columns["sum_abs"]
        m2 = _of_all(stats, "variance", points, dims) * n.sum()
        # M2 |h| = M2 h + n (mean^2 - mean|h|^2), as h^2 = |h|^2; the two means differ only where h
        # takes both signs, and where it does not the two M2 are the same.
        means, means_abs = sums.sum(0) / n.sum(), sums_abs.sum(0) / n.sum()
        m2_abs = m2 + n.sum() * (means - means_abs) * (means + means_abs)
        return cls(points, dims, ids, n, sums, sums_abs, m2, np.maximum(m2_abs, 0))


def _of_all(stats: pa.Table, statistic: str, points: Sequence[str], dims: Sequence[int]) -> Floats:
    """A statistic of the text tokens, [P, S]."""
    chosen = stats.filter(
        (pc.field("statistic") == statistic)
        & (pc.field("selection") == "text")
        & pc.field("dim").isin(dims)
    )
    value = {
        (point, dim): found
        for point, dim, found in zip(
            *(chosen[name].to_pylist() for name in ("point", "dim", "value")), strict=True
        )
    }
    return np.array([[value[point, dim] for dim in dims] for point in points], np.float64)


@dataclass(frozen=True)
class Recorrelation(Result):
    """What a run kept, against other token frequencies.

    Attributes:
        worth: r of every dimension from the table of types, with intervals and nulls; r is exact
            where types have buckets of their own, else off by what the frequencies vary within
            buckets.
        layers: Layer of each point.
        frequencies: The other frequencies.
        kept: Sums of chosen dimensions by type, whose r is exact; None where the run kept none.
    """

    worth: Worth
    layers: Mapping[str, int]
    frequencies: TokenFrequencies
    kept: KeptSums | None

    def tables(self) -> dict[str, Any]:
        """Tidy rows of every r, its leaders, the frequencies; and those of `recorrelate`."""
        rows = TidyRows()
        n = int(self.worth.units.n.sum())
        for point, layer in self.layers.items():
            for kind, of in PEARSON_OF:
                r = self.worth.interval(point, of).r
                reason = self.worth.units.profiles(point, of).reason
                for k, covariate in enumerate(self.worth.units.names):
                    rows.add(
                        kind.name,
                        r[k],
                        point=point,
                        layer=layer,
                        selection="text",
                        covariate=covariate,
                        n=n,
                        reason=np.where(np.isnan(r[k]) & (reason == ""), _CONSTANT, reason),
                        **self.worth.columns(point, covariate, of),
                    )
        found = {
            "stats": rows.table(),
            "leaders": self.worth.table(self.layers),
            "counts": self.frequencies.table(),
        }
        return found if self.kept is None else found | recorrelate(self.kept, self.frequencies)

    def account(self) -> dict[str, Any]:
        """The tokens behind it."""
        return {"tokens": {"used": int(self.worth.units.n.sum())}}

    def headline(self) -> list[str]:
        """The dimension that follows these frequencies most closely."""
        leader = self.worth.leading(_LEADING)
        if leader is None:
            return [f"{describe(PEARSON_ABS, _LEADING, 'text')} is not defined for any dimension."]
        columns = self.worth.columns(leader.point, _LEADING, "abs")
        interval = self.worth.interval(leader.point, "abs")
        k = self.worth.units.index(_LEADING)
        r = Estimate(interval.r[k], **columns)[leader.dim]
        return [
            f"The dimension that follows these frequencies most closely is {leader.dim}, at "
            f"{place(leader.point, self.layers[leader.point])}: "
            f"{describe(PEARSON_ABS, _LEADING, 'text')} is {r.words()}, {r.chance()}."
        ]

    def cautions(self) -> list[str]:
        """Counts that could not be joined, and what r rests on."""
        return [*unjoined_words(self.frequencies), *self.worth.cautions()]


def recorrelate(kept: KeptSums, frequencies: TokenFrequencies) -> dict[str, pa.Table]:
    """Tables ``correlations``, ``bins`` and ``drivers`` of kept sums with any token frequencies.

    Pearson's r over the occurrences of ordinary tokens, from n, sum of h and of |h| per token id
    and the variances the run kept: exactly what a pass over the text with these frequencies would
    give. Bins hold the tokens whose counts have the same number of binary digits. Drivers are the
    tokens with the largest share of the sum of |h|.
    """
    return {
        "correlations": _correlations(kept, frequencies),
        "bins": _bins(kept, frequencies),
        "drivers": _drivers(kept, frequencies),
    }


def check_vocabulary(ids: Sequence[int], ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Raise DataError unless the ids that the run saw stand for the same tokens in the counts."""
    for i in ids:
        other = theirs[i] if i < len(theirs) else None
        if other != ours[i]:
            there = "is not there" if other is None else f"is {other!r}"
            raise DataError(
                f"counts: they are of another vocabulary than the run: the token id {i} is "
                f"{ours[i]!r} in the run, and {there} in the counts."
            )


def _correlations(kept: KeptSums, frequencies: TokenFrequencies) -> pa.Table:
    n = kept.n.astype(np.float64)
    covariates = {
        "count": np.asarray(frequencies.counts, np.float64),
        "log1p_count": frequencies.log1p(),
        "mid_rank": frequencies.mid_rank(),
        "log2_bin": _bin(frequencies.counts).astype(np.float64),
    }
    rows = []
    for covariate, by_id in covariates.items():
        x = by_id[kept.ids]
        x = x - np.average(x, weights=n)
        for statistic, sums, m2 in (
            ("pearson", kept.sums, kept.m2),
            ("pearson_abs", kept.sums_abs, kept.m2_abs),
        ):
            r = _pearson(x, n, sums, m2)
            rows += [
                {
                    "point": point,
                    "dim": dim,
                    "statistic": statistic,
                    "covariate": covariate,
                    "value": r[p, s],
                    "n": int(n.sum()),
                }
                for p, point in enumerate(kept.points)
                for s, dim in enumerate(kept.dims)
            ]
    return pa.Table.from_pylist(rows)


def _pearson(x: Floats, n: Floats, sums: Floats, m2: Floats) -> Floats:
    """Pearson's r [P, S] from sums per token [U, P, S] and M2 [P, S]; x [U] is centred."""
    mean = sums.sum(0) / n.sum()
    comoment = np.einsum("u,ups->ps", x, sums - n[:, None, None] * mean)
    scale = np.sqrt((n * x * x).sum() * m2)
    r: Floats = np.full_like(m2, np.nan)
    np.divide(comoment, scale, out=r, where=scale > 0)
    return r


def _bin(counts: NDArray[np.int64]) -> NDArray[np.int32]:
    """Number of binary digits: 0 for 0, b for counts from 2^(b-1) to 2^b - 1."""
    return np.frexp(counts.astype(np.float64))[1]


def _bins(kept: KeptSums, frequencies: TokenFrequencies) -> pa.Table:
    """Means of h and |h| over the tokens of each bin, per point and dimension."""
    bin_of = _bin(frequencies.counts[kept.ids])
    rows = []
    for number in np.unique(bin_of).tolist():
        inside = bin_of == number
        n = int(kept.n[inside].sum())
        mean, mean_abs = (sums[inside].sum(0) / n for sums in (kept.sums, kept.sums_abs))
        rows += [
            {
                "point": point,
                "dim": dim,
                "bin": number,
                "count_from": 1 << number - 1 if number else 0,
                "count_to": (1 << number) - 1,
                "n": n,
                "mean": mean[p, s],
                "mean_abs": mean_abs[p, s],
            }
            for p, point in enumerate(kept.points)
            for s, dim in enumerate(kept.dims)
        ]
    return pa.Table.from_pylist(rows)


def _drivers(kept: KeptSums, frequencies: TokenFrequencies) -> pa.Table:
    """Tokens with the largest share of the sum of |h|, per point and dimension."""
    rows = []
    for p, point in enumerate(kept.points):
        for s, dim in enumerate(kept.dims):
            sums, sums_abs = kept.sums[:, p, s], kept.sums_abs[:, p, s]
            total = sums_abs.sum()
            rows += [
                {
                    "point": point,
                    "dim": dim,
                    "id": int(kept.ids[u]),
                    "token": frequencies.tokens[kept.ids[u]],
                    "n": int(kept.n[u]),
                    "mean": sums[u] / kept.n[u],
                    "mean_abs": sums_abs[u] / kept.n[u],
                    "share": sums_abs[u] / total if total else float("nan"),
                }
                for u in np.argsort(-sums_abs, kind="stable")[:_DRIVERS]
            ]
    return pa.Table.from_pylist(rows)
