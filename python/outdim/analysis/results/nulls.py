"""What rules for outlier dimensions find where there is nothing to find."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from outdim.stats.proportions import proportion_interval

if TYPE_CHECKING:
    from outdim.analysis.results.agreement import Criteria, Found
    from outdim.analysis.step import Json

_SCHEMA = pa.schema(
    [
        ("rule", pa.string()),
        ("selection", pa.string()),
        ("null", pa.string()),  # normal, shuffled or twin
        ("of", pa.string()),  # dimensions a layer, in the mean, or of the model
        ("found", pa.float64()),
        ("by_chance", pa.float64()),
        ("rate", pa.float64()),  # by_chance as a share of all dimensions: false positives
        ("low", pa.float64()),  # its interval; null where there is none
        ("high", pa.float64()),
        ("dims", pa.int64()),  # that could be found, of all twins together
        ("reason", pa.string()),  # why a number is not there, else empty
    ]
)
_NO_TWIN = "no twin was observed"
_ONE_LAYER = "one layer is enough: nothing has to recur"


@dataclass(frozen=True)
class Untrained:
    """What a rule finds in twins of the model: its architecture, with random weights.

    Attributes:
        found: How many dimensions are flagged in enough layers, of each twin.
        a_layer: Dimensions flagged in a layer, in the mean.
        dims: D.
    """

    found: tuple[int, ...]
    a_layer: float
    dims: int

    @classmethod
    def of(cls, found: Sequence[Found], dims: int) -> Untrained | None:
        """From what was found in each; None where there is no twin."""
        if not found:
            return None
        a_layer = sum(one.a_layer for one in found) / len(found)
        return cls(tuple(len(one.dims) for one in found), a_layer, dims)

    @property
    def of_model(self) -> float:
        """Dimensions flagged in enough layers, in the mean of the twins."""
        return sum(self.found) / len(self.found)

    @property
    def rate(self) -> tuple[float, float, float]:
        """Share of the dimensions that are flagged in enough layers, and its interval."""
        found, all_ = sum(self.found), self.dims * len(self.found)
        low, high = map(float, proportion_interval(found, all_))
        return found / all_, low, high

    def to_dict(self) -> Json:
        """Plain values."""
        rate, low, high = self.rate
        return {
            "found": list(self.found),
            "a_layer": self.a_layer,
            "rate": rate,
            "low": low,
            "high": high,
        }


def nulls(criteria: Criteria) -> pa.Table:
    """``criteria_nulls.parquet``: each rule by each null, a row for a layer and for the model."""
    size = max(states.dims for states in criteria.states.values())
    rows = [
        {"rule": rule, "selection": selection, **row}
        for (rule, selection), found in criteria.found.items()
        for row in _of_rule(found, size)
    ]
    return pa.Table.from_pylist(rows, _SCHEMA)


def _of_rule(found: Found, size: int) -> Iterator[dict[str, Any]]:
    a_layer: dict[str, Any] = {"of": "layer", "found": found.a_layer, "dims": size}
    of_model: dict[str, Any] = {"of": "model", "found": len(found.dims), "dims": size}
    yield {**a_layer, "null": "normal", **_share(found.chance_a_layer, size)}
    yield {**of_model, "null": "shuffled", **_share(found.chance, size, _ONE_LAYER)}
    twin = found.untrained
    if twin is None:
        for row in (a_layer, of_model):
            yield {**row, "null": "twin", **_share(math.nan, size, _NO_TWIN)}
        return
    dims = size * len(twin.found)
    yield {**a_layer, "null": "twin", **_share(twin.a_layer, size), "dims": dims}
    _, low, high = twin.rate
    ends = {"low": low, "high": high, "dims": dims}
    yield {**of_model, "null": "twin", **_share(twin.of_model, size), **ends}


def _share(by_chance: float, size: int, missing: str = "") -> dict[str, Any]:
    known = not math.isnan(by_chance)
    return {
        "by_chance": by_chance,
        "rate": by_chance / size,
        "reason": "" if known else missing,
    }
