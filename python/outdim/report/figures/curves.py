"""Values against a number, one line a series, each with its interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas

from outdim.report.colours import MUTED, Look, look
from outdim.report.figures.base import (
    Figure,
    canvas,
    error_bars,
    layout,
    legend_beside,
    missing_intervals,
    whiskers,
)
from outdim.report.text import plot_text
from outdim.text import visible


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
        name: Of the series.
        x, y: Its places, in the order of x.
        low, high: Ends of the interval at each.
        beside: Whether it is there to be compared with: drawn grey.
        look: How it is drawn otherwise, where it is of a dimension.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    beside: bool = False
    look: Look | None = None

    @classmethod
    def of_others(cls, name: str, x: Sequence[float], y: Sequence[float]) -> Self:
        """One without intervals that is there to be compared with."""
        none = [math.nan] * len(x)
        return cls(name, x, y, none, none, beside=True)


def curves(
    id_: str, title: str, caption: str, across: str, upwards: str, lines: Sequence[Curve]
) -> Figure:
    """Draw lines with whiskers; the axes are named by ``across`` and ``upwards``."""
    return Figure(
        id=id_,
        title=title,
        caption=caption
        + missing_intervals([low for line in lines if not line.beside for low in line.low]),
        alt=f"Line chart of {upwards} by {across}, {len(lines)} lines.",
        table=_table(lines),
        plot=lambda: _interactive(across, upwards, lines),
        draw=lambda: _draw(across, upwards, lines),
    )


def _table(lines: Sequence[Curve]) -> pa.Table:
    sizes = [len(line.x) for line in lines]
    names = np.repeat([line.name for line in lines], sizes)
    columns = {
        name: np.concatenate([np.asarray(getattr(line, name), np.float64) for line in lines])
        for name in ("x", "y", "low", "high")
    }
    return pa.table({"series": names, **columns})


def _looks(lines: Sequence[Curve]) -> list[Look]:
    ordinary = iter(range(len(lines)))
    grey = look(0)._replace(colour=MUTED)
    return [grey if line.beside else line.look or look(next(ordinary)) for line in lines]


def _interactive(across: str, upwards: str, lines: Sequence[Curve]) -> go.Figure:
    figure = go.Figure()
    for line, drawn in zip(lines, _looks(lines), strict=True):
        name = plot_text(line.name)
        figure.add_scatter(
            x=list(line.x),
            y=list(line.y),
            error_y=error_bars(line.y, line.low, line.high),
            mode="lines+markers",
            name=name,
            marker={"symbol": drawn.symbol},
            line={"color": drawn.colour, "width": 2, "dash": "dot" if line.beside else "solid"},
            hovertemplate=f"{name}<br>%{{x}}: %{{y:.3~f}}<extra></extra>",
        )
    figure.update_layout(
        layout(
            height=420,
            xaxis={"title": plot_text(across), "zeroline": False},
            yaxis={"title": plot_text(upwards), "zeroline": True, "zerolinecolor": MUTED},
        )
    )
    return figure


def _draw(across: str, upwards: str, lines: Sequence[Curve]) -> Canvas:
    figure, axes = canvas(8, 4)
    for line, drawn in zip(lines, _looks(lines), strict=True):
        axes.errorbar(
            line.x,
            line.y,
            yerr=whiskers(line.y, line.low, line.high),
            fmt=":" if line.beside else "-",
            marker=drawn.marker,
            color=drawn.colour,
            elinewidth=0.8,
            capsize=2,
            markersize=3.5,
            label=visible(line.name),
        )
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel(visible(across), parse_math=False)
    axes.set_ylabel(visible(upwards), parse_math=False)
    legend_beside(axes)
    return figure
