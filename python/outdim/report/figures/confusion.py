"""What becomes of each true class: shares of the predicted ones, variants to choose between."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from outdim.report.colours import DIVERGING, scale
from outdim.report.figures.base import Choice, Figure, canvas, layout
from outdim.report.text import plot_text
from outdim.text import visible

_ORANGE = DIVERGING[len(DIVERGING) // 2 :]

Counts = NDArray[np.int64]


def confusion(
    id_: str, title: str, caption: str, classes: Sequence[str], tables: Mapping[str, Counts]
) -> Figure:
    """Draw shares of each row, the first table beside another that the reader chooses.

    tables: Counts [true, predicted] by variant, all of the same classes.
    """
    others = list(tables)[1:]
    choices = (Choice("variant", "beside", dict(zip(others, others, strict=True))),)
    return Figure(
        id=id_,
        title=title,
        caption=caption,
        alt=f"Heat maps of {len(classes)} true by predicted classes, {len(tables)} variants.",
        table=_table(classes, tables),
        plot=lambda: _interactive(classes, tables),
        draw=lambda: _draw(classes, tables),
        choices=choices if len(others) > 1 else (),
    )


def _shares(counts: Counts) -> NDArray[np.float64]:
    total = counts.sum(1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), np.nan)


def _table(classes: Sequence[str], tables: Mapping[str, Counts]) -> pa.Table:
    size = len(classes)
    true, predicted = (np.asarray(classes)[index.ravel()] for index in np.indices((size, size)))
    return pa.table(
        {
            "variant": np.repeat(list(tables), size * size),
            "true": np.tile(true, len(tables)),
            "predicted": np.tile(predicted, len(tables)),
            "count": np.concatenate([counts.ravel() for counts in tables.values()]),
            "share": np.concatenate([_shares(counts).ravel() for counts in tables.values()]),
        }
    )


def _interactive(classes: Sequence[str], tables: Mapping[str, Counts]) -> go.Figure:
    first, *others = tables
    sides = [first, *others[:1]]
    figure = make_subplots(
        rows=1, cols=len(sides), shared_yaxes=True, horizontal_spacing=0.03,
        subplot_titles=[plot_text(first), *(["beside it"] if others else [])],
    )  # fmt: skip
    places = list(range(len(classes)))
    for number, (name, counts) in enumerate(tables.items()):
        meta: dict[str, Any] = {"meta": {"variant": name}} if len(others) > 1 and number else {}
        figure.add_heatmap(
            x=places, y=places, z=_shares(counts), coloraxis="coloraxis",
            visible=number < 2, name=plot_text(name),
            customdata=[
                [[classes[i], classes[j], int(counts[i, j])] for j in places] for i in places
            ],
            hovertemplate=f"{plot_text(name)}<br>true %{{customdata[0]}}, predicted "
            "%{customdata[1]}<br>%{z:.1%} (%{customdata[2]:,})<extra></extra>",
            row=1, col=1 + min(number, 1), **meta,
        )  # fmt: skip
    axis = {"tickvals": places, "ticktext": list(classes), "showgrid": False, "zeroline": False}
    figure.update_layout(
        layout(
            height=150 + 20 * len(classes),
            margin={"l": 80, "r": 12, "t": 40, "b": 80},
            coloraxis={
                "colorscale": scale(_ORANGE), "cmin": 0, "cmax": 1,
                "colorbar": {"thickness": 10, "xpad": 6, "outlinewidth": 0, "tickformat": ".0%"},
            },
        )
    )  # fmt: skip
    figure.update_xaxes(**axis, tickangle=-60)
    figure.update_yaxes(**axis, autorange="reversed")
    return figure


def _draw(classes: Sequence[str], tables: Mapping[str, Counts]) -> Canvas:
    sides = list(tables)[:2]
    size = 1.6 + 0.2 * len(classes)
    figure, axes = canvas(size * len(sides) + 1, size + 0.4, ncols=len(sides), squeeze=False)
    colours = LinearSegmentedColormap.from_list("outdim", _ORANGE)
    places = range(len(classes))
    for column, name in enumerate(sides):
        at = axes[0][column]
        image = at.imshow(_shares(tables[name]), cmap=colours, vmin=0, vmax=1)
        at.grid(False)
        at.set_title(visible(name), parse_math=False)
        at.set_xticks(places, classes, rotation=60, ha="right", parse_math=False)
        at.set_yticks(places, classes if column == 0 else [""] * len(classes), parse_math=False)
    figure.colorbar(image, ax=list(axes[0]), shrink=0.8, pad=0.01)
    return figure
