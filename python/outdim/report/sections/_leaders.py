"""The largest r one by one: interval, chance, and the words that change them."""

from typing import Any

import pyarrow as pa

from outdim.analysis.table import COVARIATES
from outdim.report.section import Table
from outdim.report.text import token_text
from outdim.report.views import View, labels
from outdim.text import number, p_value

_SHOWN = 12
_WORDS = 3
_CHANCES = ("p", "p_all", "p_within")


def leaders(table: pa.Table | None, view: View) -> list[Table]:
    """The leaders of the covariate that leads, those with the largest |r| first."""
    if table is None:
        return []
    found = [row for row in table.to_pylist() if row["covariate"] == view.key.covariate]
    found.sort(key=lambda row: -abs(row["r"]))
    if not found:
        return []
    shown = found[:_SHOWN]
    at = dict(zip(view.points, view.labels, strict=True))
    effective = number(shown[0]["effective_types"], 0)
    return [
        Table(
            title="What the largest r are worth",
            caption=f"r of |h| with {COVARIATES[view.key.covariate]}, the largest of each layer. "
            "Interval: words (types), not their occurrences, are what could have been others; "
            f"{effective} of them with equal weight would vary as these do. "
            "Chance: what the largest |r| of a layer stays below in 95 of 100 exchanges of words. "
            "p: how often an exchange gives as large an |r| to some dimension of the layer; any "
            "layer: to one of all layers; like frequency: where words change places only with "
            "those about as frequent, so that a small p says that r is there among such words "
            "too, and a large one that it may be all between frequent and rare words. Changed by: "
            "the words without which r changes most, and r without each: where that is nearer to "
            "0 a word works for r, else against it."
            + (
                f" The first {_SHOWN} of {len(found)}; leaders.parquet has all."
                if len(found) > _SHOWN
                else ""
            ),
            columns=[
                *("layer", "dimension", "r", "interval"),
                *("chance", "p", "any layer", "like frequency"),
                "changed by",
            ],
            rows=[
                _row(row, at.get(row["point"]) or labels([row["point"]], [row["layer"]])[0])
                for row in shown
            ],
        )
    ]


def _row(row: dict[str, Any], label: str) -> list[str]:
    words = [
        f"“{token_text(driver['token'])}” {number(driver['r_without'], 2)}"
        for driver in row["drivers"][:_WORDS]
    ]
    return [
        label,
        str(row["dim"]),
        number(row["r"], 2),
        _interval(row["low"], row["high"]),
        number(row["null"], 2),
        *(p_value(row[name]) for name in _CHANCES),
        ", ".join(words),
    ]


def _interval(low: float | None, high: float | None) -> str:
    return number(None) if low is None or high is None else f"[{number(low, 2)}, {number(high, 2)}]"
