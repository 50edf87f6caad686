"""Attention of some heads over a sentence, full beside ablated."""

from collections.abc import Sequence
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
_SIDES = {"full": "as it is", "ablated": "ablated"}


def attention_map(id_: str, rows: Sequence[dict[str, Any]], about: str) -> Figure:
    """Draw the heads of ``rows``, all over one sentence; the reader chooses between them.

    rows: of ``attention_maps.parquet``, the head that is shown first first; about: what was
    ablated.
    """
    tokens = rows[0]["tokens"]
    sides = [side for side in _SIDES if rows[0][side] is not None]
    maps = [{side: _square(row[side], len(tokens)) for side in sides} for row in rows]
    labels = [f"layer {row['layer']}, head {row['head']}" for row in rows]
    sentence = " ".join(tokens)
    return Figure(
        id=id_,
        title=f"Attention over “{visible(sentence)}”",
        caption="Each row is a query, each column a key; a row sums to one, or to less where a "
        "model has sinks. A vertical line is a token that every query looks at."
        + (f" Beside it the same with {about}." if len(sides) > 1 else ""),
        alt=f"Heat map of the attention of {labels[0]} over {len(tokens)} tokens"
        + (", full and ablated." if len(sides) > 1 else "."),
        table=_table(rows, maps, sides),
        plot=lambda: _interactive(tokens, maps, sides),
        draw=lambda: _draw(tokens, maps[0], labels[0]),
        choices=(Choice("head", "head", {str(i): label for i, label in enumerate(labels)}),),
    )


def _square(values: Sequence[float], size: int) -> NDArray[np.float32]:
    return np.asarray(values, np.float32).reshape(size, size)


def _table(
    rows: Sequence[dict[str, Any]], maps: Sequence[dict[str, Any]], sides: Sequence[str]
) -> pa.Table:
    """A row a head, query and key."""
    tokens = np.asarray(rows[0]["tokens"], object)
    size = len(tokens)
    columns: dict[str, Any] = {
        name: np.repeat([row[name] for row in rows], size * size) for name in ("layer", "head")
    }
    query, key = (index.ravel() for index in np.indices((size, size)))
    for name, index in (("query", query), ("key", key)):
        columns[name] = np.tile(index, len(rows))
        columns[f"{name}_token"] = np.tile(tokens[index], len(rows))
    columns |= {side: np.concatenate([one[side].ravel() for one in maps]) for side in sides}
    return pa.table(columns)


def _interactive(
    tokens: Sequence[str], maps: Sequence[dict[str, Any]], sides: Sequence[str]
) -> go.Figure:
    places = list(range(len(tokens)))
    texts = [plot_text(token) for token in tokens]
    figure = make_subplots(
        rows=1, cols=len(sides), subplot_titles=[_SIDES[side] for side in sides],
        shared_yaxes=True, horizontal_spacing=0.03,
    )  # fmt: skip
    for number, head in enumerate(maps):
        for column, side in enumerate(sides):
            figure.add_heatmap(
                x=places, y=places, z=head[side], coloraxis="coloraxis",
                meta={"head": str(number)}, visible=number == 0,
                customdata=[[[texts[i], texts[j]] for j in places] for i in places],
                hovertemplate="query %{customdata[0]}<br>key %{customdata[1]}<br>%{z:.3f}"
                "<extra></extra>",
                row=1, col=column + 1,
            )  # fmt: skip
    axis = {"tickvals": places, "ticktext": texts, "showgrid": False, "zeroline": False}
    figure.update_layout(
        layout(
            height=160 + 18 * len(tokens),
            margin={"l": 90, "r": 12, "t": 40, "b": 90},
            coloraxis={
                "colorscale": scale(_ORANGE), "cmin": 0, "cmax": 1,
                "colorbar": {"thickness": 10, "xpad": 6, "outlinewidth": 0},
            },
        )
    )  # fmt: skip
    figure.update_xaxes(**axis, tickangle=-60)
    figure.update_yaxes(**axis, autorange="reversed")
    return figure


def _draw(tokens: Sequence[str], head: dict[str, Any], label: str) -> Canvas:
    size = 1.6 + 0.16 * len(tokens)
    figure, axes = canvas(size * len(head) + 1, size + 0.6, ncols=len(head), squeeze=False)
    colours = LinearSegmentedColormap.from_list("outdim", _ORANGE)
    texts, places = [visible(token) for token in tokens], range(len(tokens))
    for column, (side, weights) in enumerate(head.items()):
        at = axes[0][column]
        image = at.imshow(weights, cmap=colours, vmin=0, vmax=1)
        at.grid(False)
        at.set_title(f"{label}, {_SIDES[side]}", parse_math=False)
        at.set_xticks(places, texts, rotation=60, ha="right", parse_math=False)
        at.set_yticks(places, texts if column == 0 else [""] * len(texts), parse_math=False)
    figure.colorbar(image, ax=list(axes[0]), shrink=0.8, pad=0.01)
    return figure
