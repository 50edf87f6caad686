"""One value a dimension, in the order of dimensions: what stands out is a spike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas

from outdim.report.colours import FAINT, MUTED, Palette
from outdim.report.figures.base import Choice, Figure, canvas, error_bars, layout
from outdim.report.statistics import Array, Floats
from outdim.report.text import plot_text
from outdim.text import visible

_NAMED = 8


@dataclass(frozen=True)
class Spikes:
    """Values of dimensions.

    Attributes:
        label: What they have in common, such as the layers that were edited.
        dims: The dimensions, in order [S].
        value, low, high: Of each [S]; NaN where there is no interval.
        usual: A line that says what is usual; NaN for none.
    """

    label: str
    dims: Array
    value: Floats
    low: Floats
    high: Floats
    usual: float

    @property
    def mode(self) -> str:
        """A line where neighbours were measured; marks alone where some between were not."""
        return "lines" if len(self.dims) > 1 and (np.diff(self.dims) == 1).all() else "markers"

    @property
    def named(self) -> list[int]:
        """Places of those that are labelled: the largest."""
        largest = np.argsort(-np.abs(np.nan_to_num(self.value)), kind="stable")[:_NAMED]
        return sorted(int(place) for place in largest)


def spikes(
    id_: str, title: str, caption: str, upwards: str, shown: Sequence[Spikes], palette: Palette
) -> Figure:
    """Draw the values, one choice of the reader at a time (interactive), or the first (static)."""
    options = {str(number): one.label for number, one in enumerate(shown)}
    return Figure(
        id=id_,
        title=title,
        caption=caption,
        alt=f"{shown[0].mode.capitalize()} of {upwards} over {len(shown[0].dims):,} dimensions; "
        "the largest are "
        f"{', '.join(str(shown[0].dims[place]) for place in shown[0].named)}.",
        table=_table(shown),
        plot=lambda: _interactive(upwards, shown, palette),
        draw=lambda: _draw(upwards, shown[0], palette),
        choices=(Choice("place", "Show", options),) if len(shown) > 1 else (),
    )


def _table(shown: Sequence[Spikes]) -> pa.Table:
    sizes = [len(one.dims) for one in shown]
    columns = {
        name: np.concatenate([getattr(one, name) for one in shown])
        for name in ("dims", "value", "low", "high")
    }
    return pa.table({"series": np.repeat([one.label for one in shown], sizes), **columns})


def _interactive(upwards: str, shown: Sequence[Spikes], palette: Palette) -> go.Figure:
    figure = go.Figure()
    for number, one in enumerate(shown):
        looks = [palette.of(one.dims[place]) for place in one.named]
        own = {"meta": {"place": str(number)}, "visible": number == 0, "showlegend": False}
        figure.add_scatter(
            x=one.dims,
            y=one.value,
            mode=one.mode,
            line={"color": FAINT, "width": 1},
            marker={"color": FAINT, "size": 5},
            hovertemplate="dimension %{x}: %{y:.3~f}<extra></extra>",
            **own,
        )
        figure.add_scatter(
            x=one.dims[one.named],
            y=one.value[one.named],
            text=[str(one.dims[place]) for place in one.named],
            mode="markers+text",
            textposition="top center",
            marker={
                "color": [drawn.colour for drawn in looks],
                "symbol": [drawn.symbol for drawn in looks],
                "size": 7,
            },
            error_y=error_bars(*(part[one.named] for part in (one.value, one.low, one.high))),
            hovertemplate="dimension %{x}: %{y:.3~f}<extra></extra>",
            **own,
        )
        if np.isfinite(one.usual) and len(one.dims):
            figure.add_scatter(
                x=[one.dims[0], one.dims[-1]],
                y=[one.usual, one.usual],
                mode="lines",
                line={"color": MUTED, "width": 1, "dash": "dot"},
                hovertemplate="random dimensions: %{y:.3~f}<extra></extra>",
                **own,
            )
    figure.update_layout(
        layout(
            height=400,
            xaxis={"title": "dimension", "zeroline": False},
            yaxis={"title": plot_text(upwards), "zeroline": True, "zerolinecolor": MUTED},
        )
    )
    return figure


def _draw(upwards: str, one: Spikes, palette: Palette) -> Canvas:
    figure, axes = canvas(9, 3.6)
    drawn = "-" if one.mode == "lines" else "o"
    axes.plot(one.dims, one.value, drawn, color=FAINT, linewidth=0.8, markersize=3)
    for place in one.named:
        mark = palette.of(one.dims[place])
        axes.plot(one.dims[place], one.value[place], mark.marker, color=mark.colour, markersize=3.5)
        axes.annotate(
            str(one.dims[place]),
            (one.dims[place], one.value[place]),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    if np.isfinite(one.usual):
        axes.axhline(one.usual, color=MUTED, linewidth=0.8, linestyle=":")
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel("dimension")
    axes.set_ylabel(visible(upwards), parse_math=False)
    axes.set_title(visible(one.label), parse_math=False)
    return figure
