"""Geometry: a row a layer, the dimensions that make it so, and curves with and without them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from outdim.analysis.results.isotropy import LEADING
from outdim.analysis.table import STATISTICS, selection_label
from outdim.report.section import Section, Table
from outdim.report.sections import _default
from outdim.report.statistics import Key, StepStatistics
from outdim.report.study import Study
from outdim.report.views import HIDDEN, View, topics, views
from outdim.text import listing, number, percent

DOCUMENT = "geometry.json"
_SHOWN_DIMS = 5
_COLUMNS = {
    "expected cosine": "cosine",
    "IsoScore": "isoscore",
    "effective rank": "effective_rank",
    "participation ratio": "participation_ratio",
    "largest over median": "max_median",
    "kurtosis of sizes": "kurtosis_he",
}


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """What each layer has; folded, the same without some dimensions, and which they are."""
    found, document = study.statistics.get(step), study.document(DOCUMENT)
    if found is None or document is None:
        return _default.section(study, step, marked)
    left_out = document["left_out"]
    named = list(dict.fromkeys(dim for dims in left_out.values() for dim in dims))
    marks = f"{_default.OUTLIERS}, and dimensions left out" if marked else "dimensions left out"
    return Section(
        step,
        "Geometry",
        tables=list(_tables(found, left_out)),
        figures=_default.curves(study, step, _ordered(topics(found)), [*marked, *named], marks),
    )


def _ordered(by_topic: dict[str, list[View]]) -> dict[str, list[View]]:
    """What the table begins with first."""
    first = [STATISTICS[name].topic for name in ("cosine", "cosine_contribution")]
    return {topic: by_topic[topic] for topic in dict.fromkeys([*first, *by_topic])
            if topic in by_topic}  # fmt: skip


def _tables(found: StepStatistics, left_out: dict[str, list[int]]) -> Iterator[Table]:
    shown = {
        heading: view
        for heading, name in _COLUMNS.items()
        if (view := _view(found, name)) is not None
    }
    if not shown:
        return
    of, labels = selection_label(LEADING), _default.labels_of(shown.values())
    cosine, adds = (_view(found, name) for name in ("cosine", "cosine_contribution"))
    table = _default.by_layer(
        shown,
        f"Over {of}; a covariance, and what rests on it, is taken at some points alone. Left out: "
        "the dimensions without which every number stands in the figures and in the table below. "
        "First: the dimension that adds most to the expected cosine, and how much of it that is.",
    )
    more = {
        "first": [_first(adds, cosine, point) for point in labels],
        "left out": [listing(left_out.get(point, ()), 4) or "none" for point in labels],
    }
    at = 1 if cosine is None else 2
    yield Table(
        "By layer",
        table.caption,
        [*table.columns[:at], *more, *table.columns[at:]],
        [
            [*row[:at], *told, *row[at:]]
            for row, told in zip(table.rows, zip(*more.values(), strict=True), strict=True)
        ],
        brief=True,
    )
    if (rest := _without(found, labels)) is not None:
        yield rest
    for view in (adds, _view(found, "variance_share")):
        if view is not None:
            yield _largest(view)


def _view(found: StepStatistics, name: str) -> View | None:
    """The leading selection of a statistic at hidden states."""
    key = Key(name, "", LEADING)
    shown = views(found, key) if key in found.values else []
    return min(shown, key=lambda view: view.place != HIDDEN, default=None)


def _first(adds: View | None, cosine: View | None, point: str) -> str:
    """The dimension that adds most to the expected cosine of a point."""
    if adds is None or cosine is None or point not in adds.points or point not in cosine.points:
        return "n/a"
    row = adds.estimate.value[adds.points.index(point)]
    total = float(cosine.estimate.value[cosine.points.index(point), 0])
    if not np.isfinite(row).any():
        return "n/a"
    dim = int(np.nanargmax(row))
    return f"{dim} ({percent(row[dim] / total)})" if total > 0 else str(dim)


def _without(found: StepStatistics, labels: Mapping[str, str]) -> Table | None:
    """Every other number of a point: a row each, a column a layer."""
    names = [
        key.statistic
        for key in found.ordered()
        if key.selection == LEADING
        and not key.definition.of_dimensions
        and key.statistic not in _COLUMNS.values()
    ]
    rows = [
        [view.statistic.label, *(_default.value_at(view, point) for point in labels)]
        for name in names
        if (view := _view(found, name)) is not None
    ]
    if not rows:
        return None
    return Table(
        title="Without the dimensions left out, after a rotation, and other ratios",
        caption=f"Over {selection_label(LEADING)}. In brackets the interval.",
        columns=["", *labels.values()],
        rows=rows,
        over="layer",
        over_from=1,
        folded=True,
    )


def _largest(view: View) -> Table:
    """The dimensions with the largest values of each layer."""
    order = sorted(range(len(view.points)), key=lambda row: view.layers[row])
    rows = []
    for row in order:
        values = np.nan_to_num(view.estimate.value[row], nan=-np.inf)
        best = np.argsort(-values, kind="stable")[:_SHOWN_DIMS]
        told = [f"{dim}: {number(float(values[dim]), 3)}" for dim in best if values[dim] > -np.inf]
        rows.append([view.labels[row], *told, *[""] * (_SHOWN_DIMS - len(told))])
    label = STATISTICS[view.key.statistic].topic
    return Table(
        title=f"{label}: the largest of each layer",
        caption=f"Dimension and {view.words}.",
        columns=["layer", *(f"{place + 1}." for place in range(_SHOWN_DIMS))],
        rows=rows,
        folded=True,
    )
