"""Attention received: vertical heads, the dimensions that go with them, and where heads look."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from outdim.analysis.results.attention_side import MOST
from outdim.analysis.results.attention_words import looked_at
from outdim.analysis.results.estimate import Estimate
from outdim.report.figures.attention_map import attention_map
from outdim.report.figures.base import Figure
from outdim.report.section import Cell, Section, Table
from outdim.report.sections import _default
from outdim.report.sections._rows import grouped
from outdim.report.study import Study
from outdim.report.views import topics
from outdim.text import number, percent, together

_HEADS, _ROWS, _TOKENS, _MAPPED = 12, 12, 5, 6


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """The most vertical heads, the strongest r, the most attended tokens; figures by layer."""
    found = study.statistics.get(step)
    heads = study.rows("attention_heads.parquet")
    tables = [
        _heads(heads),
        _strongest(study.rows("attention_r.parquet"), marked),
        _tokens(study.rows("attention_tokens.parquet")),
    ]
    return Section(
        step,
        "Attention received",
        tables=[table for table in tables if table.rows],
        figures=[
            *_maps(study.rows("attention_maps.parquet"), heads, study.options[step]),
            *(_default.curves(step, topics(found), marked) if found is not None else ()),
        ],
        definitions="attention.html.j2",
    )


def _maps(
    rows: list[dict[str, Any]], heads: list[dict[str, Any]], options: Mapping[str, Any]
) -> list[Figure]:
    """A figure a sentence, of the heads that are most vertical over the text."""
    order = sorted(heads, key=lambda row: -row["vertical"])[:_MAPPED]
    chosen = [(row["layer"], row["head"]) for row in order]
    ablated = options.get("ablate") or []
    about = f"{together(ablated)} off ({options['at']})" if ablated else ""
    figures = []
    for sentence in sorted({row["sentence"] for row in rows}):
        of = {(r["layer"], r["head"]): r for r in rows if r["sentence"] == sentence}
        id_ = f"attention_map_{sentence + 1}"
        figures.append(attention_map(id_, [of[place] for place in chosen], about))
    return figures


def _interval(row: dict[str, Any], value: str, low: str, high: str) -> str:
    return Estimate(row[value], row[low], row[high]).words()


def _heads(rows: list[dict[str, Any]]) -> Table:
    ablated, beside = (
        bool(rows) and f"{name}_vertical" in rows[0] for name in ("ablated", "control")
    )
    known = [row for row in rows if np.isfinite(row["vertical"])]
    chosen = sorted(known, key=lambda row: -row["vertical"])[:_HEADS]
    return Table(
        title="Most vertical heads",
        caption="In which share of the sequences one key receives more than 0.3 of the attention "
        "of the queries that can see it; where this key is, and how often of these; the entropy of "
        "a query's attention; the norm of the value there over the mean norm."
        + (
            " Controls: the mean of as many random dimensions off; beyond: how much less vertical "
            "than that."
            if beside
            else " Ablated beside intact, without a control: random dimensions were not left out."
            if ablated
            else ""
        ),
        columns=["layer", "head", "vertical", "key", "of these", "entropy", "value norm"]
        + (["ablated", "change"] if ablated else [])
        + (["controls", "beyond"] if beside else []),
        rows=[
            [
                str(row["layer"]),
                str(row["head"]),
                Cell(_interval(row, "vertical", "low", "high"), marked=(row["low"] or 0) > MOST),
                *_key(row),
                number(row["entropy"], 2),
                number(row["value_ratio"], 2),
            ]
            + (_fall(row, "ablated", "change") if ablated else [])
            + (_fall(row, "control", "beyond") if beside else [])
            for row in chosen
        ],
        brief=True,
        marks="vertical in more than half of the sequences, at the low end of the interval as well",
    )


def _fall(row: dict[str, Any], of: str, change: str) -> list[Cell | str]:
    """The share of sequences with dimensions off, and a change to that of the ablated model."""
    return [
        number(row[f"{of}_vertical"], 2),
        _interval(row, change, f"{change}_low", f"{change}_high"),
    ]


def _key(row: dict[str, Any]) -> list[Cell | str]:
    if not row["token"]:
        return ["n/a", "n/a"]
    where, share = looked_at(row)
    return [where, number(share, 2)]


def _strongest(rows: list[dict[str, Any]], marked: Sequence[int]) -> Table:
    finite = [row for row in rows if row["pairing"] == "read" and np.isfinite(row["r"])]
    best: dict[tuple[int, str], dict[str, Any]] = {}
    for row in finite:
        key = row["dim"], row["selection"]
        if key not in best or abs(row["r"]) > abs(best[key]["r"]):
            best[key] = row
    shown = sorted(best.values(), key=lambda row: (row["selection"], -abs(row["r"])))
    wide = [row for row in shown if row["selection"] in ("text", "all")]
    return Table(
        title="Dimensions that go with attention",
        caption="For each dimension followed the best of all heads, at which r of |h| with "
        "attention received is largest, over the state that the layer reads: with interval over "
        "documents, the median |r| of random other dimensions at that head, and in which share of "
        "those |r| is smaller.",
        columns=["tokens", "dimension", "layer", "head", "r", "median |r|", "others below"]
        + (["ablated r"] if wide and "ablated_r" in wide[0] else []),
        rows=[
            [
                row["selection"],
                Cell(str(row["dim"]), marked=row["dim"] in marked),
                str(row["layer"]),
                str(row["head"]),
                _interval(row, "r", "r_low", "r_high"),
                number(row["median_abs_r"], 2),
                percent(row["share_below"]),
            ]
            + (
                [_interval(row, "ablated_r", "ablated_r_low", "ablated_r_high")]
                if "ablated_r" in row
                else []
            )
            for row in wide[: 2 * _ROWS]
        ],
        marks="an outlier dimension",
    )


def _tokens(rows: list[dict[str, Any]]) -> Table:
    layers = grouped(rows, "layer")
    return Table(
        title="Most attended tokens",
        caption="Share of all attention of a layer that each token receives, all heads together, "
        "and in brackets its share of the tokens.",
        columns=["layer", *(str(place + 1) for place in range(_TOKENS))],
        rows=[
            [
                str(layer),
                *(
                    f"{row['token']} {percent(row['share'])} ({percent(row['of_tokens'])})"
                    for row in those[:_TOKENS]
                ),
                *[""] * (_TOKENS - len(those[:_TOKENS])),
            ]
            for layer, those in layers.items()
        ],
    )
