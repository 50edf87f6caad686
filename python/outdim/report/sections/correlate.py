"""Correlation with token frequency: layer by layer, dimension by dimension, and at the outliers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from outdim.analysis.dimensions import random_beside
from outdim.analysis.table import COVARIATES, PEARSON_ABS, STATISTICS, place
from outdim.report.figures.base import Figure
from outdim.report.figures.heat_map import heat_map
from outdim.report.section import Cell, Section, Table
from outdim.report.sections import _default
from outdim.report.sections._leaders import leaders
from outdim.report.study import Study
from outdim.report.views import View, topics
from outdim.text import listing, number, percent

_TOP = 3
_SHOWN_OUTLIERS = 4
_RANKED = (
    "Ranks are taken of few dimensions, those of --rank: where none were named, the outliers by "
    "parameters and ten drawn at random (grey), not the dimensions with the largest values of the "
    "model."
)


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """What the outliers have to do with frequency; r by layer; every r; the other statistics."""
    found = study.statistics.get(step)
    by_topic = topics(found) if found is not None else {}
    r = by_topic.get(PEARSON_ABS.topic)
    if found is None or not r:
        return _default.section(study, step, marked)
    dims = [dim for dim in marked if dim < found.width]
    leading = r[0]
    beside = [v for v in r[1:] if _same(v, leading) and v.key.covariate != leading.key.covariate]
    drawn = random_beside(found.width)
    if study.options[step].get("rank") and set(drawn) <= set(study.options[step]["rank"]):
        study.palette.grey(drawn)
    ranked = {STATISTICS[name].topic for name in ("spearman", "median")}
    curves = [
        replace(figure, caption=f"{figure.caption} {_RANKED}") if topic in ranked else figure
        for topic, figure in zip(
            by_topic, _default.curves(study, step, by_topic, dims), strict=True
        )
    ]
    return Section(
        step,
        "Correlation with token frequency",
        sentences=_about_outliers(leading, dims),
        tables=[
            _table(leading, beside[:1], dims),
            *leaders(study.table("leaders.parquet"), leading),
        ],
        figures=[curves[0], _heat_map(step, r, dims), *curves[1:]],
        definitions="correlate.html.j2",
    )


def _same(one: View, other: View) -> bool:
    """Whether two views are of one statistic, selection and kind of points."""
    return (one.statistic, one.key.selection, one.place) == (
        other.statistic,
        other.key.selection,
        other.place,
    )


def _heat_map(step: str, r: list[View], marked: Sequence[int]) -> Figure:
    shown = [view for view in r if view.points == r[0].points]
    return heat_map(
        f"{step}_heat_map",
        "Which dimensions follow token frequency, and in which layers",
        shown,
        marked,
        "Each cell is r over all tokens between one dimension of the hidden state after one layer "
        "and the frequency of the token: orange rises with frequency, blue falls, the neutral tone "
        "in the middle is none. A dimension that follows frequency through the model shows as a "
        "vertical line.",
    )


def _about_outliers(view: View, marked: Sequence[int]) -> list[str]:
    """How the outlier dimensions, and the one that leads, relate to each other."""
    size = np.abs(view.estimate.value)
    if not marked or not np.isfinite(size).any():
        return []
    strongest = int(np.nanargmax(np.nanmax(size, axis=0, initial=-1.0)))
    sentences = []
    if strongest not in marked:
        sentences.append(
            f"Dimension {strongest}, which follows token frequency most closely, is no outlier: "
            "the rule looks for extreme parameters of norms, not for frequency, and the two need "
            "not agree."
        )
    return sentences + [
        _about_outlier(view, size, dim)
        for dim in marked[:_SHOWN_OUTLIERS]
        if np.isfinite(size[:, dim]).any()
    ]


def _about_outlier(view: View, size: Any, dim: int) -> str:
    peak = int(np.nanargmax(size[:, dim]))
    points = int(np.isfinite(size[:, dim]).sum())
    r = view.estimate[peak, dim]
    verdict = r.chance()
    start = view.points.index("embeddings") if "embeddings" in view.points else peak
    first = number(float(view.estimate.value[start, dim]), 2)
    embeddings = f" (at the embeddings {first})" if start != peak else ""
    return (
        f"Outlier dimension {dim} follows it most at "
        f"{place(view.points[peak], view.layers[peak])}: r = {r.words()}"
        f"{', ' if verdict else ''}{verdict}, the largest |r| of its {points} points{embeddings}, "
        f"and larger than in {_share_below(size[peak], dim)} of the other dimensions there."
    )


def _share_below(r: Any, dim: int) -> str:
    others = np.delete(r, dim)
    others = others[np.isfinite(others)]
    share = float((others < r[dim]).mean()) if len(others) else 0.0
    return "all" if share == 1.0 else percent(share)


def _table(view: View, beside: Sequence[View], marked: Sequence[int]) -> Table:
    """The strongest dimensions of each layer, beside what is usual there and the outliers."""
    shown = list(marked[:_SHOWN_OUTLIERS])
    rows: list[list[Cell | str]] = []
    for row, label in enumerate(view.labels):
        size = np.abs(view.estimate.value[row])
        finite = size[np.isfinite(size)]
        median, high = np.percentile(finite, (50, 95)) if len(finite) else (np.nan, np.nan)
        first = _first(view, row, _TOP)
        rows.append(
            [
                label,
                *first,
                *["n/a"] * (_TOP - len(first)),
                number(float(median)),
                number(float(high)),
                *(cell for other in beside for cell in _first(other, row, 1) or [Cell("n/a")]),
                *(number(float(view.estimate.value[row, dim])) for dim in shown),
            ]
        )
    others = [f"first by {COVARIATES[other.key.covariate]}" for other in beside]
    caption = [
        f"By {view.words}: the three dimensions with the largest |r|, as "
        "dimension (r); then |r| of the median dimension, and what 5 % of the dimensions exceed",
        *(f"; the first dimension with the {COVARIATES[o.key.covariate]} instead" for o in beside),
        f"; r of the outlier dimensions {listing(shown)}" if shown else "",
    ]
    known = view.chance is not None or view.estimate.p is not None
    return Table(
        title="Strongest dimensions by layer",
        caption=f"{''.join(caption)}.",
        columns=[
            "layer",
            *("first", "second", "third"),
            *("median |r|", "95th percentile"),
            *others,
            *map(str, shown),
        ],
        rows=rows,
        brief=True,
        marks="more than chance" if known else "",
    )


def _first(view: View, row: int, number_of: int) -> list[Cell]:
    """The dimensions with the largest |value| at a point, as dimension (value)."""
    estimate = view.estimate
    size = np.abs(estimate.value[row])
    order = np.argsort(-size, kind="stable")[:number_of]  # NaN sorts last
    return [
        Cell(
            f"{dim} ({number(float(estimate.value[row, dim]), 2)})",
            marked=bool(estimate[row, dim].beyond_chance),
        )
        for dim in order
        if np.isfinite(size[dim])
    ]
