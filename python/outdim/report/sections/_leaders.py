"""The largest r one by one: interval, chance, and the words that carry them."""

from typing import Any

import pyarrow as pa

from outdim.analysis.table import COVARIATES
from outdim.report.section import Table
from outdim.report.text import token_text
from outdim.report.views import View, labels
from outdim.text import number

_SHOWN = 30
_WORDS = 3


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
    return [
        Table(
            title="What the largest r are worth",
            caption=f"r of |h| with {COVARIATES[view.key.covariate]}, the largest of each layer: "
            "its interval, as words (types), not their occurrences, are what could have been "
            "others; the same by drawing types anew; p, how often chance gives as large an |r| to "
            "any dimension of the layer, and to any of all layers; p where types are exchanged "
            "only with those of like frequency; and the words that carry it, each with r without "
            f"it. {shown[0]['effective_types']:.0f} types with equal weight would vary as these do."
            + (f" The first {_SHOWN} of {len(found)}." if len(found) > _SHOWN else ""),
            columns=[
                *("layer", "dimension", "r", "interval", "drawn anew"),
                *("chance reaches", "p", "p, all layers", "p, like frequency"),
                "carried by",
            ],
            rows=[
                _row(row, at.get(row["point"]) or labels([row["point"]], [row["layer"]])[0])
                for row in shown
            ],
        )
    ]


def _row(row: dict[str, Any], label: str) -> list[str]:
    words = [
        f"{token_text(driver['token'])} ({number(driver['r_without'], 2)})"
        for driver in row["drivers"][:_WORDS]
    ]
    return [
        label,
        str(row["dim"]),
        number(row["r"], 2),
        _interval(row["low"], row["high"]),
        _interval(row["bootstrap_low"], row["bootstrap_high"]),
        number(row["null"], 2),
        *(number(row[name], 3) for name in ("p", "p_all", "p_within")),
        "  ".join(words),
    ]


def _interval(low: float, high: float) -> str:
    return f"[{number(low, 2)}, {number(high, 2)}]"
