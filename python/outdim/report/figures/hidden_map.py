"""Hidden states of a sentence: tokens by dimensions (Kovaleva et al. 2021, figure 1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from outdim.report.colours import DIVERGING, INK, scale
from outdim.report.figures.base import COLOUR_BAR, Choice, Figure, canvas, colour_map, layout
from outdim.report.text import plot_text
from outdim.report.views import labels
from outdim.text import listing, visible

Floats = NDArray[np.float32]


def hidden_map(id_: str, rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw the rows of ``hidden_maps.parquet`` of one sentence, a point each; the reader chooses.

    The point where the chosen dimensions stand out most from the random ones is shown first.
    """
    tokens, dims, chosen = rows[0]["tokens"], rows[0]["dims"], rows[0]["chosen"]
    values = [_matrix(row) for row in rows]
    first = int(np.argmax([_standing_out(value, chosen) for value in values]))
    order = [first, *(i for i in range(len(rows)) if i != first)]
    names = labels([row["point"] for row in rows], [row["layer"] for row in rows])
    options = {rows[i]["point"]: f"layer {names[i]}" for i in order}
    return Figure(
        id=id_,
        title=f"Hidden states over “{visible(' '.join(tokens))}”",
        caption="Each row is a token, each column a dimension: left of the line "
        f"{listing(dims[:chosen])}, which were followed, right of it {len(dims) - chosen} random "
        "ones. Colours are relative to the largest |h| in the map of a layer.",
        alt=f"Heat map of hidden states at {rows[first]['point']}: {len(tokens)} tokens by "
        f"{len(dims)} dimensions.",
        table=_table(rows, values),
        plot=lambda: _interactive(rows, values, order),
        draw=lambda: _draw(rows[first], values[first], options[rows[first]["point"]]),
        choices=(Choice("point", "layer", options),),
    )


def _matrix(row: dict[str, Any]) -> Floats:
    return np.asarray(row["values"], np.float32).reshape(len(row["tokens"]), -1)


def _standing_out(value: Floats, chosen: int) -> float:
    """Largest |h| of the chosen dimensions over the mean of the others."""
    others = np.abs(value[:, chosen:])
    usual = float(others.mean()) if others.size else 1.0
    return float(np.nan_to_num(np.abs(value[:, :chosen]).max(initial=0) / (usual or 1.0)))


def _relative(value: Floats) -> Floats:
    largest = np.nanmax(np.abs(value), initial=0)
    return np.asarray(value / (largest or 1.0), np.float32)


def _table(rows: Sequence[dict[str, Any]], values: Sequence[Floats]) -> pa.Table:
    """A row a point, token and dimension."""
    tokens, dims = np.asarray(rows[0]["tokens"], object), np.asarray(rows[0]["dims"])
    token, column = (index.ravel() for index in np.indices((len(tokens), len(dims))))
    return pa.table(
        {
            "point": np.repeat([row["point"] for row in rows], len(token)),
            "layer": np.repeat([row["layer"] for row in rows], len(token)),
            "position": np.tile(token, len(rows)),
            "token": np.tile(tokens[token], len(rows)),
            "dim": np.tile(dims[column], len(rows)),
            "value": np.concatenate([value.ravel() for value in values]),
        }
    )


def _interactive(
    rows: Sequence[dict[str, Any]], values: Sequence[Floats], order: Sequence[int]
) -> go.Figure:
    tokens, dims, chosen = (rows[0][name] for name in ("tokens", "dims", "chosen"))
    texts = [plot_text(token) for token in tokens]
    figure = go.Figure()
    for place, i in enumerate(order):
        figure.add_heatmap(
            x=list(range(len(dims))),
            y=list(range(len(tokens))),
            z=_relative(values[i]),
            customdata=[
                [[texts[t], dims[d], float(values[i][t, d])] for d in range(len(dims))]
                for t in range(len(tokens))
            ],
            coloraxis="coloraxis",
            meta={"point": rows[i]["point"]},
            visible=place == 0,
            hoverongaps=False,
            hovertemplate="%{customdata[0]}<br>dimension %{customdata[1]}<br>"
            "h: %{customdata[2]:.4~g}<extra></extra>",
        )
    axis = {"showgrid": False, "zeroline": False}
    line = {"type": "line", "yref": "paper", "x0": chosen - 0.5, "x1": chosen - 0.5, "y0": 0,
            "y1": 1, "line": {"color": INK, "width": 1.5}}  # fmt: skip
    figure.update_layout(
        layout(
            height=150 + 18 * len(tokens),
            margin={"l": 90, "r": 12, "t": 12, "b": 60},
            shapes=[line] if chosen < len(dims) else [],
            xaxis={
                "title": "dimension", "tickvals": list(range(len(dims))),
                "ticktext": [str(dim) for dim in dims], "tickangle": -60, **axis,
            },
            yaxis={
                "tickvals": list(range(len(tokens))), "ticktext": texts, "autorange": "reversed",
                **axis,
            },
            coloraxis={
                "colorscale": scale(DIVERGING), "cmin": -1, "cmax": 1,
                "colorbar": COLOUR_BAR,
            },
        )
    )  # fmt: skip
    return figure


def _draw(row: dict[str, Any], value: Floats, label: str) -> Canvas:
    tokens, dims, chosen = row["tokens"], row["dims"], row["chosen"]
    figure, axes = canvas(2.2 + 0.3 * len(dims), 1.2 + 0.18 * len(tokens))
    colours = colour_map(DIVERGING)
    image = axes.imshow(_relative(value), aspect="auto", cmap=colours, vmin=-1, vmax=1)
    axes.grid(False)
    axes.set_title(f"{label}, over the largest |h| there", parse_math=False)
    axes.set_xlabel("dimension")
    axes.set_xticks(range(len(dims)), [str(dim) for dim in dims], rotation=60)
    axes.set_yticks(range(len(tokens)), [visible(token) for token in tokens], parse_math=False)
    if chosen < len(dims):
        axes.axvline(chosen - 0.5, color=INK, linewidth=1)
    figure.colorbar(image, ax=axes, shrink=0.9, pad=0.01)
    return figure
