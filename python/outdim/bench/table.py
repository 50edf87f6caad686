"""Rows as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

_HEADER = ("", "median ms", "min ms", "GB/s", "of roofline", "x outdim", "error of r")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One case: its rows as `measure` returns them."""
    first = rows[0]
    title = f"{first['op']} {first['dtype']} {first['N']} x {first['D']}, " + (
        "GPU" if first["device"] == "cuda" else f"{first['threads']} thread(s)"
    )
    cells = [list(_HEADER), *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADER))]
    return "\n".join([title, *_lines(cells, widths)])


def _cells(row: dict[str, Any]) -> list[str]:
    if "skipped" in row:
        return [row["variant"], "skipped: " + row["skipped"][:60], "", "", "", "", ""]
    return [
        row["variant"],
        f"{row['median_ms']:.3f}",
        f"{row['min_ms']:.3f}",
        f"{row['gb_per_s']:.1f}",
        f"{row['share']:.0%}",
        f"{row['times_ours']:.2f}" if "times_ours" in row else "",
        f"{row['error_r']:.0e}" if "error_r" in row else "",
    ]


def _lines(cells: list[list[str]], widths: list[int]) -> Iterator[str]:
    for line in cells:
        if line[1].startswith("skipped"):
            yield f"  {line[0]:<{widths[0]}}  {line[1]}"
            continue
        numbers = (f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        yield "  ".join([f"  {line[0]:<{widths[0]}}", *numbers]).rstrip()
