"""What a pass of `correlate` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.results.estimate import Estimate
from outdim.analysis.results.worth import Worth
from outdim.analysis.step import Json, Result
from outdim.analysis.table import PEARSON, PEARSON_ABS, SELECTIONS, Statistic, TidyRows
from outdim.errors import ArgumentError
from outdim.stats import MomentsResult, PointMoments, PointRanks, RankResult, TokenSums

Of = Literal["h", "abs"]

_TEXT = "text"

#: Ranks of frequencies are those among all words of the text.
RANK_SELECTION = SELECTIONS["text+first"]

PEARSON_OF: tuple[tuple[Statistic, Of], ...] = ((PEARSON, "h"), (PEARSON_ABS, "abs"))
_SPEARMAN: tuple[tuple[str, Of], ...] = (("spearman", "h"), ("spearman_abs", "abs"))
_STATISTICS = (
    "mean",
    "variance",
    "std",
    "kurtosis",
    "min",
    "max",
    "absmax",
    "mean_abs",
    "fraction_over",
    "nonfinite",
)
_QUANTILES = {"median": 0.5, "q05": 0.05, "q95": 0.95}


@dataclass(frozen=True)
class Correlation(Result):
    """Moments and correlations of every observed point, by selection of tokens.

    Attributes:
        points: Names of the points, in the order of the layers.
        layers: Layer of each point: 0 for the embeddings, i + 1 for block i.
        covariates: Names of what the states are correlated with.
        moments: Moments by point and group of tokens.
        ranks: Rank histograms of chosen dimensions by point; None where there are none.
        token_sums: Sums of chosen dimensions by token id; None where none were kept.
        worth: Intervals over types, and what chance gives; None where no types were kept.
        read: What was read and left out.
    """

    points: tuple[str, ...]
    layers: tuple[int, ...]
    moments: PointMoments
    ranks: PointRanks | None = None
    token_sums: TokenSums | None = None
    worth: Worth | None = None
    read: Mapping[str, Any] | None = None

    @cached_property
    def results(self) -> dict[tuple[str, str], MomentsResult]:
        """Results per (point, selection)."""
        return {
            (point, name): self.moments.moments(point, selection.groups).compute()
            for point in self.points
            for name, selection in SELECTIONS.items()
        }

    @cached_property
    def rank_results(self) -> dict[str, RankResult]:
        """Rank statistics of the chosen dimensions, by point."""
        return {} if self.ranks is None else self.ranks.compute()

    def pearson(
        self,
        point: str,
        covariate: str = "count",
        *,
        of: Of = "abs",
        selection: str = "text",
    ) -> NDArray[np.float64]:
        """Pearson r of h or |h| with a covariate, float64 [D]; NaN where it is not defined.

        Raises:
            ArgumentError: No such point, covariate or selection.
        """
        if (point, selection) not in self.results:
            raise ArgumentError(
                f"point, selection: expected one of {', '.join(self.points)} and one of "
                f"{', '.join(SELECTIONS)}, got {point!r}, {selection!r}."
            )
        return np.asarray(self.results[point, selection].pearson(covariate, of=of))

    def estimate(
        self, point: str, covariate: str, *, of: Of = "abs", selection: str = "text"
    ) -> Estimate:
        """`pearson` with what it is worth: interval and chance, for text where types were kept."""
        r = self.pearson(point, covariate, of=of, selection=selection)
        if self.worth is None or selection != _TEXT:
            return Estimate(r)
        return Estimate(r, **self.worth.columns(point, covariate, of))

    def top(self, point: str, covariate: str = "count", *, n: int = 5) -> list[tuple[int, float]]:
        """The ``n`` dimensions with the largest |r| of |h| over ordinary tokens, as (dim, r)."""
        r = self.pearson(point, covariate)
        order = np.argsort(-np.abs(r), kind="stable")  # NaN sorts last
        return [(int(dim), float(r[dim])) for dim in order[:n] if np.isfinite(r[dim])]

    def tables(self) -> dict[str, pa.Table | Json]:
        """Tidy rows for every point, dimension and selection; sums by token if they were kept."""
        rows = TidyRows()
        layer_of = dict(zip(self.points, self.layers, strict=True))
        for (point, selection), result in self.results.items():
            at: Json = {
                "point": point,
                "layer": layer_of[point],
                "selection": selection,
                "n": result.n,
            }
            for statistic in _STATISTICS:
                name = f"{statistic}_{result.tau:g}" if statistic == "fraction_over" else statistic
                values = np.asarray(getattr(result, statistic), dtype=np.float64)
                reason = np.where(np.isnan(values), result.reason(), "")
                rows.add(name, values, reason=reason, **at)
            for covariate in result.names:
                for kind, of in PEARSON_OF:
                    r = self.estimate(point, covariate, of=of, selection=selection)
                    at |= {"covariate": covariate, "reason": result.reason(covariate, of)}
                    rows.add(kind.name, r.value, **at, **r.worth())
        for point, ranks in self.rank_results.items():
            self._add_ranks(rows, ranks, point=point, layer=layer_of[point])
        found: dict[str, pa.Table | Json] = {"stats": rows.table()}
        if self.token_sums is not None:
            found["token_sums"] = self.token_sums.table()
        if self.worth is not None and self.worth.known:
            found["leaders"] = self.worth.table(layer_of)
        return found

    def _add_ranks(self, rows: TidyRows, ranks: RankResult, *, point: str, layer: int) -> None:
        assert self.ranks is not None
        # Where no word stands first in its sequence the two selections are the same.
        firsts = self.results[point, "text"].n != ranks.n
        for selection in (RANK_SELECTION.name, *(() if firsts else ("text",))):
            at: Json = {
                "point": point,
                "layer": layer,
                "selection": selection,
                "n": ranks.n,
                "dims": self.ranks.dims,
            }
            for statistic, of in _SPEARMAN:
                rows.add(
                    statistic,
                    ranks.spearman(of),
                    covariate="count",
                    reason=np.array(ranks.reason(of)),
                    **at,
                )
            for statistic, q in _QUANTILES.items():
                values = ranks.quantile(q).numpy()
                reason = np.where(np.isnan(values), "nonfinite values", "")
                rows.add(statistic, values, reason=reason, **at)

    def account(self) -> Json:
        """What was read."""
        first = self.points[0]
        used, everything = (self.results[first, name].n for name in ("text+first", "all"))
        read = dict(self.read or {})
        return {
            "tokens": {
                "read": everything,
                "special": everything - used,
                "used": used,
                "padded": read.get("padded", 0),
                "excluded": read.get("excluded", {}),
            }
        }

    def headline(self) -> list[str]:
        """The dimension that follows token frequency most closely, and on how many tokens."""
        from outdim.analysis.results.correlation_words import headline

        return headline(self)

    def cautions(self) -> list[str]:
        """Rows left out, values that are not finite, r that is not defined or rests on little."""
        from outdim.analysis.results.correlation_words import cautions

        return cautions(self)
