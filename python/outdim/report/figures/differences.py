"""Differences with intervals, one a row: what each variant changes, beside what chance does."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas

from outdim.report.colours import INK, MUTED
from outdim.report.figures.base import (
    Figure,
    canvas,
    error_bars,
    layout,
    missing_intervals,
    whiskers,
)
from outdim.report.text import plot_text
from outdim.text import visible

_ROW = 26  # pixels


@dataclass(frozen=True)
class Difference:
    """One row.

    Attributes:
        label: What was changed.
        value, low, high: Of the difference.
        controls: Differences of the controls that stand beside it.
        colour: Of the filled dot.
    """

    label: str
    value: float
    low: float
    high: float
    controls: Sequence[float] = ()
    colour: str = INK


def differences(
    id_: str, title: str, caption: str, axis: str, rows: Sequence[Difference]
) -> Figure:
    """Draw differences with whiskers, the first at the top, and their controls as open dots."""
    return Figure(
        id=id_,
        title=title,
        caption=f"{caption}{missing_intervals([row.low for row in rows])}",
        alt=f"Dot plot of {axis} of {len(rows)} variants.",
        table=_table(rows),
        plot=lambda: _interactive(axis, rows),
        draw=lambda: _draw(axis, rows),
    )


def _table(rows: Sequence[Difference]) -> pa.Table:
    found = [
        {
            "label": row.label,
            "series": "ablated",
            "value": row.value,
            "low": row.low,
            "high": row.high,
        }
        for row in rows
    ]
    for row in rows:
        found += [{"label": row.label, "series": "control", "value": one} for one in row.controls]
    kinds = {"label": pa.string(), "series": pa.string()}
    floats = dict.fromkeys(("value", "low", "high"), pa.float64())
    return pa.Table.from_pylist(found, pa.schema({**kinds, **floats}))


def _parts(rows: Sequence[Difference]) -> list[list[float]]:
    """Values, low and high ends."""
    return [[getattr(row, name) for row in rows] for name in ("value", "low", "high")]


def _interactive(axis: str, rows: Sequence[Difference]) -> go.Figure:
    figure = go.Figure()
    controls = [(one, place) for place, row in enumerate(rows) for one in row.controls]
    if controls:
        figure.add_scatter(
            x=[one for one, _ in controls],
            y=[place for _, place in controls],
            mode="markers",
            name="random dimensions",
            marker={"size": 6, "color": MUTED, "symbol": "circle-open"},
            hovertemplate="random: %{x:.3~f}<extra></extra>",
        )
    figure.add_scatter(
        x=[row.value for row in rows],
        y=list(range(len(rows))),
        error_x={**error_bars(*_parts(rows)), "color": MUTED},
        mode="markers",
        name="ablated",
        marker={"size": 8, "color": [row.colour for row in rows]},
        text=[plot_text(row.label) for row in rows],
        hovertemplate="%{text}: %{x:.3~f}<extra></extra>",
    )
    figure.update_layout(
        layout(
            height=max(220, 120 + _ROW * len(rows)),
            xaxis={"title": plot_text(axis), "zeroline": True, "zerolinecolor": MUTED},
            yaxis={
                "tickmode": "array",
                "tickvals": list(range(len(rows))),
                "ticktext": [plot_text(row.label) for row in rows],
                "autorange": "reversed",
                "zeroline": False,
            },
        )
    )
    return figure


def _draw(axis: str, rows: Sequence[Difference]) -> Canvas:
    figure, axes = canvas(8, max(2.0, 1.0 + 0.28 * len(rows)))
    for place, row in enumerate(rows):
        axes.plot(
            row.controls, [place] * len(row.controls), "o",
            color=MUTED, markerfacecolor="none", markersize=4,
        )  # fmt: skip
    axes.errorbar(
        [row.value for row in rows],
        range(len(rows)),
        xerr=whiskers(*_parts(rows)),
        fmt="none",
        ecolor=MUTED,
        capsize=2,
    )
    for place, row in enumerate(rows):
        axes.plot(row.value, place, "o", color=row.colour, markersize=5)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [visible(row.label) for row in rows], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel(visible(axis), parse_math=False)
    return figure
