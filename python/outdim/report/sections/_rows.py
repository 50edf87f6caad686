"""Rows of tables of results: grouped, and what they say with its interval."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from outdim.report.colours import INK, Palette
from outdim.report.figures.differences import Difference
from outdim.text import with_interval

Row = Mapping[str, Any]


def grouped(rows: Iterable[Row], column: str) -> dict[Any, list[Row]]:
    """Rows by what a column says, both in the order of the rows."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(row[column], []).append(row)
    return found


def interval(row: Row, name: str, stem: str | None = None, digits: int = 3) -> str:
    """A value with its ends; the columns of these begin with ``stem``, None for ``<name>_``."""
    before = f"{name}_" if stem is None else stem
    if row[name] is None:
        return ""
    return with_interval(row[name], row[f"{before}low"], row[f"{before}high"], digits)


def column(rows: Iterable[Row], name: str) -> list[float]:
    """The numbers of a column; NaN for null."""
    return [math.nan if row[name] is None else row[name] for row in rows]


def ends(row: Row) -> tuple[float, float, float]:
    """The difference to the intact model and the ends of its interval; NaN for null."""
    value, low, high = (column([row], f"difference{end}")[0] for end in ("", "_low", "_high"))
    return value, low, high


def beside_controls(
    rows: Sequence[Row], ablated: Iterable[Row], palette: Palette
) -> list[Difference]:
    """What ``ablated`` ones change, each with what its controls among all ``rows`` do."""
    controls = grouped((row for row in rows if row["role"] == "control"), "group")
    return [
        Difference(
            row["variant"],
            *ends(row),
            column(controls.get(row["group"], ()), "difference"),
            _colour(row, palette),
        )
        for row in ablated
    ]


def _colour(row: Row, palette: Palette) -> str:
    """That of a dimension where it is without one alone."""
    dims: Sequence[int] = row.get("dims") or []
    return palette.of(dims[0]).colour if len(dims) == 1 else INK
