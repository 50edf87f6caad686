"""Heat map of a statistic, layer x dimension: what is so in every layer is a vertical line."""

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas

from outdim.report.colours import DIVERGING, FAINT, GRID, scale
from outdim.report.figures.base import COLOUR_BAR, Figure, canvas, colour_map, layout
from outdim.report.statistics import Array
from outdim.report.text import plot_text
from outdim.report.views import View, choices
from outdim.text import listing, visible

# 24 choices of 13 points x 768 dimensions fit three times; a cell is about 6 bytes of page.
MAX_CELLS = 640_000
_MARKED = 12


def heat_map(
    id_: str,
    title: str,
    shown: Sequence[View],
    marked: Sequence[int] = (),
    caption: str = "",
    measured: Sequence[int] | None = None,
) -> Figure:
    """Draw every point and dimension, or as many dimensions as MAX_CELLS allows for all views.

    The views are of the same points, dimensions and range, which is symmetric. Of dimensions that
    are not among those ``measured`` there is no column; None stands for all.
    """
    first = shown[0]
    order = _order(shown, marked)
    if measured is not None:
        order = order[np.isin(order, measured)]
    total = len(order)
    kept = max(1, MAX_CELLS // sum(len(view.points) for view in shown))
    dims = np.sort(order[:kept])
    marks = [dim for dim in marked[:_MARKED] if dim in dims]
    said = [
        caption,
        f"All {total:,} dimensions{'' if measured is None else ' that were measured'} are shown."
        if len(dims) == total
        else f"Of {total:,} dimensions the figure and its CSV show {len(dims):,}: the outlier "
        "dimensions and those with the largest values over all layers and choices; stats.parquet "
        "has them all.",
        f"Ticks on the upper edge mark the outlier dimensions {listing(marks)}." if marks else "",
        "Empty cells: not defined there, see the warnings."
        if any(np.isnan(view.estimate.value[:, dims]).any() for view in shown)
        else "",
    ]
    return Figure(
        id=id_,
        title=title,
        caption=" ".join(filter(None, said)),
        alt=f"Heat map of {first.words}: {len(first.points)} layers by {len(dims):,} dimensions.",
        table=_table(shown, dims),
        plot=lambda: _interactive(shown, dims, marks),
        draw=lambda: _draw(first, dims, marks, _bound(shown)),
        choices=choices(shown),
    )


def _order(shown: Sequence[View], marked: Sequence[int]) -> Array:
    """All dimensions, those marked first, then by their largest value over points and views."""
    largest = np.max([view.largest for view in shown], axis=0)
    largest[list(marked)] = np.inf
    return np.argsort(-largest, kind="stable")


def _bound(shown: Sequence[View]) -> float:
    """The bound of the scale: the largest value, rounded up to a tenth."""
    largest = max(float(view.largest.max(initial=0.0)) for view in shown)
    return max(0.1, math.ceil(largest * 10 - 1e-9) / 10)


def _table(shown: Sequence[View], dims: Array) -> pa.Table:
    """One row per point and dimension, one column per view: shorter than one row per value."""
    first = shown[0]
    columns = {
        "point": np.repeat(first.points, len(dims)),
        "layer": np.repeat(first.layers, len(dims)),
        "dim": np.tile(dims, len(first.points)),
    }
    for view in shown:
        columns["_".join(filter(None, view.key))] = view.estimate.value[:, dims].ravel()
    return pa.table(columns)


def _interactive(shown: Sequence[View], dims: Array, marked: list[int]) -> go.Figure:
    first = shown[0]
    whole = len(dims) == first.estimate.value.shape[1]
    x = dims if whole else [str(dim) for dim in dims]
    figure = go.Figure()
    for place, view in enumerate(shown):
        figure.add_heatmap(
            x=x,
            y=view.labels,
            z=view.estimate.value[:, dims].astype(np.float32),
            coloraxis="coloraxis",
            meta=view.answers,
            visible=place == 0,
            hoverongaps=False,
            hovertemplate="dimension %{x}<br>layer %{y}<br>"
            f"{plot_text(view.axis)}: %{{z:.3f}}<extra></extra>",
        )
    bound = _bound(shown)
    figure.update_layout(
        layout(
            height=120 + min(420, max(200, 22 * len(first.points))),
            margin={"l": 56, "r": 12, "t": 40 if marked else 12, "b": 48},
            xaxis={
                "title": "dimension" if whole else "dimension (those shown, in order)",
                "showgrid": False,
                "zeroline": False,
                "type": "linear" if whole else "category",
                "nticks": 10,
            },
            yaxis={
                "title": "layer",
                "showgrid": False,
                "zeroline": False,
                "type": "category",
            },
            coloraxis={
                "colorscale": scale(DIVERGING),
                "cmin": -bound,
                "cmax": bound,
                "colorbar": COLOUR_BAR,
            },
            annotations=_marks(dims, marked),
        )
    )
    return figure


def _marks(dims: Array, marked: list[int]) -> list[dict[str, object]]:
    """Label outliers above the map, on two lines in turn so that neighbours stay readable."""
    places = sorted((int(np.searchsorted(dims, dim)), dim) for dim in marked)
    return [
        {
            "x": x,
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "text": str(dim),
            "showarrow": True,
            "arrowhead": 0,
            "arrowwidth": 1,
            "arrowcolor": FAINT,
            "ax": 0,
            "ay": -8 - 14 * (turn % 2),
            "font": {"size": 11},
        }
        for turn, (x, dim) in enumerate(places)
    ]


def _every(count: int) -> list[int]:
    return list(range(0, count, max(1, -(-count // 20))))


def _draw(view: View, dims: Array, marked: list[int], bound: float) -> Canvas:
    value = view.estimate.value[:, dims]
    figure, axes = canvas(9, 1.6 + min(4.5, 0.22 * len(value)))
    colours = colour_map(DIVERGING).with_extremes(bad=GRID)
    image = axes.imshow(
        np.ma.masked_invalid(value),
        aspect="auto",
        origin="lower",
        cmap=colours,
        vmin=-bound,
        vmax=bound,
    )
    axes.grid(False)
    axes.set(xlabel="dimension", ylabel="layer")
    axes.set_title(visible(view.words), pad=26 if marked else 6, parse_math=False)
    rows = _every(len(view.labels))
    axes.set_yticks(rows, [view.labels[i] for i in rows])
    if len(dims) < view.estimate.value.shape[1]:
        columns = np.linspace(0, len(dims) - 1, min(8, len(dims))).astype(int)
        axes.set_xticks(columns, [str(dims[i]) for i in columns])
    places = sorted((int(np.searchsorted(dims, dim)), dim) for dim in marked)
    for turn, (x, dim) in enumerate(places):
        axes.annotate(
            str(dim),
            (x, len(value) - 0.5),
            xytext=(0, 4 + 9 * (turn % 2)),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
    figure.colorbar(image, ax=axes, shrink=0.9, pad=0.01)
    return figure
