"""Square maps of shares side by side, whose rows and columns have the same names."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from matplotlib.figure import Figure as Canvas
from plotly.subplots import make_subplots

from outdim.report.colours import ORANGE, scale
from outdim.report.figures.base import COLOUR_BAR, canvas, colour_map, layout
from outdim.report.text import plot_text
from outdim.text import visible


def squares(names: Sequence[str], titles: Sequence[str], **bar: Any) -> go.Figure:
    """Maps that are still empty; their heat maps have ``coloraxis="coloraxis"``.

    names: of rows and columns; titles: of the maps; bar: changes of the colour bar.
    """
    figure = make_subplots(
        rows=1, cols=len(titles), subplot_titles=[plot_text(title) for title in titles],
        shared_yaxes=True, horizontal_spacing=0.03,
    )  # fmt: skip
    bar = {**COLOUR_BAR, **bar}
    figure.update_layout(
        layout(
            height=160 + 20 * len(names),
            margin={"l": 90, "r": 12, "t": 40, "b": 90},
            coloraxis={"colorscale": scale(ORANGE), "cmin": 0, "cmax": 1, "colorbar": bar},
        )
    )
    axis = {
        "tickvals": list(range(len(names))),
        "ticktext": [plot_text(name) for name in names],
        "showgrid": False,
        "zeroline": False,
    }
    figure.update_xaxes(**axis, tickangle=-60)
    figure.update_yaxes(**axis, autorange="reversed")
    return figure


def draw_squares(names: Sequence[str], maps: Mapping[str, Any], cell: float) -> Canvas:
    """Draw maps by their titles, each cell so many inches wide."""
    size = 1.6 + cell * len(names)
    figure, axes = canvas(size * len(maps) + 1, size + 0.5, ncols=len(maps), squeeze=False)
    texts, places = [visible(name) for name in names], range(len(names))
    for column, (title, values) in enumerate(maps.items()):
        at = axes[0][column]
        image = at.imshow(values, cmap=colour_map(ORANGE), vmin=0, vmax=1)
        at.grid(False)
        at.set_title(visible(title), parse_math=False)
        at.set_xticks(places, texts, rotation=60, ha="right", parse_math=False)
        at.set_yticks(places, texts if column == 0 else [""] * len(texts), parse_math=False)
    figure.colorbar(image, ax=list(axes[0]), shrink=0.8, pad=0.01)
    return figure
