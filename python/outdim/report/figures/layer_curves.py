"""A statistic by layer: single dimensions against the median and the 5-95 % band of all."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas

from outdim.analysis.results.estimate import Estimate
from outdim.report.colours import BAND, MUTED, Look, Palette, look
from outdim.report.figures.base import Figure, canvas, error_bars, layout, legend_beside, whiskers
from outdim.report.statistics import Floats
from outdim.report.text import plot_text
from outdim.report.views import View, choices
from outdim.text import listing, visible

MAX_LINES = 8
MAX_MARKED = 5

_AXIS = 40  # characters that fit along the axis, below a legend of two lines
_WIDE = 300.0  # a largest value so many times the median is drawn on a logarithmic axis


def layer_curves(
    id_: str,
    title: str,
    shown: Sequence[View],
    palette: Palette,
    marked: Sequence[int] = (),
    marks: str = "",
) -> Figure:
    """Draw, for each view, the marked dimensions (``marks``: what these are) and the strongest."""
    first = shown[0]
    for dim in (line.dim for view in shown for line in _lines(view, marked)):
        if dim is not None:
            palette.of(dim)
    named = [line.name for line in _lines(first, marked)]
    return Figure(
        id=id_,
        title=title,
        caption=_reading(shown, marked, marks),
        alt=f"Line chart of {first.words} by layer"
        + (f": {listing(named)}" if len(named) > 1 or first.of else "")
        + ("" if first.usual is None else ", with the median and the 5 to 95 % band of all")
        + ".",
        table=_table(shown, marked),
        plot=lambda: _interactive(shown, palette, marked),
        draw=lambda: _draw(first, palette, marked),
        choices=choices(shown),
    )


def _reading(shown: Sequence[View], marked: Sequence[int], marks: str) -> str:
    """How to read the figure."""
    first = shown[0]
    said = _which(shown, marked, marks) if first.of else []
    if any(view.usual is not None for view in shown):
        said.append(
            "Grey: the median of all and the band that holds 90 % of them (5th to 95th "
            "percentile); a line far outside of the band is exceptional, one inside is like any "
            "other."
        )
    if any(line.estimate.low is not None for view in shown for line in _lines(view, marked)):
        said.append(f"{'Whiskers' if first.of else 'Coloured band'}: the interval of each value.")
    if any(view.chance is not None for view in shown):
        said.append("Dotted: what chance alone gives; a value within it says nothing.")
    return " ".join(said)


def _which(shown: Sequence[View], marked: Sequence[int], marks: str) -> list[str]:
    """Which dimensions are drawn, and as which lines."""
    drawn = {one for view in shown for one in view.strongest(marked, MAX_LINES, MAX_MARKED)}
    solid = [dim for dim in dict.fromkeys(marked) if dim in drawn]
    said = [f"Solid lines: {marks} ({listing(solid)})."] if solid else []
    if drawn - set(solid):
        known = max(view.known for view in shown)
        width = shown[0].estimate.value.shape[1]
        among = f", of the {known:,} of {width:,} that were measured" if known < width else ""
        first = "Dashed: the other" if solid else "Lines: the"
        said.append(
            f"{first} dimensions with the largest values at any layer{among}; {MAX_LINES} at most."
        )
    return said


class _Line(NamedTuple):
    """Values of a view [R], at its points or at some of them.

    Attributes:
        name: In the legend.
        statistic: Its name in the vocabulary.
        at: Places among the points of the view.
        estimate: The values.
        solid: Whether it is marked, or none is; the others are dashed.
        dim: The dimension it is of, if any.
    """

    name: str
    statistic: str
    at: list[int]
    estimate: Estimate
    solid: bool = True
    dim: int | None = None


def _lines(view: View, marked: Sequence[int]) -> list[_Line]:
    """Dimensions; where there is one value a point, that and what stands beside it."""
    if view.of:
        every = list(range(len(view.points)))
        return [
            _Line(
                f"{view.of} {column}",
                view.key.statistic,
                every,
                view.estimate[:, column],
                not marked or column in marked,
                column if view.of == "dimension" else None,
            )
            for column in view.strongest(marked, MAX_LINES, MAX_MARKED)
        ]
    return [
        _Line(
            one.statistic.aspect if view.beside else one.statistic.label,
            one.key.statistic,
            [view.points.index(point) for point in one.points],
            one.estimate[:, 0],
        )
        for one in (view, *view.beside)
    ]


def _upwards(view: View) -> str:
    """What the values are, in as many lines as the axis has room for."""
    return "<br>".join(map(plot_text, wrap(view.axis, _AXIS)))


def _scale(view: View) -> str:
    """Logarithmic where values are so unequal that a linear axis would show the largest alone."""
    if view.statistic.low is None or view.statistic.low < 0 or view.usual is None:
        return "linear"
    value = view.estimate.value[np.isfinite(view.estimate.value)]
    return "log" if value.min() > 0 and value.max() > _WIDE * np.median(value) else "linear"


def _chance_lines(view: View) -> list[Floats]:
    chance = view.chance
    if chance is None:
        return []
    return [chance, -chance] if view.symmetric else [chance]


def _table(shown: Sequence[View], marked: Sequence[int]) -> pa.Table:
    names = ("selection", "statistic", "covariate", "point", "layer", "series")
    columns: dict[str, list[Any]] = {name: [] for name in (*names, "value", "low", "high", "null")}
    for view in shown:
        every = list(range(len(view.points)))
        curves = [
            _Line(name, view.key.statistic, every, Estimate(values))
            for name, values in zip(
                ("5%", "median", "95%"), () if view.usual is None else view.usual, strict=False
            )
        ]
        for name, statistic, at, estimate, *_ in [*curves, *_lines(view, marked)]:
            size, parts = len(at), estimate.parts()
            columns["selection"] += [view.key.selection] * size
            columns["statistic"] += [statistic] * size
            columns["covariate"] += [view.key.covariate] * size
            columns["point"] += [view.points[place] for place in at]
            columns["layer"] += [view.layers[place] for place in at]
            columns["series"] += [name] * size
            for part in ("value", "low", "high", "null"):
                columns[part] += [None] * size if part not in parts else parts[part].tolist()
    floats = {name: pa.array(columns.pop(name), pa.float64()) for name in ("low", "high", "null")}
    return pa.table({**columns, **floats})


def _interactive(shown: Sequence[View], palette: Palette, marked: Sequence[int]) -> go.Figure:
    figure = go.Figure()
    for place, view in enumerate(shown):
        scale = _scale(view)
        for trace in _traces(view, palette, marked):
            figure.add_scatter(
                **{"x": view.labels, "customdata": view.points, **trace},
                meta={
                    **view.answers,
                    "axis": _upwards(view),
                    "scale": scale,
                },
                visible=place == 0,
            )
    first = shown[0]
    figure.update_layout(
        layout(
            height=440,
            xaxis={"title": "layer", "type": "category", "zeroline": False},
            yaxis={
                "title": {"text": _upwards(first)},
                "type": _scale(first),
                "zeroline": True,
                "zerolinecolor": MUTED,
            },
        )
    )
    return figure


def _traces(view: View, palette: Palette, marked: Sequence[int]) -> list[dict[str, Any]]:
    silent = {"mode": "lines", "hoverinfo": "skip"}
    traces: list[dict[str, Any]] = []
    if view.usual is not None:
        low, middle, high = view.usual
        edge = {**silent, "line": {"width": 0}, "legendgroup": "band"}
        filled = {"fill": "tonexty", "fillcolor": BAND, "name": "5–95 % of all"}
        traces += [
            {"y": low, "showlegend": False, **edge},
            {"y": high, **filled, **edge},
            {
                "y": middle,
                "name": "median of all",
                "line": {"color": MUTED, "width": 2},
                "mode": "lines",
                "hovertemplate": "median: %{y:.3~g}<extra></extra>",
            },
        ]
    for turn, chance in enumerate(_chance_lines(view)):
        traces.append(
            {
                "y": chance,
                "name": "chance",
                "legendgroup": "chance",
                "showlegend": turn == 0,
                "mode": "lines",
                "line": {"color": MUTED, "width": 1.5, "dash": "dot"},
                "hovertemplate": "chance: %{y:.3~g}<extra></extra>",
            }
        )
    for place, line in enumerate(_lines(view, marked)):
        traces += _curve(view, line, _look(line, place, palette))
    return traces


def _look(line: _Line, place: int, palette: Palette) -> Look:
    return look(place) if line.dim is None else palette.of(line.dim)


def _curve(view: View, line: _Line, drawn: Look) -> list[dict[str, Any]]:
    one, name = line.estimate, plot_text(line.name)
    curve: dict[str, Any] = {
        "x": [view.labels[place] for place in line.at],
        "customdata": [view.points[place] for place in line.at],
        "y": one.value,
        "name": name,
        "mode": "lines+markers",
        "line": {
            "color": drawn.colour,
            "width": 2.5 if line.solid else 1.6,
            "dash": _dash(line.solid),
        },
        "marker": {"size": 6 if line.solid else 4, "symbol": drawn.symbol},
        "hovertemplate": f"{name}<br>%{{customdata}}: %{{y:.3~f}}<extra></extra>",
        "legendgroup": name,
    }
    if one.low is None or one.high is None:
        return [curve]
    if view.of:
        return [{**curve, "error_y": error_bars(one.value, one.low, one.high)}]
    edge = {
        **{part: curve[part] for part in ("x", "customdata", "legendgroup")},
        "mode": "lines",
        "line": {"color": drawn.colour, "width": 0},  # whose shade fills what is between
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [{"y": one.low, **edge}, {"y": one.high, "fill": "tonexty", **edge}, curve]


def _dash(solid: bool) -> str:
    return "solid" if solid else "dash"


def _draw(view: View, palette: Palette, marked: Sequence[int]) -> Canvas:
    x = np.arange(len(view.points))
    figure, axes = canvas(8, 4)
    if view.usual is not None:
        low, middle, high = view.usual
        axes.fill_between(x, low, high, color=MUTED, alpha=0.22, linewidth=0, label="5–95 % of all")
        axes.plot(x, middle, color=MUTED, linewidth=2, label="median of all")
    for turn, chance in enumerate(_chance_lines(view)):
        axes.plot(x, chance, ":", color=MUTED, label="_" if turn else "chance")
    for place, line in enumerate(_lines(view, marked)):
        one, at, drawn = line.estimate, x[line.at], _look(line, place, palette)
        spread = None
        if one.low is not None and one.high is not None:
            if view.of:
                spread = whiskers(one.value, one.low, one.high)
            else:
                axes.fill_between(at, one.low, one.high, color=drawn.colour, alpha=0.2, linewidth=0)
        axes.errorbar(
            at,
            one.value,
            yerr=spread,
            linestyle="-" if line.solid else "--",
            marker=drawn.marker,
            color=drawn.colour,
            linewidth=2 if line.solid else 1.2,
            elinewidth=0.8,
            capsize=2,
            markersize=4 if line.solid else 2.5,
            label=visible(line.name),
        )
    if view.symmetric:
        axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_yscale(_scale(view))
    every = max(1, -(-len(x) // 20))
    axes.set_xticks(x[::every], view.labels[::every])
    axes.set_xlabel("layer")
    axes.set_ylabel("\n".join(map(visible, wrap(view.axis, _AXIS))), parse_math=False)
    axes.set_title(visible(view.words), parse_math=False)
    legend_beside(axes)
    return figure
