"""Lives of outlier dimensions: a row each, where they are large, and their course by layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from outdim.analysis.results.estimate import Estimate
from outdim.analysis.results.lives_words import BRANCHES, digits, size
from outdim.report.figures.base import Figure
from outdim.report.figures.hidden_map import hidden_map
from outdim.report.section import Cell, Section, Table
from outdim.report.sections import _default
from outdim.report.study import Study
from outdim.report.text import token_text
from outdim.report.views import topics
from outdim.text import number, percent, visible

_TOKENS, _TOLD, _RISES = 3, 6, 3


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """Lives, kinds of tokens, largest tokens; maps of sentences, and every statistic by layer."""
    found = study.statistics.get(step)
    lives = sorted(
        study.rows("lifecycle.parquet"), key=lambda row: -np.nan_to_num(row["times"], nan=-1)
    )
    if found is None or not lives:
        return _default.section(study, step, marked)
    followed = [row["dim"] for row in lives]
    return Section(
        step,
        "Lives of dimensions",
        tables=[
            _lives(lives, marked),
            _writers(lives),
            _kinds(lives, study.rows("lifecycle_kinds.parquet")),
            _tokens(lives, study.rows("lifecycle_tokens.parquet")),
        ],
        figures=[
            *_maps(study.rows("hidden_maps.parquet")),
            *_default.curves(step, topics(found), followed, "dimensions followed"),
        ],
        definitions="lifecycle.html.j2",
    )


def _maps(rows: list[dict[str, Any]]) -> list[Figure]:
    sentences = sorted({row["sentence"] for row in rows})
    return [
        hidden_map(f"hidden_map_{sentence + 1}", [r for r in rows if r["sentence"] == sentence])
        for sentence in sentences
    ]


def _lives(lives: list[dict[str, Any]], marked: Sequence[int]) -> Table:
    return Table(
        title="Lives",
        caption="Where a dimension is largest, how large, and how many times the median dimension "
        "that is; its plateau, the layers with at least half of that; the share of its squares "
        "that is of positive values; and how much of what a norm divides by it is at the worst "
        "token of a sequence, on average. Intervals are over documents.",
        columns=["dimension", "largest in", "size", "times", "plateau", "% positive",
                 "% of a norm"],
        rows=[
            [
                Cell(str(row["dim"]), heading=True, marked=row["dim"] in marked),
                str(row["peak"]),
                _sized(row, "size", "low", "high"),
                Estimate(row["times"], row["times_low"], row["times_high"]).words(1),
                "–".join(str(layer) for layer in dict.fromkeys(row["plateau"])),
                _percent(row["positive"], row["positive_low"], row["positive_high"]),
                _percent(row["norm_share"], row["norm_low"], row["norm_high"]),
            ]
            for row in lives
        ],
        brief=True,
        marks="an outlier by parameters",
    )  # fmt: skip


def _writers(lives: list[dict[str, Any]]) -> Table:
    return Table(
        title="What writes them",
        caption="The layers that write a dimension (0: the embeddings), from which size to which "
        "(the largest |h| of a sequence, on average), how far the rise goes on, and what the "
        "branch that writes most adds at the token where |h| is largest behind it; in which share "
        "of the samples without one block of documents the first of these layers is the same; the "
        "layer behind its plateau, with what takes most away there; and the kind of tokens with "
        "most of its squares. n/a: nowhere three times the median dimension.",
        columns=["dimension", "written in", "same birth", "below half in", "most at"],
        rows=[
            [
                str(row["dim"]),
                "; ".join(_rise(rise) for rise in row["rises"][:_RISES]) or "n/a",
                percent(row["agreement"]) if row["rises"] and row["agreement"] >= 0 else "n/a",
                _fall(row["fell"], row["fall_branch"]),
                _kind(row),
            ]
            for row in lives
        ],
        left=5,
        brief=True,
    )


def _fall(layer: int | None, branch: str) -> str:
    if layer is None:
        return "not known" if branch else "never"
    return f"{layer}, by {BRANCHES.get(branch, 'what is not known')}"


def _kind(row: dict[str, Any]) -> str:
    if not row["kind"]:
        return "n/a"
    share = _percent(row["kind_share"], row["kind_low"], row["kind_high"])
    return f"{visible(row['kind'])}: {share} %"


def _rise(rise: dict[str, Any]) -> str:
    on = f" → {size(rise['top_size'])} in {rise['top']}" if rise["top"] > rise["layer"] else ""
    if rise["layer"] == 0:
        return f"0: {_sized(rise, 'size', 'size_low', 'size_high')}{on}"
    sizes = f"{rise['layer']}: {size(rise['before'])} → {size(rise['size'])}{on}"
    if rise["branch"] not in BRANCHES:
        return sizes
    added = _sized(rise, "added", "added_low", "added_high")
    verb = "add" if rise["branch"] == "norms" else "adds"
    return f"{sizes}, {BRANCHES[rise['branch']]} {verb} {added}"


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
                _sized(row, "mean_abs", "low", "high"),
                _percent(row["squares"], row["squares_low"], row["squares_high"]),
            ]
            for dim, found in by_dim.items()
            for place, row in enumerate(found)
        ],
        folded=True,
    )


def _sized(row: dict[str, Any], *names: str) -> str:
    """A size with its interval."""
    parts: list[Any] = [row[name] for name in names]
    return Estimate(*parts).words(digits(parts[0]))


def _percent(*parts: float | None) -> str:
    """A share with its interval, in percent."""
    if parts[0] is None:
        return "n/a"
    percents: list[Any] = [
        None if part is None else 0.0 if abs(part) < 1e-5 else 100 * part for part in parts
    ]
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
        columns=["dimension", "token", "around it", "layer", "h", "position"],
        rows=[
            [
                str(row["dim"]),
                token_text(row["token"]),
                visible(f"{row['before']}[{row['text']}]{row['after']}"),
                str(row["layer"]),
                size(row["value"]),
                str(row["position"]),
            ]
            for row in shown
        ],
        left=3,
    )
