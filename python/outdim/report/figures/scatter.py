"""One statistic against another, a layer at a time, with bounds beyond which a dot is extreme."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas

from outdim.report.colours import FAINT, MUTED, Palette
from outdim.report.figures.base import Choice, Figure, canvas, layout
from outdim.report.statistics import Array, Floats
from outdim.report.text import plot_text
from outdim.text import listing

# 12 layers x 768 dimensions fit six times; this many dots are 0.7 MB of page.
MAX_DOTS = 60_000
MAX_LABELLED = 12
_MAX_PANELS = 24


@dataclass(frozen=True)
class Axis:
    """One of the two axes: values [L, D], and the bounds [L, 2] of each layer."""

    name: str
    label: str
    values: Floats
    bounds: Floats


@dataclass(frozen=True)
class Panels:
    """Dots of L layers; without ``across`` they lie side by side, in the order of dimensions.

    Attributes:
        points, layers, labels: Of the layers [L].
        upwards, across: The axes.
        bound: What the dashed lines are.
        rank: The larger, the more worth drawing a dimension is [D].
        named: Dimensions that are coloured and labelled, the first ones.
        palette: How these are drawn.
    """

    points: Sequence[str]
    layers: Sequence[int]
    labels: Sequence[str]
    upwards: Axis
    across: Axis | None
    bound: str
    rank: Floats
    named: Sequence[int]
    palette: Palette

    @property
    def dims(self) -> Array:
        """All dimensions, or those named, the highest in rank, and an even choice of the rest."""
        layers, total = self.upwards.values.shape
        kept = MAX_DOTS // layers
        if total <= kept:
            return np.arange(total)
        far = np.union1d(np.argsort(-self.rank, kind="stable")[: kept // 2], self.named).astype(int)
        rest = np.setdiff1d(np.arange(total), far)
        return np.union1d(far, rest[:: -(-len(rest) // max(1, kept - len(far)))])

    @property
    def drawn(self) -> list[int]:
        """Layers of the static drawing."""
        count = min(len(self.points), _MAX_PANELS)
        return [int(row) for row in np.linspace(0, len(self.points) - 1, count).round()]

    def dots(self, row: int) -> tuple[Floats, Floats]:
        """Abscissa and ordinate of a layer's dimensions."""
        y = self.upwards.values[row]
        x = np.arange(len(y), dtype=float) if self.across is None else self.across.values[row]
        return x, y

    @property
    def across_label(self) -> str:
        """Of the abscissa."""
        return "dimension" if self.across is None else self.across.label


def scatter(id_: str, title: str, panels: Panels, caption: str) -> Figure:
    """Draw the dots, a layer at a time (interactive) or side by side (static)."""
    layers, total = panels.upwards.values.shape
    dims = panels.dims
    said = [
        caption,
        ""
        if len(dims) == total
        else f"Of {total:,} dimensions {len(dims):,} are drawn: those labelled, the most extreme "
        "in any layer, and the rest evenly thinned out; stats.parquet has them all.",
        ""
        if len(panels.drawn) == layers
        else f"The drawing (SVG) shows {len(panels.drawn)} of {layers} layers, evenly spaced.",
    ]
    layer_choice = Choice(
        "layer",
        "Layer",
        {p: f"{layer} ({p})" for p, layer in zip(panels.points, panels.layers, strict=True)},
    )
    return Figure(
        id=id_,
        title=title,
        caption=" ".join(filter(None, said)),
        alt=f"Scatter plot of {title} in {layers} layers, {total:,} dimensions each; labelled: "
        f"{listing(list(panels.named[:MAX_LABELLED])) or 'none'}.",
        table=_table(panels, dims),
        plot=lambda: _interactive(panels, dims),
        draw=lambda: _draw(panels, dims),
        choices=(layer_choice,) if layers > 1 else (),
    )


def _table(panels: Panels, dims: Array) -> pa.Table:
    columns = {
        "point": np.repeat(list(panels.points), len(dims)),
        "layer": np.repeat(list(panels.layers), len(dims)),
        "dim": np.tile(dims, len(panels.points)),
    }
    for axis in filter(None, [panels.across, panels.upwards]):
        columns[axis.name] = axis.values[:, dims].ravel()
    return pa.table(columns)


