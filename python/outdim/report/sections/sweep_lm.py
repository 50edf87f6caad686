"""A sweep over dimensions and layers: spikes, the grid, curves by layer, the worst."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from outdim.analysis.results.estimate import Estimate
from outdim.analysis.table import Statistic
from outdim.report.colours import Palette
from outdim.report.figures.base import Figure
from outdim.report.figures.curves import Curve, curves
from outdim.report.figures.heat_map import heat_map
from outdim.report.figures.spikes import Spikes, spikes
from outdim.report.figures.verified import Measured, verified
from outdim.report.section import Section, Table
from outdim.report.sections import _default
from outdim.report.sections._metrics import beside, changes, drawn
from outdim.report.sections._pairs import Layers, matrices, pairs_table, place_in_words
from outdim.report.sections._rows import Row, column, grouped
from outdim.report.sections.evaluate_lm import losses, ranked
from outdim.report.statistics import Floats, Key
from outdim.report.study import Study
from outdim.report.views import View


class Words(NamedTuple):
    """What is said of a sweep.

    Attributes:
        title: Of the section.
        noun: What leads: more of it is worse.
        axis: The same beside an axis.
    """

    title: str
    noun: str = "loss"
    axis: str = "more loss, in nats"


_WORDS = {
    "sweep-lm": Words("Every dimension, next tokens"),
    "sweep-mlm": Words("Every dimension, masked tokens"),
    "sweep-glue": Words("Every dimension, labelled texts"),
    "sweep-cosine": Words("Every dimension, vectors of texts", "distance", "distance, 1 - cosine"),
}
_CURVES = 6  # of the worst dimensions
_FLOOR = 1e-3  # smaller differences have no colour
_BESIDE = 20  # variants of which all metrics are shown


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """What every dimension does to what leads, at every place."""
    stem, words = step.replace("-", "_"), _WORDS[step]
    by_metric = grouped(study.rows(f"{stem}.parquet"), "metric")
    if not by_metric:
        return _default.section(study, step, marked)
    rows = next(iter(by_metric.values()))
    at = [row for row in rows if row["role"] == "ablated"]
    worst = replace(losses(rows, noun=words.noun), title="The worst of the sweep")
    tables = [worst, _others(by_metric)]
    if "score" in rows[0]:
        figures: list[Figure | None] = [_verified(study, stem, rows, words)]
    else:
        figures = [_spikes(stem, at, words, study.palette), _grid(stem, at, marked, words)]
        figures.append(_curves(stem, at, words, study.palette))
    if pairs := study.rows(f"{stem}_pairs.parquet"):
        tables.append(pairs_table(pairs, words.noun, drawn(rows[0])))
        figures += matrices(stem, pairs, words.noun)
    return Section(
        step,
        words.title,
        tables=tables,
        figures=[figure for figure in figures if figure is not None],
    )


def _others(by_metric: Mapping[str, Sequence[Row]]) -> Table:
    """The other metrics of the worst."""
    leading, *others = by_metric
    return beside(
        by_metric,
        others,
        [row["variant"] for row in ranked(by_metric[leading])[: 1 + _BESIDE]],
        title="What else they change",
        caption=f"The other metrics of the same variants, and {changes(by_metric[leading][0])}",
        brief=True,
    )


def _by_place(rows: Sequence[Row]) -> dict[Layers, list[Row]]:
    """Rows of single dimensions, in the order of these, by the layers that are edited."""
    found: dict[Layers, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["group"], row["dims"])):
        if len(row["dims"]) == 1:
            place = None if row["layers"] is None else tuple(row["layers"])
            found.setdefault(place, []).append(row)
    return found


def _column(rows: Sequence[Row], name: str) -> Floats:
    return np.array(column(rows, name), np.float64)


def spikes_of(label: str, rows: Sequence[Row]) -> Spikes:
    """What rows of single dimensions change, and the mean of their controls."""
    value, low, high = (_column(rows, f"difference{end}") for end in ("", "_low", "_high"))
    control = _column(rows, "control")
    known = control[np.isfinite(control)]
    return Spikes(
        label,
        dims=np.array([row["dims"][0] for row in rows]),
        value=value,
        low=low,
        high=high,
        usual=float(known.mean()) if len(known) else float("nan"),
    )


def _spikes(stem: str, rows: Sequence[Row], words: Words, palette: Palette) -> Figure | None:
    shown = [
        spikes_of(place_in_words(place), own) for place, own in _by_place(rows).items() if own[1:]
    ]
    if not shown:
        return None
    beside = " Dotted: the mean of random dimensions." if np.isfinite(shown[0].usual) else ""
    return spikes(
        f"{stem}_spikes",
        f"What each dimension does to the {words.noun}",
        f"How much more {words.noun} than the intact model the one without a dimension has on the "
        f"same text; the largest are named, with their 95 % intervals over {drawn(rows[0])}."
        f"{beside}",
        words.axis,
        shown,
        palette,
    )


def _grid(stem: str, rows: Sequence[Row], marked: Sequence[int], words: Words) -> Figure | None:
    """Layer x dimension, in orders of magnitude: one dimension would hide all others."""
    places = {place: own for place, own in _by_place(rows).items() if place is not None}
    if len(places) < 2:
        return None
    swept = sorted({row["dims"][0] for own in places.values() for row in own})
    size = 1 + swept[-1]
    value = np.full((len(places), size), np.nan)
    for line, own in zip(value, places.values(), strict=True):
        line[[row["dims"][0] for row in own]] = _column(own, "difference")
    layers, metric = [place[0] for place in places], rows[0]["metric"]
    view = View(
        key=Key(f"{metric}_difference_signed_log10", "", ""),
        statistic=Statistic(metric, f"order of magnitude of the change of the {words.noun}"),
        place="hidden states",
        points=[place_in_words(place) for place in places],
        layers=layers,
        labels=["-".join(map(str, sorted({place[0], place[-1]}))) for place in places],
        estimate=Estimate(np.sign(value) * np.log10(1 + np.abs(value) / _FLOOR)),
        of="dimension",
    )
    return heat_map(
        f"{stem}_grid",
        "Layer by layer, every dimension",
        [view],
        [dim for dim in marked if dim in swept],
        f"Orange: without the dimension after this layer alone there is more {words.noun}, blue: "
        f"less. The scale is sign(x) log10(1 + |x| / {_FLOOR:g}): 1 stands for 0.009, 2 for 0.099, "
        "3 for 0.999.",
        measured=None if len(swept) == size else swept,
    )


def _curves(stem: str, rows: Sequence[Row], words: Words, palette: Palette) -> Figure | None:
    """The worst dimensions by layer, and the mean of the controls."""
    places = {place: own for place, own in _by_place(rows).items() if place and len(place) == 1}
    if len(places) < 2:
        return None
    by_dim: dict[int, list[Row]] = {}
    for own in places.values():
        for row in own:
            by_dim.setdefault(row["dims"][0], []).append(row)
    worst = sorted(by_dim, key=lambda dim: -np.nanmax(np.abs(_column(by_dim[dim], "difference"))))
    lines = [_curve(dim, by_dim[dim], palette) for dim in worst[:_CURVES]]
    some = by_dim[worst[0]]
    if all(row["control"] is not None for row in some):
        layers = [row["layers"][0] for row in some]
        control = column(some, "control")
        lines.append(Curve.of_others("mean of random dimensions", layers, control))
    return curves(
        f"{stem}_layers",
        "The worst dimensions, layer by layer",
        f"How much more {words.noun} than the intact model the one without the dimension after one "
        f"layer alone has; whiskers: 95 % intervals over {drawn(rows[0])}.",
        "layer",
        words.axis,
        lines,
    )


def _verified(study: Study, stem: str, rows: Sequence[Row], words: Words) -> Figure:
    """What the screening said, against what was measured."""
    said = study.document(f"{stem}_verification.json") or {}
    dots = [
        Measured(
            str(row["dims"][0])
            + ("" if row["layers"] is None else f" ({place_in_words(tuple(row['layers']))})"),
            row["score"],
            row["difference"],
            row["role"] == "ablated",
        )
        for row in rows
        if row["role"] != "intact" and row["difference"] is not None
    ]
    return verified(
        f"{stem}_verified",
        "The screening, verified",
        "Each dot is a dimension that was measured: how much more the model loses without it, over "
        "its score in the screening. Dark: those with the highest scores. Grey: random others; "
        "one of them above the worst of the dark ones would say that the screening misses some.",
        f"score: {said.get('score', '')}",
        words.axis,
        dots,
    )


def _curve(dim: int, rows: Sequence[Row], palette: Palette) -> Curve:
    y, low, high = (_column(rows, f"difference{end}").tolist() for end in ("", "_low", "_high"))
    layers = [row["layers"][0] for row in rows]
    return Curve(str(dim), layers, y, low, high, look=palette.of(dim))
