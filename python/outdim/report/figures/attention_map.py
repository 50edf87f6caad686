"""Attention of some heads over a sentence, full beside ablated."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from numpy.typing import NDArray

from outdim.report.figures.base import Choice, Figure
from outdim.report.figures.squares import draw_squares, squares
from outdim.report.text import plot_text
from outdim.text import visible

_SIDES = ("full", "ablated")


def attention_map(id_: str, rows: Sequence[dict[str, Any]], about: str) -> Figure:
    """Draw the heads of ``rows``, all over one sentence; the reader chooses between them.

    rows: of ``attention_maps.parquet``, the head that is shown first first; about: what was
    ablated.
    """
    tokens = rows[0]["tokens"]
    sides = [side for side in _SIDES if rows[0][side] is not None]
    maps = [{side: _square(row[side], len(tokens)) for side in sides} for row in rows]
    labels = [f"layer {row['layer']}, head {row['head']}" for row in rows]
    titles = dict(zip(_SIDES, ("intact", about), strict=True))
    drawn = {f"{labels[0]}, {titles[side]}": maps[0][side] for side in sides}
    sentence = " ".join(tokens)
    return Figure(
        id=id_,
        title=f"Attention over “{visible(sentence)}”",
        caption="Each row is a query, each column a key, the colour the share of the query's "
        "attention that the key receives; a row sums to one, or to less where a model has sinks. "
        "A vertical line is a token that every query looks at."
        + (f" Right: the same with {about}." if len(sides) > 1 else "")
        + f" The heads to choose from are the {len(rows)} that are most vertical over the text.",
        alt=f"Heat map of the attention of {labels[0]} over {len(tokens)} tokens"
        + (", full and ablated." if len(sides) > 1 else "."),
        table=_table(rows, maps, sides),
        plot=lambda: _interactive(tokens, maps, {side: titles[side] for side in sides}),
        draw=lambda: draw_squares(tokens, drawn, 0.16),
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
    tokens: Sequence[str], maps: Sequence[dict[str, Any]], titles: Mapping[str, str]
) -> go.Figure:
    places = list(range(len(tokens)))
    texts = [plot_text(token) for token in tokens]
    figure = squares(tokens, list(titles.values()))
    figure.update_xaxes(title={"text": "key", "standoff": 10})
    figure.update_yaxes(title={"text": "query", "standoff": 10}, col=1)
    for number, head in enumerate(maps):
        for column, side in enumerate(titles):
            figure.add_heatmap(
                x=places, y=places, z=head[side], coloraxis="coloraxis",
                meta={"head": str(number)}, visible=number == 0,
                customdata=[[[texts[i], texts[j]] for j in places] for i in places],
                hovertemplate="query %{customdata[0]}<br>key %{customdata[1]}<br>%{z:.3f}"
                "<extra></extra>",
                row=1, col=column + 1,
            )  # fmt: skip
    return figure
