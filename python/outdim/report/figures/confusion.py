"""What becomes of each true class: shares of the predicted ones, variants to choose between."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from numpy.typing import NDArray

from outdim.report.figures.base import Choice, Figure
from outdim.report.figures.squares import draw_squares, squares
from outdim.report.text import plot_text

Counts = NDArray[np.int64]


def confusion(
    id_: str, title: str, caption: str, classes: Sequence[str], tables: Mapping[str, Counts]
) -> Figure:
    """Draw shares of each row, the first table beside another that the reader chooses.

    tables: Counts [true, predicted] by variant, all of the same classes.
    """
    others = list(tables)[1:]
    drawn = {name: _shares(counts) for name, counts in [*tables.items()][:2]}
    choices = (Choice("variant", "beside", dict(zip(others, others, strict=True))),)
    return Figure(
        id=id_,
        title=title,
        caption=caption,
        alt=f"Heat maps of {len(classes)} true by predicted classes, {len(tables)} variants.",
        table=_table(classes, tables),
        plot=lambda: _interactive(classes, tables),
        draw=lambda: draw_squares(classes, drawn, 0.2),
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
    figure = squares(classes, [first, *(["beside it"] if others else [])], tickformat=".0%")
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
    return figure
