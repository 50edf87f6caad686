"""Pairs of dimensions in a sweep: what they do together, beside the sum of both."""

from collections.abc import Sequence

from outdim.report.figures.base import Figure
from outdim.report.figures.pairs import Pair, pairs
from outdim.report.section import Cell, Table
from outdim.report.sections._rows import Row, interval
from outdim.text import layers_in_words, number, p_value, together

Layers = tuple[int, ...] | None

_SURE = 0.05
_SHOWN = 20  # pairs in the table, those that are most unlike the sum


def place_in_words(place: Layers) -> str:
    """Layers that are edited together; None for all."""
    return "all layers at once" if place is None else layers_in_words(place)


def pairs_table(rows: Sequence[Row], noun: str, over: str) -> Table:
    """The pairs most unlike the sum of both, with the intervals of that, which draw ``over``."""
    by_size = sorted(rows, key=lambda row: -abs(row["interaction"] or 0.0))
    several = len({row["group"] for row in rows}) > 1
    return Table(
        title="Pairs beside the sum of both",
        caption=f"How much more {noun} than the intact model the one without both dimensions has, "
        "the sum of what each costs alone, and what is more than that sum, with its 95 % interval "
        f"over {over}"
        + (f" ({_SHOWN} of {len(rows):,} pairs: the largest)." if len(rows) > _SHOWN else ".")
        + " q: the p of that, adjusted for the number of pairs.",
        columns=["pair", *(["layers"] if several else []), "together", "sum", "more than it", "q"],
        rows=[
            [
                together((row["dim"], row["other"])),
                *([_place(row)] if several else []),
                number(row["together"]),
                number(_sum(row)),
                Cell(interval(row, "interaction"), marked=_surely(row)),
                p_value(row["q"]),
            ]
            for row in by_size[:_SHOWN]
        ],
        left=2 if several else 1,
        brief=True,
        marks="surely so, whatever other pairs do",
    )


def matrices(stem: str, rows: Sequence[Row], noun: str) -> list[Figure]:
    """Interactions of pairs, a matrix a place."""
    by_place: dict[Layers, list[Row]] = {}
    for row in rows:
        by_place.setdefault(_layers(row), []).append(row)
    return [
        pairs(
            f"{stem}_pairs{number or ''}",
            f"Pairs of dimensions, {place_in_words(place)}",
            f"How much more {noun} two dimensions cost together than the sum of what each "
            "costs alone. Orange: more, as where two carry the same; blue: less, as where one "
            "needs the other. A star: surely so, whatever other pairs do.",
            [_pair(row) for row in own],
        )
        for number, (place, own) in enumerate(by_place.items())
        if any(row["interaction"] is not None for row in own)
    ]


def _pair(row: Row) -> Pair:
    value, low, high = (row[f"interaction{end}"] for end in ("", "_low", "_high"))
    return Pair(row["dim"], row["other"], value, low, high, _surely(row))


def _surely(row: Row) -> bool:
    """Whether it is sure that no pair of any place would show as much by chance."""
    return row["family"] is not None and row["family"] < _SURE


def _layers(row: Row) -> Layers:
    return None if row["layers"] is None else tuple(row["layers"])


def _place(row: Row) -> str:
    return place_in_words(_layers(row))


def _sum(row: Row) -> float | None:
    known = row["harm"] is not None and row["other_harm"] is not None
    return row["harm"] + row["other_harm"] if known else None
