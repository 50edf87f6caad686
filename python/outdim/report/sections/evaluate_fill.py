"""Texts that variants of a model completed: a table a text."""

from collections.abc import Mapping, Sequence
from typing import Any

from outdim.report.section import Cell, Section, Table
from outdim.report.sections import _default
from outdim.report.study import Study
from outdim.text import number

_CONTROLS = 2  # of each kind in a table; all are in the JSON file


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """A table for each text, the intact model first."""
    document = study.document("evaluate_fill.json")
    if document is None:
        return _default.section(study, step, marked)
    masked = document["head"] == "mlm"
    tables = [_table(document, place, masked) for place in range(len(document["texts"]))]
    return Section(step, "Masks filled in" if masked else "Prompts continued", tables=tables)


def _table(document: Mapping[str, Any], place: int, masked: bool) -> Table:
    shown = _shown(document["variants"])
    rows = [
        one for one in document["completions"] if one["text"] == place and one["variant"] in shown
    ]
    text = document["texts"][place]
    labels = [variant["label"] for variant in document["variants"]]
    return Table(
        title=f"Text {place + 1}",
        caption=f"“{text}” " + (_FILLED if masked else _CONTINUED),
        columns=["variant", *(_mask_columns(rows) if masked else _CONTINUATION)],
        rows=[
            [labels[one["variant"]], *(_mask_cells(one, rows[0]) if masked else _cells(one))]
            for one in rows
        ],
        left=1 if masked else 2,
        brief=True,
        marks="another token than the intact model's" if masked else "",
    )


_FILLED = "Every mask with the likeliest token and its probability (Kovaleva et al. 2021, table 2)."
_CONTINUED = (
    "Continued by the likeliest token each time. distinct-n: share of different n-grams; longest "
    "repeat: most tokens in a row that say again what came right before; as intact: tokens at the "
    "beginning that are the intact model's."
)
_CONTINUATION = [
    "continuation", "tokens", "as intact", "distinct-1", "distinct-2", "distinct-3",
    "longest repeat",
]  # fmt: skip


def _shown(variants: Sequence[Mapping[str, Any]]) -> list[int]:
    """Intact, ablated, and the first controls of each kind."""
    chosen: list[int] = []
    counts: dict[int, int] = {}
    for place, variant in enumerate(variants):
        if variant["role"] == "control":
            counts[variant["group"]] = counts.get(variant["group"], 0) + 1
            if counts[variant["group"]] > _CONTROLS:
                continue
        chosen.append(place)
    return chosen


def _mask_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"mask {n + 1}" for n in range(len(rows[0]["tokens"]))]


def _mask_cells(one: Mapping[str, Any], intact: Mapping[str, Any]) -> list[Cell]:
    return [
        Cell(f"{t['token']} {number(t['probability'], 2)}", marked=t["token"] != other["token"])
        for t, other in zip(one["tokens"], intact["tokens"], strict=True)
    ]


def _cells(one: Mapping[str, Any]) -> list[str]:
    shares = [number(one[f"distinct_{n}"], 2) for n in (1, 2, 3)]
    whole = one["completed"].strip().replace("\n", " ⏎ ")
    return [whole, str(one["length"]), str(one["same"]), *shares, str(one["longest_repeat"])]
