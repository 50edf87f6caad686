"""How numbers, names and tables are written on the page of results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
DTYPES = ("float32", "bfloat16")


def case_of(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in ("op", "dtype", "N", "D", "S", "device", "threads"))


def threads_name(device: str, threads: int) -> str:
    if device == "cuda":
        return "GPU"
    return f"{threads} thread" + ("s" if threads > 1 else "")


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    return f"{number(min(values))} to {number(max(values))}"


def distinct(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = (
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
    return "\n".join([head, "| --- " * len(lines[0]) + "|", *body])
