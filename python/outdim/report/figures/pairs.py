"""A value of every pair: a matrix of names, the same above and below its diagonal."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from outdim.report.colours import DIVERGING, scale
from outdim.report.figures.base import COLOUR_BAR, Figure, canvas, colour_map, layout
from outdim.text import number, together, with_interval

_DARK = 0.6  # of the largest value: cells in which black cannot be read
_SPELT = 16  # names up to which every value is written into its cell


class Pair(NamedTuple):
    """Two names, their value with its ends (None: not known), and whether a star marks it."""

    one: int
    other: int
    value: float | None
    low: float | None
    high: float | None
    marked: bool


def pairs(id_: str, title: str, caption: str, given: Sequence[Pair]) -> Figure:
    """Draw the matrix; names are in the order in which they first come. Some value is known."""
    return Figure(
        id=id_,
        title=title,
        caption=caption,
        alt=f"Matrix of {len(given)} pairs of {len(_names(given))}.",
        table=pa.Table.from_pylist([pair._asdict() for pair in given]),
        plot=lambda: _interactive(given),
        draw=lambda: _draw(given),
    )


def _names(given: Sequence[Pair]) -> list[int]:
    return list(dict.fromkeys(name for pair in given for name in pair[:2]))


class _Matrix(NamedTuple):
    """Values, NaN on the diagonal, what is written into the cells, and what hovering says."""

    values: NDArray[np.float64]
    words: NDArray[np.object_]
    hover: NDArray[np.object_]


def _matrix(given: Sequence[Pair]) -> _Matrix:
    place = {name: i for i, name in enumerate(_names(given))}
    values = np.full((len(place), len(place)), np.nan)
    words, hover = np.full(values.shape, "", object), np.full(values.shape, "", object)
    for pair in given:
        if pair.value is None:
            continue
        said = number(pair.value, 2) if len(place) <= _SPELT else ""
        for at in ((place[pair.one], place[pair.other]), (place[pair.other], place[pair.one])):
            values[at], words[at] = pair.value, said + "*" * pair.marked
            value = with_interval(pair.value, pair.low, pair.high)
            hover[at] = f"{together(pair[:2])}<br>{value}"
    return _Matrix(values, words, hover)


def _interactive(given: Sequence[Pair]) -> go.Figure:
    names = [str(name) for name in _names(given)]
    values, words, hover = _matrix(given)
    bound = float(np.nanmax(np.abs(values))) or 1.0
    figure = go.Figure()
    figure.add_heatmap(
        x=names, y=names, z=values, text=words, texttemplate="%{text}",
        colorscale=scale(DIVERGING), zmin=-bound, zmax=bound,
        colorbar=COLOUR_BAR,
        hovertext=hover, hovertemplate="%{hovertext}<extra></extra>", hoverongaps=False,
    )  # fmt: skip
    axis = {"type": "category", "showgrid": False, "zeroline": False}
    figure.update_layout(layout(height=180 + 26 * len(names), xaxis=axis, yaxis=axis))
    figure.update_yaxes(autorange="reversed")
    return figure


def _draw(given: Sequence[Pair]) -> Canvas:
    names = [str(name) for name in _names(given)]
    values, words, _ = _matrix(given)
    bound = float(np.nanmax(np.abs(values))) or 1.0
    size = 2 + 0.45 * len(names)
    figure, axes = canvas(size + 1, size)
    colours = colour_map(DIVERGING)
    image = axes.imshow(values, cmap=colours, vmin=-bound, vmax=bound)
    axes.grid(False)
    for (row, column), said in np.ndenumerate(words):
        colour = "white" if abs(values[row, column]) > _DARK * bound else "black"
        axes.text(
            column, row, said, ha="center", va="center", fontsize=7, color=colour, parse_math=False
        )
    axes.set_xticks(range(len(names)), names, rotation=60)
    axes.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    return figure
