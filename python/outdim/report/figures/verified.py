"""Scores of a screening against damages that were measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas

from outdim.report.colours import INK, MUTED
from outdim.report.figures.base import Figure, canvas, layout
from outdim.report.text import plot_text
from outdim.text import visible

_NAMED = 8


@dataclass(frozen=True)
class Measured:
    """One candidate.

    Attributes:
        label: What it is.
        score: Of the screening.
        damage: As measured.
        first: Whether it came first in the screening, or is one of the random others.
    """

    label: str
    score: float
    damage: float
    first: bool


def verified(
    id_: str, title: str, caption: str, across: str, upwards: str, dots: Sequence[Measured]
) -> Figure:
    """Draw damage over score, both axes linear in the damage and logarithmic in the score."""
    names = ", ".join(dot.label for dot in _worst(dots))
    return Figure(
        id=id_,
        title=title,
        caption=caption,
        alt=f"Scatter plot of {upwards} over {across}, {len(dots)} candidates; the worst: {names}.",
        table=pa.table(
            {
                name: [getattr(dot, name) for dot in dots]
                for name in ("label", "score", "damage", "first")
            }
        ),
        plot=lambda: _interactive(across, upwards, dots),
        draw=lambda: _draw(across, upwards, dots),
    )


def _worst(dots: Sequence[Measured]) -> list[Measured]:
    return sorted(dots, key=lambda dot: -dot.damage)[:_NAMED]


def _kinds(dots: Sequence[Measured]) -> list[tuple[str, str, list[Measured]]]:
    """Name, colour and dots of those that came first, and of the random others."""
    return [
        ("random others", MUTED, [dot for dot in dots if not dot.first]),
        ("first by score", INK, [dot for dot in dots if dot.first]),
    ]


def _interactive(across: str, upwards: str, dots: Sequence[Measured]) -> go.Figure:
    figure, worst = go.Figure(), {dot.label for dot in _worst(dots)}
    for name, colour, some in _kinds(dots):
        figure.add_scatter(
            x=[dot.score for dot in some],
            y=[dot.damage for dot in some],
            text=[plot_text(dot.label) if dot.label in worst else "" for dot in some],
            customdata=[plot_text(dot.label) for dot in some],
            mode="markers+text",
            textposition="middle left",
            name=name,
            marker={"color": colour, "size": 7},
            hovertemplate="%{customdata}: score %{x:.3~g}, %{y:.3~f}<extra></extra>",
        )
    figure.update_layout(
        layout(
            height=420,
            xaxis={"title": plot_text(across), "type": "log", "zeroline": False},
            yaxis={"title": plot_text(upwards), "zeroline": True, "zerolinecolor": MUTED},
        )
    )
    return figure


def _draw(across: str, upwards: str, dots: Sequence[Measured]) -> Canvas:
    figure, axes = canvas(7, 4)
    for name, colour, some in _kinds(dots):
        x, y = [dot.score for dot in some], [dot.damage for dot in some]
        axes.plot(x, y, "o", color=colour, markersize=4, label=name)
    for dot in _worst(dots):
        axes.annotate(
            visible(dot.label),
            (dot.score, dot.damage),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
            parse_math=False,
        )
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel(visible(across), parse_math=False)
    axes.set_ylabel(visible(upwards), parse_math=False)
    axes.legend()
    return figure