def _interactive(panels: Panels, dims: Array) -> go.Figure:
    figure = go.Figure()
    labelled = list(panels.named[:MAX_LABELLED])
    rest = dims[~np.isin(dims, labelled)]
    hover = f"{plot_text(panels.upwards.label)} = %{{y:.4f}}"
    if panels.across is not None:
        hover = f"{plot_text(panels.across.label)} = %{{x:.4f}}<br>{hover}"
    for row, point in enumerate(panels.points):
        x, y = panels.dots(row)
        shared = {"meta": {"layer": point}, "visible": row == 0}
        figure.add_scatter(
            x=x[rest].astype(np.float32),
            y=y[rest].astype(np.float32),
            customdata=rest.astype(np.int32),
            mode="markers",
            name="other dimensions",
            marker={"size": 5, "color": FAINT, "opacity": 0.7},
            hovertemplate=f"dimension %{{customdata}}<br>{hover}<extra></extra>",
            **shared,
        )
        for dim in labelled:
            drawn = panels.palette.of(dim)
            figure.add_scatter(
                x=[x[dim]],
                y=[y[dim]],
                mode="markers+text",
                name=f"dimension {dim}",
                text=[str(dim)],
                textposition="top center",
                cliponaxis=False,
                marker={"size": 10, "color": drawn.colour, "symbol": drawn.symbol},
                hovertemplate=f"dimension {dim}<br>{hover}<extra></extra>",
                **shared,
            )
        figure.add_scatter(**_bound_lines(panels, row), **shared)
    figure.update_layout(
        layout(
            height=460,
            xaxis={"title": plot_text(panels.across_label)},
            yaxis={"title": plot_text(panels.upwards.label)},
        )
    )
    return figure


def _bound_lines(panels: Panels, row: int) -> dict[str, object]:
    """Trace of the bounds, as wide as dots and bounds reach."""
    x, y = panels.dots(row)
    low, high = panels.upwards.bounds[row]
    left, right = (0.0, len(x) - 1.0) if panels.across is None else panels.across.bounds[row]
    x0, x1 = _reach(x, left, right)
    y0, y1 = _reach(y, low, high)
    lines_x, lines_y = [x0, x1, None, x0, x1], [low, low, None, high, high]
    if panels.across is not None:
        lines_x += [None, left, left, None, right, right]
        lines_y += [None, y0, y1, None, y0, y1]
    return {
        "x": lines_x,
        "y": lines_y,
        "mode": "lines",
        "name": panels.bound,
        "line": {"color": MUTED, "width": 1, "dash": "dash"},
        "hoverinfo": "skip",
    }


def _reach(values: Floats, low: float, high: float) -> tuple[float, float]:
    """Span dots and bounds, and a little more."""
    low, high = min(low, float(np.nanmin(values))), max(high, float(np.nanmax(values)))
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def _draw(panels: Panels, dims: Array) -> Canvas:
    drawn = panels.drawn
    columns = min(4, len(drawn))
    lines = -(-len(drawn) // columns)
    figure, grid = canvas(
        max(4.5, 2.4 * columns), 0.5 + 2.1 * lines, nrows=lines, ncols=columns, squeeze=False
    )
    labelled = list(panels.named[:MAX_LABELLED])
    rest = dims[~np.isin(dims, labelled)]
    for axes, row in zip(grid.flat, drawn, strict=False):
        x, y = panels.dots(row)
        # As an image inside the SVG: tens of thousands of circles would weigh megabytes.
        axes.scatter(x[rest], y[rest], s=4, color=FAINT, linewidths=0, rasterized=True)
        for dim in labelled:
            mark = panels.palette.of(dim)
            axes.scatter([x[dim]], [y[dim]], s=18, color=mark.colour, marker=mark.marker, zorder=3)
            axes.annotate(
                str(dim), (x[dim], y[dim]), xytext=(3, 3), textcoords="offset points", fontsize=7
            )
        for bound in panels.upwards.bounds[row]:
            axes.axhline(bound, color=MUTED, linewidth=0.7, linestyle="--")
        for bound in () if panels.across is None else panels.across.bounds[row]:
            axes.axvline(bound, color=MUTED, linewidth=0.7, linestyle="--")
        axes.set_title(f"layer {panels.labels[row]}", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.margins(0.12)
    for axes in grid.flat[len(drawn) :]:
        axes.set_visible(False)
    figure.supxlabel(panels.across_label, fontsize=9)
    figure.supylabel(panels.upwards.label, fontsize=9)
    figure.suptitle(f"dashed: {panels.bound}", fontsize=9)
    return figure
