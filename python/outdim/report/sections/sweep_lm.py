"""A sweep over dimensions and layers: spikes, the grid, curves by layer, the worst."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from outdim.analysis.estimate import Estimate
from outdim.analysis.table import Statistic
from outdim.report.figures.base import Figure
from outdim.report.figures.curves import Curve, curves
from outdim.report.figures.heat_map import heat_map
from outdim.report.figures.spikes import Spikes, spikes
from outdim.report.figures.verified import Measured, verified
from outdim.report.section import Section
from outdim.report.sections import _default
from outdim.report.sections.evaluate_lm import losses
from outdim.report.statistics import Floats, Key
from outdim.report.study import Study
from outdim.report.views import View
from outdim.text import layers_in_words

Row = Mapping[str, Any]
Layers = tuple[int, ...] | None

_TITLES = {"lm": "Every dimension, next tokens", "mlm": "Every dimension, masked tokens"}
_CURVES = 6  # of the worst dimensions
_FLOOR = 1e-3  # nats: smaller differences have no colour
_MORE = "more loss, in nats"


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """What every dimension does to the loss, at every place."""
    stem = step.replace("-", "_")
    table = study.table(f"{stem}.parquet")
    if table is None:
        return _default.section(study, step, marked)
    rows = [row for row in table.to_pylist() if row["metric"] == "loss"]
    at = [row for row in rows if row["role"] == "ablated"]
    if "score" in table.column_names:
        figures: list[Figure | None] = [_verified(stem, rows)]
    else:
        figures = [_spikes(stem, at), _grid(stem, at, marked), _curves(stem, at)]
    return Section(
        step,
        _TITLES[rows[0]["task"]],
        tables=[replace(losses(rows), title="The worst of the sweep")],
        figures=[figure for figure in figures if figure is not None],
    )


def _by_place(rows: Sequence[Row]) -> dict[Layers, list[Row]]:
    """Rows of single dimensions, in the order of these, by the layers that are edited."""
    found: dict[Layers, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["group"], row["dims"])):
        if len(row["dims"]) == 1:
            place = None if row["layers"] is None else tuple(row["layers"])
            found.setdefault(place, []).append(row)
    return found


def _words(place: Layers) -> str:
    return "all layers at once" if place is None else layers_in_words(place)


def _column(rows: Sequence[Row], name: str) -> Floats:
    return np.array([np.nan if row[name] is None else row[name] for row in rows], np.float64)


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


def _spikes(stem: str, rows: Sequence[Row]) -> Figure | None:
    shown = [spikes_of(_words(place), own) for place, own in _by_place(rows).items() if own[1:]]
    if not shown:
        return None
    beside = " Dotted: the mean of random dimensions." if np.isfinite(shown[0].usual) else ""
    return spikes(
        f"{stem}_spikes",
        "What each dimension does to the loss",
        "How much more than the intact model the one without a dimension loses on the same tokens; "
        f"the largest are named, with their 95 % intervals over documents.{beside}",
        _MORE,
        shown,
    )


def _grid(stem: str, rows: Sequence[Row], marked: Sequence[int]) -> Figure | None:
    """Layer x dimension, in orders of magnitude: one dimension would hide all others."""
    places = {place: own for place, own in _by_place(rows).items() if place is not None}
    if len(places) < 2:
        return None
    size = 1 + max(row["dims"][0] for own in places.values() for row in own)
    value = np.full((len(places), size), np.nan)
    for line, own in zip(value, places.values(), strict=True):
        line[[row["dims"][0] for row in own]] = _column(own, "difference")
    layers = [place[0] for place in places]
    view = View(
        key=Key("loss_difference", "", ""),
        statistic=Statistic("loss_difference", "order of magnitude of the change of the loss"),
        place="hidden states",
        points=[_words(place) for place in places],
        layers=layers,
        labels=["-".join(map(str, sorted({place[0], place[-1]}))) for place in places],
        estimate=Estimate(np.sign(value) * np.log10(1 + np.abs(value) / _FLOOR)),
        of="dimension",
    )
    return heat_map(
        f"{stem}_grid",
        "Layer by layer, every dimension",
        [view],
        [dim for dim in marked if dim < size],
        "Orange: without the dimension after this layer alone the model loses more, blue: less. "
        f"The scale is sign(x) log10(1 + |x| / {_FLOOR:g} nats): 1 stands for 0.009 nats, 2 for "
        "0.099, 3 for 0.999.",
    )


def _curves(stem: str, rows: Sequence[Row]) -> Figure | None:
    """The worst dimensions by layer, and the mean of the controls."""
    places = {place: own for place, own in _by_place(rows).items() if place and len(place) == 1}
    if len(places) < 2:
        return None
    by_dim: dict[int, list[Row]] = {}
    for own in places.values():
        for row in own:
            by_dim.setdefault(row["dims"][0], []).append(row)
    worst = sorted(by_dim, key=lambda dim: -np.nanmax(np.abs(_column(by_dim[dim], "difference"))))
    lines = [_curve(str(dim), by_dim[dim]) for dim in worst[:_CURVES]]
    some = by_dim[worst[0]]
    if all(row["control"] is not None for row in some):
        none = [float("nan")] * len(some)
        control = [row["control"] for row in some]
        layers = [row["layers"][0] for row in some]
        lines.append(Curve("mean of random dimensions", layers, control, none, none, beside=True))
    return curves(
        f"{stem}_layers",
        "The worst dimensions, layer by layer",
        "How much more than the intact model the one without the dimension after one layer alone "
        "loses; whiskers: 95 % intervals over documents.",
        "layer",
        _MORE,
        lines,
    )


def _verified(stem: str, rows: Sequence[Row]) -> Figure:
    """What the screening said, against what was measured."""
    dots = [
        Measured(
            str(row["dims"][0])
            + ("" if row["layers"] is None else f" ({_words(tuple(row['layers']))})"),
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
        "its score in the screening. Blue: those with the highest scores. Grey: random others; "
        "one of them above the worst of the blue ones would say that the screening misses some.",
        "score: mean of |h dL/dh|",
        _MORE,
        dots,
    )


def _curve(name: str, rows: Sequence[Row]) -> Curve:
    ends = (_column(rows, f"difference{end}").tolist() for end in ("", "_low", "_high"))
    return Curve(name, [row["layers"][0] for row in rows], *ends)
