"""A statistic of attention heads, layer by head: heads of one number have nothing in common."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas

from outdim.report.colours import DIVERGING, GRID, ORANGE, scale
from outdim.report.figures.base import COLOUR_BAR, Figure, canvas, colour_map, layout
from outdim.report.text import plot_text
from outdim.report.views import View, choices
from outdim.text import visible

_WRITTEN = 16  # heads and layers at most whose values are written into their cells


def head_map(id_: str, title: str, shown: Sequence[View]) -> Figure:
    """Draw all heads of all layers, for each view on a scale of its own."""
    first = shown[0]
    axes = {view.axis for view in shown}
    said = [
        "A cell is a head, a row a layer, the first at the bottom.",
        f"Colour: {first.axis}." if len(axes) == 1 else "Colour: the value that is chosen.",
        "Intervals show where the mouse points, and are in the CSV."
        if any(view.estimate.low is not None for view in shown)
        else "",
    ]
    layers, heads = first.estimate.value.shape
    return Figure(
        id=id_,
        title=title,
        caption=" ".join(filter(None, said)),
        alt=f"Heat map of {first.words}: {layers} layers by {heads} heads.",
        table=_table(shown),
        plot=lambda: _interactive(shown),
        draw=lambda: _draw(first),
        choices=choices(shown),
    )


def _bounds(view: View) -> tuple[float, float]:
    """From 0 to the largest; where there are negative values, as far on both sides of it."""
    largest = float(view.largest.max(initial=0.0)) or 1.0
    return (-largest if np.nanmin(view.estimate.value, initial=0.0) < 0 else 0.0), largest


def _colours(view: View) -> tuple[str, ...]:
    return DIVERGING if _bounds(view)[0] < 0 else ORANGE


def _table(shown: Sequence[View]) -> pa.Table:
    """A row a view, layer and head."""
    names = ("selection", "statistic", "covariate", "point", "layer", "head")
    columns: dict[str, list[Any]] = {name: [] for name in (*names, "value", "low", "high")}
    for view in shown:
        parts = view.estimate.parts()
        for row, column in np.argwhere(np.isfinite(view.estimate.value)):
            columns["selection"].append(view.key.selection)
            columns["statistic"].append(view.key.statistic)
            columns["covariate"].append(view.key.covariate)
            columns["point"].append(view.points[row])
            columns["layer"].append(view.layers[row])
            columns["head"].append(int(column))
            for name in ("value", "low", "high"):
                columns[name].append(float(parts[name][row, column]) if name in parts else None)
    floats = {name: pa.array(columns.pop(name), pa.float64()) for name in ("low", "high")}
    return pa.table({**columns, **floats})


def _is_written(view: View) -> bool:
    return bool(max(view.estimate.value.shape) <= _WRITTEN)


def _interactive(shown: Sequence[View]) -> go.Figure:
    figure = go.Figure()
    for place, view in enumerate(shown):
        rows, heads = view.estimate.value.shape
        low, high = _bounds(view)
        figure.add_heatmap(
            x=[str(head) for head in range(heads)],
            y=view.labels,
            z=view.estimate.value.astype(np.float32),
            zmin=low,
            zmax=high,
            colorscale=scale(_colours(view)),
            colorbar=COLOUR_BAR,
            customdata=[
                [view.estimate[row, head].words(3) for head in range(heads)] for row in range(rows)
            ],
            texttemplate="%{z:.2f}" if _is_written(view) else None,
            textfont={"size": 10},
            xgap=1,
            ygap=1,
            meta=view.answers,
            visible=place == 0,
            hoverongaps=False,
            hovertemplate=f"layer %{{y}}, head %{{x}}<br>{plot_text(view.axis)}: %{{customdata}}"
            "<extra></extra>",
        )
    rows = max(len(view.points) for view in shown)
    axis = {"showgrid": False, "zeroline": False, "type": "category"}
    figure.update_layout(
        layout(
            height=100 + max(160, min(26 * rows, 640)),
            margin={"l": 56, "r": 12, "t": 12, "b": 48},
            xaxis={"title": "head", **axis},
            yaxis={"title": "layer", **axis},
        )
    )
    return figure


def _draw(view: View) -> Canvas:
    value = view.estimate.value
    rows, heads = value.shape
    figure, axes = canvas(2 + max(4, 0.38 * heads), 1.4 + max(1.4, 0.26 * rows))
    low, high = _bounds(view)
    colours = colour_map(_colours(view)).with_extremes(bad=GRID)
    image = axes.imshow(
        np.ma.masked_invalid(value),
        aspect="auto",
        origin="lower",
        cmap=colours,
        vmin=low,
        vmax=high,
    )
    if _is_written(view):
        for row, head in np.argwhere(np.isfinite(value)):
            ink = "white" if abs(value[row, head]) > 0.6 * high else "black"
            said = f"{value[row, head]:.2f}"
            axes.text(head, row, said, ha="center", va="center", fontsize=6, color=ink)
    axes.grid(False)
    axes.set(xlabel="head", ylabel="layer")
    axes.set_xticks(range(0, heads, max(1, -(-heads // 20))))
    every = range(0, rows, max(1, -(-rows // 20)))
    axes.set_yticks(every, [view.labels[row] for row in every])
    axes.set_title(visible(view.words), parse_math=False)
    figure.colorbar(image, ax=axes, shrink=0.9, pad=0.01)
    return figure
