"""The vocabulary of results, and the tidy table that holds them.

Every statistic, covariate and selection of tokens has its name, label and source here or in the
step that brings it (`define`); steps, report and docs read them from here. Of several, the first is
the one that leads: it is shown first, and headlines speak of it.
"""

from __future__ import annotations

import re
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

#: What a variant of a model is, in a row.
OF_VARIANT: list[tuple[str, pa.DataType]] = [
    ("group", pa.int32()),  # ablated variants and their controls have the same
    ("dims", pa.list_(pa.int32())),
    ("layers", pa.list_(pa.int32())),  # null: all blocks
    ("at", pa.string()),
    ("mode", pa.string()),
    ("dose", pa.float64()),  # the factor, where dimensions are scaled
]

#: Columns of ``evaluate_lm.parquet`` and the like: one row a metric and variant of the model.
EVALUATION = pa.schema(
    [
        ("task", pa.string()),
        ("metric", pa.string()),
        ("variant", pa.string()),
        ("role", pa.string()),  # intact, ablated or control
        *OF_VARIANT,
        ("value", pa.float64()),
        ("low", pa.float64()),  # intervals over documents; null where there is none
        ("high", pa.float64()),
        ("documents", pa.int64()),
        ("tokens", pa.int64()),
        ("difference", pa.float64()),  # to the intact model
        ("difference_low", pa.float64()),
        ("difference_high", pa.float64()),
        ("beyond", pa.float64()),  # difference less the mean difference of the controls
        ("beyond_low", pa.float64()),
        ("beyond_high", pa.float64()),
        ("control", pa.float64()),  # mean difference of the controls
        ("times", pa.float64()),  # difference over that
        ("gate", pa.string()),  # five times the harm of the controls: passed, failed, undecided
        ("p", pa.float64()),  # of beyond, without controls of difference
        ("q", pa.float64()),  # p adjusted for the number of variants
        ("family", pa.float64()),  # p that any of the variants would show as much by chance
        ("reason", pa.string()),  # why the value or an interval is not there, else empty
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
        topic: What it is about; statistics of one topic share a figure, whose title it is.
        beside: Name of the statistic with which it is drawn, as one more line: what it is of the
            same states, but for `aspect`.
        aspect: What tells the two apart, of each.
    """

    name: str
    label: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    source: str = ""
    of_dimensions: bool = True
    topic: str = ""
    beside: str = ""
    aspect: str = ""


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

# Raw counts are Zipf-tailed: a dozen words decide an r with them. So their logarithm leads.
COVARIATES = {
    "log1p_count": "log(1 + token count)",
    "count": "token count",
    "mid_rank": "rank of the token count",
    "position": "position in the sequence",
}

STATISTICS: dict[str, Statistic] = {}


def define(*statistics: Statistic) -> tuple[Statistic, ...]:
    """Add statistics to the vocabulary; return them.

    Raises:
        ValueError: Another statistic has that name.
    """
    for statistic in statistics:
        if STATISTICS.setdefault(statistic.name, statistic) != statistic:
            raise ValueError(f"statistic: {statistic.name!r} is defined already")
    return statistics


_PUCCETTI, _KOVALEVA = "Puccetti et al. 2022, section 4", "Kovaleva et al. 2021, section 3"
_R, _RHO, _Z = "Pearson's r", "Spearman's ρ", "Distance from the mean of the layer"
_MOMENTS, _QUANTILES = "Size and shape of the values", "Quantiles of the values"
_PARAMETERS = "Parameters of the norms"

PEARSON_ABS, PEARSON, *_ = define(
    Statistic("pearson_abs", "r of |h|", low=-1, high=1, source=_PUCCETTI, topic=_R),
    Statistic("pearson", "r of h", low=-1, high=1, source=_PUCCETTI, topic=_R),
    Statistic("spearman_abs", "Spearman's ρ of |h|", low=-1, high=1, topic=_RHO),
    Statistic("spearman", "Spearman's ρ of h", low=-1, high=1, topic=_RHO),
)
define(
    Statistic("absmax", "largest |h|", low=0, topic=_MOMENTS),
    Statistic("mean_abs", "mean of |h|", low=0, topic=_MOMENTS),
    Statistic("mean", "mean of h", topic=_MOMENTS),
    Statistic("std", "standard deviation of h", low=0, topic=_MOMENTS),
    Statistic("variance", "variance of h", low=0, topic=_MOMENTS),
    Statistic("kurtosis", "kurtosis of h (3 for a normal distribution)", low=1, topic=_MOMENTS),
    Statistic("min", "smallest h", topic=_MOMENTS),
    Statistic("max", "largest h", topic=_MOMENTS),
    Statistic(
        "fraction_over_6",
        "share of tokens with |h| ≥ 6",
        low=0,
        high=1,
        source="the threshold of LLM.int8(), Dettmers et al. 2022",
        topic=_MOMENTS,
    ),
    Statistic("nonfinite", "values that are NaN or infinite", unit="tokens", low=0, topic=_MOMENTS),
    Statistic("median", "median of h", topic=_QUANTILES),
    Statistic("q05", "5 % quantile of h", topic=_QUANTILES),
    Statistic("q95", "95 % quantile of h", topic=_QUANTILES),
)
GAMMA, BETA, GAMMA_Z, BETA_Z = define(
    Statistic("gamma", "γ of the norm", source=_KOVALEVA, topic=_PARAMETERS),
    Statistic("beta", "β of the norm", source=_KOVALEVA, topic=_PARAMETERS),
    Statistic("gamma_z", "z of γ within its layer", unit="σ", topic=_Z),
    Statistic("beta_z", "z of β within its layer", unit="σ", topic=_Z),
)


def describe(statistic: Statistic, covariate: str = "", selection: str = "") -> str:
    """What a value is of, in words.

    Example:
        >>> describe(PEARSON_ABS, "log1p_count", "text")
        'r of |h| with log(1 + token count) (text tokens only)'
    """
    words = statistic.label
    if covariate:
        words += f" with {COVARIATES.get(covariate, covariate)}"
    if selection:
        words += f" ({selection_label(selection)})"
    return words


def selection_label(selection: str) -> str:
    """A selection of tokens for people."""
    return SELECTIONS[selection].label if selection in SELECTIONS else selection


def place(point: str, layer: int) -> str:
    """A point of the model, in a sentence.

    Example:
        >>> place("embeddings", 0), place("block.2", 3), place("block.2.norm", 3)
        ('the embeddings', 'layer 3', 'block.2.norm')
    """
    if point == "embeddings":
        return "the embeddings"
    return f"layer {layer}" if re.fullmatch(r"block\.\d+", point) else point


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
