"""Lives of outlier dimensions: a row each, where they are large, and their course by layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from outdim.analysis.estimate import Estimate
from outdim.report.figures.base import Figure
from outdim.report.figures.hidden_map import hidden_map
from outdim.report.section import Cell, Section, Table
from outdim.report.sections import _default
from outdim.report.study import Study
from outdim.report.text import token_text
from outdim.report.views import topics
from outdim.text import number, visible

_TOKENS, _TOLD, _RISES = 3, 6, 3
_BRANCHES = {"mlp": "feed-forward"}


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """Lives, kinds of tokens, largest tokens; maps of sentences, and every statistic by layer."""
    found = study.statistics.get(step)
    lives = sorted(
        _rows(study, "lifecycle.parquet"), key=lambda row: -np.nan_to_num(row["times"], nan=-1)
    )
    if found is None or not lives:
        return _default.section(study, step, marked)
    followed = [row["dim"] for row in lives]
    return Section(
        step,
        "Life of the outlier dimensions",
        tables=[
            _lives(lives, marked),
            _kinds(lives, _rows(study, "lifecycle_kinds.parquet")),
            _tokens(lives, _rows(study, "lifecycle_tokens.parquet")),
        ],
        figures=[
            *_maps(_rows(study, "hidden_maps.parquet")),
            *_default.curves(step, topics(found), followed),
        ],
        definitions="lifecycle.html.j2",
    )


def _rows(study: Study, name: str) -> list[dict[str, Any]]:
    table = study.table(name)
    return [] if table is None else table.to_pylist()


def _maps(rows: list[dict[str, Any]]) -> list[Figure]:
    sentences = sorted({row["sentence"] for row in rows})
    return [
        hidden_map(f"hidden_map_{sentence + 1}", [r for r in rows if r["sentence"] == sentence])
        for sentence in sentences
    ]


def _lives(lives: list[dict[str, Any]], marked: Sequence[int]) -> Table:
    return Table(
        title="Lives",
        caption="The layer where a dimension is largest, how large with its interval, and how many "
        "times the median dimension that is; the layers with at least half of it; the layer that "
        "takes it away; what share of its squares is of positive values; the largest share of a "
        "token's sum of squares that a norm finds in it; the kind of tokens with most of its "
        "squares; and the layers that write it (0: the embeddings), by which branch, from which "
        "size to which. n/a: nowhere three times the median dimension.",
        columns=["dimension", "largest in", "size", "times", "plateau", "lost in", "positive",
                 "in a norm", "most at", "written"],
        rows=[
            [
                Cell(str(row["dim"]), heading=True, marked=row["dim"] in marked),
                str(row["peak"]),
                Estimate(row["size"], row["low"], row["high"]).words(_digits(row["size"])),
                number(row["times"], 1),
                "–".join(str(layer) for layer in dict.fromkeys(row["plateau"])),
                _fall(row["fell"], row["fall_branch"]),
                f"{row['positive']:.0%}",
                "n/a" if row["norm_share"] is None else f"{row['norm_share']:.0%}",
                f"{visible(row['kind'])} ({row['kind_share']:.0%})",
                "; ".join(_rise(rise) for rise in row["rises"][:_RISES]) or "n/a",
            ]
            for row in lives
        ],
        brief=True,
        marks="an outlier by parameters",
    )  # fmt: skip


def _fall(layer: int | None, branch: str) -> str:
    if layer is None:
        return "not known" if branch else "never"
    return str(layer)


def _rise(rise: dict[str, Any]) -> str:
    branch = _BRANCHES.get(rise["branch"], rise["branch"])
    if rise["layer"] == 0:
        return f"0 {branch}: {_size(rise['size'])}"
    return f"{rise['layer']} {branch}: {_size(rise['took'])} → {_size(rise['size'])}"


def _kinds(lives: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Table:
    """Where each stands at its peak."""
    by_dim = {
        life["dim"]: [
            row for row in rows if row["dim"] == life["dim"] and row["layer"] == life["peak"]
            and row["point"] != "final_norm"
        ]
        for life in lives[:_TOLD]
    }  # fmt: skip
    return Table(
        title="At which tokens",
        caption="In the layer where a dimension is largest: mean |h| at each kind of tokens, and "
        "the share of its sum of squares that stands there, with intervals over documents.",
        columns=["dimension", "layer", "tokens", "how many", "mean |h|", "% of the squares"],
        rows=[
            [
                *(
                    [
                        Cell(str(dim), rows=len(found), heading=True),
                        Cell(str(row["layer"]), rows=len(found)),
                    ]
                    if place == 0
                    else []
                ),
                Cell(visible(row["kind"])),
                number(row["tokens"]),
                Estimate(row["mean_abs"], row["low"], row["high"]).words(_digits(row["mean_abs"])),
                _percent(row["squares"], row["squares_low"], row["squares_high"]),
            ]
            for dim, found in by_dim.items()
            for place, row in enumerate(found)
        ],
        left=1,
    )


def _percent(*parts: float) -> str:
    """A share with its interval, in percent."""
    percents: list[Any] = [0.0 if abs(part) < 1e-5 else 100 * part for part in parts]
    return Estimate(*percents).words(1)


def _tokens(lives: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Table:
    peaks = {life["dim"]: life["peak"] for life in lives[:_TOLD]}
    shown = [
        row
        for dim, peak in peaks.items()
        for row in rows
        if (row["dim"], row["layer"]) == (dim, peak)
        and row["rank"] <= _TOKENS
        and row["point"] != "final_norm"
    ]
    return Table(
        title="Tokens with the largest values",
        caption="In the layer where a dimension is largest; more are in lifecycle_tokens.parquet.",
        columns=["dimension", "layer", "h", "position", "token", "around it"],
        rows=[
            [
                str(row["dim"]),
                str(row["layer"]),
                _size(row["value"]),
                str(row["position"]),
                token_text(row["token"]),
                visible(f"{row['before']}[{row['text']}]{row['after']}"),
            ]
            for row in shown
        ],
        left=1,
    )


def _size(value: float | None) -> str:
    return number(value, 1 if value is None else _digits(value))


def _digits(value: float) -> int:
    return 0 if abs(value) >= 100 else 1
