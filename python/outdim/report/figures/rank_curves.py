"""Counts by rank, a line a series, both axes logarithmic."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas

from outdim.report.colours import INK, MUTED, series
from outdim.report.figures.base import LOG_AXIS, Figure, canvas, layout, legend_beside
from outdim.report.figures.rank_curve import thinned
from outdim.report.text import plot_text, token_text
from outdim.text import visible

_BESIDE = "random dimensions"


@dataclass(frozen=True)
class RankCurve:
    """One line.

    Attributes:
        name: Of the series.
        counts: By rank, the largest first.
        tokens: What is counted, in the same order.
        kind: The line is dashed for what others are compared with, and grey for what is beside it.
    """

    name: str
    counts: Sequence[int]
    tokens: Sequence[str]
    kind: str = "line"


def rank_curves(id_: str, title: str, caption: str, lines: Sequence[RankCurve]) -> Figure:
    """Draw counts by rank; kinds of lines are "line", "reference" and "beside"."""
    return Figure(
        id=id_,
        title=title,
        caption=caption,
        alt=f"Log-log plot of count by rank, {len(lines)} lines.",
        table=_table(lines),
        plot=lambda: _interactive(lines),
        draw=lambda: _draw(lines),
    )


def _table(lines: Sequence[RankCurve]) -> pa.Table:
    ranks = [thinned(len(line.counts)) for line in lines]
    return pa.table(
        {
            "series": np.repeat([line.name for line in lines], [len(own) for own in ranks]),
            "rank": np.concatenate([own + 1 for own in ranks]),
            "token": [line.tokens[i] for line, own in zip(lines, ranks, strict=True) for i in own],
            "count": np.concatenate(
                [np.asarray(line.counts)[own] for line, own in zip(lines, ranks, strict=True)]
            ),
        }
    )


def _names(lines: Sequence[RankCurve]) -> dict[str, str]:
    """What the legend says, by series; of all lines that stand beside it says one."""
    found = {line.name: line.name for line in lines if line.kind != "beside"}
    first = next((line.name for line in lines if line.kind == "beside"), None)
    return found if first is None else {**found, first: _BESIDE}


def _styles(lines: Sequence[RankCurve]) -> list[tuple[str, str, float]]:
    """Colour, dash and width of each line."""
    ordinary = iter(range(len(lines)))
    kinds = {"reference": (INK, "dash", 2.0), "beside": (MUTED, "dot", 1.0)}
    return [kinds.get(line.kind) or (series(next(ordinary)), "solid", 2.0) for line in lines]


def _interactive(lines: Sequence[RankCurve]) -> go.Figure:
    figure = go.Figure()
    named = _names(lines)
    for line, (colour, dash, width) in zip(lines, _styles(lines), strict=True):
        own = thinned(len(line.counts))
        name = plot_text(line.name)
        figure.add_scatter(
            x=own + 1,
            y=np.asarray(line.counts)[own],
            text=[plot_text(token_text(line.tokens[i])) for i in own],
            mode="lines",
            name=plot_text(named.get(line.name, _BESIDE)),
            legendgroup=named.get(line.name, _BESIDE),
            showlegend=line.name in named,
            line={"color": colour, "width": width, "dash": dash},
            hovertemplate=f"{name}<br>rank %{{x:,}}, “%{{text}}”: %{{y:,}} times<extra></extra>",
        )
    figure.update_layout(
        layout(
            height=460,
            xaxis={"title": "rank of the token", **LOG_AXIS},
            yaxis={"title": "count of the token", **LOG_AXIS},
        )
    )
    return figure


def _draw(lines: Sequence[RankCurve]) -> Canvas:
    figure, axes = canvas(8, 4)
    axes.set(xscale="log", yscale="log", xlabel="rank of the token", ylabel="count of the token")
    named = _names(lines)
    dashes = {"solid": "-", "dash": "--", "dot": ":"}
    for line, (colour, dash, width) in zip(lines, _styles(lines), strict=True):
        own = thinned(len(line.counts))
        axes.plot(
            own + 1,
            np.asarray(line.counts)[own],
            dashes[dash],
            color=colour,
            linewidth=0.8 * width,
            label=visible(named[line.name]) if line.name in named else None,
        )
    legend_beside(axes)
    return figure
