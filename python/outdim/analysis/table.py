"""The vocabulary of results, and the tidy table that holds them.

Every statistic, covariate and selection of tokens has its name, label and source here or in the
step that brings it (`define`); steps, report and docs read them from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

#: Columns of ``stats.parquet``: one row a point, dimension (or head), selection, statistic.
SCHEMA = pa.schema(
    [
        ("point", pa.string()),
        ("layer", pa.int16()),
        ("dim", pa.int32()),
        ("head", pa.int16()),  # null where a statistic is not about an attention head
        ("selection", pa.string()),
        ("statistic", pa.string()),
        ("covariate", pa.string()),
        ("value", pa.float64()),
        ("n", pa.int64()),  # tokens
        ("low", pa.float64()),  # interval; null where there is none
        ("high", pa.float64()),
        ("null", pa.float64()),  # what chance gives; null where that is not known
        ("p", pa.float64()),  # of the value under that chance
        ("reason", pa.string()),  # why the value is NaN, else empty
    ]
)


@dataclass(frozen=True)
class Statistic:
    """What a column ``statistic`` may say.

    Attributes:
        name: As in the table.
        label: For people.
        unit: Of the values; empty for a pure number.
        low, high: The range that the values can have; None where it has no end.
        source: Where it is defined: paper and section.
        of_dimensions: Whether there is a value for every dimension (else ``dim`` is 0).
    """

    name: str
    label: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    source: str = ""
    of_dimensions: bool = True


@dataclass(frozen=True)
class Selection:
    """A union of groups of tokens (`outdim.tokens.GROUPS`); padding is in none."""

    name: str
    label: str
    groups: tuple[str, ...]


SELECTIONS = {
    selection.name: selection
    for selection in (
        Selection("text", "text tokens only", ("text",)),
        Selection("text+first", "text, with first tokens of sequences", ("text", "first")),
        Selection("all", "all, with special tokens", ("text", "special", "first")),
    )
}

COVARIATES = {
    "count": "token count",
    "log1p_count": "log(1 + token count)",
    "mid_rank": "rank of the token count",
    "position": "position in the sequence",
}

_P = "Puccetti et al. 2022"
STATISTICS: dict[str, Statistic] = {}


def define(*statistics: Statistic) -> None:
    """Add statistics to the vocabulary.

    Raises:
        ValueError: Another statistic has that name.
    """
    for statistic in statistics:
        if STATISTICS.setdefault(statistic.name, statistic) != statistic:
            raise ValueError(f"statistic: {statistic.name!r} is defined already")


define(
    Statistic("pearson", "r of h", low=-1, high=1, source=f"{_P}, section 4"),
    Statistic("pearson_abs", "r of |h|", low=-1, high=1, source=f"{_P}, section 4"),
    Statistic("spearman", "Spearman's ρ of h", low=-1, high=1),
    Statistic("spearman_abs", "Spearman's ρ of |h|", low=-1, high=1),
    Statistic("mean", "mean of h"),
    Statistic("variance", "variance of h", low=0),
    Statistic("std", "standard deviation of h", low=0),
    Statistic("kurtosis", "kurtosis of h (3 for a normal distribution)", low=1),
    Statistic("min", "smallest h"),
    Statistic("max", "largest h"),
    Statistic("absmax", "largest |h|", low=0),
    Statistic("mean_abs", "mean of |h|", low=0),
    Statistic("fraction_over_6", "share of tokens with |h| ≥ 6", low=0, high=1),
    Statistic("nonfinite", "values that are NaN or infinite", unit="tokens", low=0),
    Statistic("median", "median of h"),
    Statistic("q05", "5 % quantile of h"),
    Statistic("q95", "95 % quantile of h"),
    Statistic("gamma", "γ of the norm", source="Kovaleva et al. 2021, section 3"),
    Statistic("beta", "β of the norm", source="Kovaleva et al. 2021, section 3"),
    Statistic("gamma_z", "z of γ within its layer", unit="σ"),
    Statistic("beta_z", "z of β within its layer", unit="σ"),
)


class TidyRows:
    """Collects blocks of rows of one statistic and makes the table of them."""

    def __init__(self) -> None:
        self._blocks: list[pa.RecordBatch] = []

    def add(
        self,
        statistic: str,
        values: ArrayLike,
        *,
        point: str,
        layer: int,
        selection: str = "",
        covariate: str = "",
        n: int = 0,
        dims: ArrayLike | None = None,
        head: int | None = None,
        low: ArrayLike | None = None,
        high: ArrayLike | None = None,
        null: ArrayLike | None = None,
        p: ArrayLike | None = None,
        reason: ArrayLike | str = "",
    ) -> None:
        """Add the values of a statistic at one point, ``values`` [S], of the dimensions ``dims``.

        ``dims`` None stands for 0, 1, ..., S - 1; ``low``, ``high``, ``null`` and ``p`` are [S] or
        numbers; ``reason`` [S] says why a value is NaN.

        Raises:
            ValueError: The statistic has no definition in the vocabulary.
        """
        if statistic not in STATISTICS:
            raise ValueError(f"statistic: {statistic!r} has no definition (outdim.analysis.table)")
        values = np.atleast_1d(np.asarray(values, np.float64))
        size = len(values)

        def column(given: ArrayLike | None, kind: Any) -> NDArray[Any] | None:
            return None if given is None else np.broadcast_to(np.asarray(given, kind), size)

        def same(given: object, kind: pa.DataType) -> pa.Array:
            return pa.repeat(pa.scalar(given, kind), size)

        columns = {
            "point": same(point, pa.string()),
            "layer": same(layer, pa.int16()),
            "dim": np.arange(size, dtype=np.int32) if dims is None else column(dims, np.int32),
            "head": same(head, pa.int16()),
            "selection": same(selection, pa.string()),
            "statistic": same(statistic, pa.string()),
            "covariate": same(covariate, pa.string()),
            "value": values,
            "n": same(n, pa.int64()),
            "low": column(low, np.float64),
            "high": column(high, np.float64),
            "null": column(null, np.float64),
            "p": column(p, np.float64),
            "reason": column(reason, object),
        }
        arrays = [
            pa.nulls(size, field.type)
            if columns[field.name] is None
            else pa.array(columns[field.name], field.type)
            for field in SCHEMA
        ]
        self._blocks.append(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))

    def table(self) -> pa.Table:
        """All rows in the order in which they were added."""
        return pa.Table.from_batches(self._blocks, SCHEMA)
