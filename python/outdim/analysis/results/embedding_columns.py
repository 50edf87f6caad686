"""What was found of the columns of embeddings: which dimensions stand out, and in which part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from outdim.analysis.step import Result
from outdim.analysis.table import Statistic, TidyRows, define
from outdim.errors import one_of
from outdim.text import listing, number

Floats = NDArray[np.float64]

#: Between which the weights of a column are counted, in standard deviations of all weights.
EDGES = tuple(np.arange(-40, 41) / 4)
#: A column further than so many standard deviations from the mean of the columns stands out.
BOUND = 3.0
#: What parts are called.
PART_LABELS = {
    "word": "words",
    "position": "positions",
    "type": "token types",
    "gamma": "γ of the norm",
    "beta": "β of the norm",
}
_NAMED = 8
_KOVALEVA = "Kovaleva et al. 2021, on what embeddings are made of"
_Z = "Columns of the embeddings"
define(
    Statistic("column_mean_z", "z of a column's mean among the columns", unit="σ", topic=_Z,
              source=_KOVALEVA),
    Statistic("column_sd_z", "z of a column's standard deviation among the columns", unit="σ",
              topic=_Z),
    Statistic("column_extreme", "value of a column that is furthest from the mean of all weights",
              topic="Extreme values of the embeddings"),
)  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """The columns of one part.

    Attributes:
        path: Of the module.
        rows: How many rows it has.
        mean, sd: Of each column [D].
        extreme: The value of each column that is furthest from the mean of all weights [D].
        row: Where it stands [D].
        counts: How many weights of each column are in each bin of `EDGES` [D, bins].
    """

    path: str
    rows: int
    mean: Tensor
    sd: Tensor
    extreme: Tensor
    row: Tensor
    counts: Tensor

    @cached_property
    def mean_z(self) -> Floats:
        """How many deviations each column's mean is from the others' [D]."""
        return _z(self.mean)

    @cached_property
    def sd_z(self) -> Floats | None:
        """The same of its standard deviation [D]; None where there is one row."""
        return _z(self.sd) if self.rows > 1 else None

    def outside(self) -> tuple[int, ...]:
        """Dimensions whose mean or standard deviation is beyond `BOUND`."""
        over = np.abs(self.mean_z) > BOUND
        if self.sd_z is not None:
            over |= np.abs(self.sd_z) > BOUND
        return tuple(np.flatnonzero(over).tolist())


@dataclass(frozen=True)
class Embeddings(Result):
    """The columns of words, positions, types, and of gamma and beta of their norm.

    Attributes:
        parts: By name; those that the model has.
    """

    parts: Mapping[str, Columns]

    def outside(self, part: str) -> tuple[int, ...]:
        """Dimensions that stand out in a part: mean or deviation beyond 3 σ of the columns.

        Raises:
            ArgumentError: The model has no such part.
        """
        return self.parts[one_of("part", part, self.parts)].outside()

    def tables(self) -> dict[str, pa.Table | Mapping[str, Any]]:
        """Tidy rows, the histograms of every column, and ``embeddings.json``."""
        rows = TidyRows()
        histograms: list[pa.Table] = []
        for part, found in self.parts.items():
            at: Any = {"point": f"embeddings.{part}", "layer": 0}
            rows.add("column_mean_z", found.mean_z, **at)
            if found.sd_z is not None:
                rows.add("column_sd_z", found.sd_z, **at)
            rows.add("column_extreme", found.extreme.numpy(), **at)
            counts = pa.array(found.counts.tolist(), pa.list_(pa.int64()))
            size = len(found.counts)
            histograms.append(
                pa.table(
                    {
                        "part": [part] * size,
                        "dim": pa.array(range(size), pa.int32()),
                        "row": pa.array(found.row.tolist(), pa.int64()),
                        "counts": counts,
                    }
                )
            )
        document = {
            "edges": list(EDGES),
            "bound": BOUND,
            "parts": [
                {
                    "part": part,
                    "path": found.path,
                    "rows": found.rows,
                    "outside": list(found.outside()),
                }
                for part, found in self.parts.items()
            ],
        }
        return {
            "stats": rows.table(),
            "embedding_histograms": pa.concat_tables(histograms),
            "embeddings": document,
        }

    def headline(self) -> list[str]:
        """Which dimensions stand out in which part."""
        size = len(next(iter(self.parts.values())).mean)
        said = [
            f"{PART_LABELS[part]}: {listing(dims, _NAMED) if (dims := found.outside()) else 'none'}"
            for part, found in self.parts.items()
        ]
        one, both = (size * _by_chance(values) for values in (1, 2))
        single = any(found.rows == 1 for found in self.parts.values())
        of_one = f", {number(one, 1)} where there is one row" if single else ""
        return [
            f"Columns of the embeddings more than {BOUND:g} σ from the others in mean or spread; "
            f"{'; '.join(said)}. Of {size:,} normal columns {number(both, 1)} are{of_one}."
        ]


def _by_chance(values: int) -> float:
    """The chance that one of so many independent normal values is beyond `BOUND`."""
    from scipy.stats import norm

    return float(1 - (1 - 2 * norm.sf(BOUND)) ** values)


def _z(values: Tensor) -> Floats:
    """0 where all are alike."""
    from scipy.stats import zscore

    found: Floats = values.numpy()
    return np.asarray(zscore(found, ddof=1)) if np.ptp(found) else np.zeros_like(found)
