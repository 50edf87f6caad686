"""How the weights of single columns lie among those of all (Kovaleva et al. 2021)."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from outdim.report.colours import FAINT, Palette
from outdim.report.figures.base import Choice, Figure, canvas, layout, legend_beside
from outdim.text import listing

Floats = NDArray[np.float64]


def histograms(
    id_: str,
    title: str,
    counts: Mapping[str, NDArray[np.int64]],
    edges: Sequence[float],
    dims: Sequence[int],
    names: Mapping[str, str],
    palette: Palette,
) -> Figure:
    """Draw, for each part, the share of all weights and of those of some columns by size.

    Args:
        id_: Of the figure.
        title: Of the figure.
        counts: By part, [D, bins].
        edges: Of the bins, in standard deviations of all weights of the part.
        dims: The columns.
        names: Of the parts, for people.
        palette: How columns are drawn.
    """
    colours = [FAINT, *(palette.of(dim).colour for dim in dims)]
    shares = {part: _shares(found, dims) for part, found in counts.items()}
    first = next(iter(shares))
    return Figure(
        id=id_,
        title=title,
        caption="Share of the weights by their distance from the mean of all, in standard "
        "deviations; the first and the last bin hold all beyond. Grey: all weights. A norm has one "
        "weight a dimension: its column is a single bar.",
        alt=f"Histograms of the weights of {listing(list(names.values()))}: all, and those of "
        f"dimensions {listing(list(dims))}.",
        table=_table(shares, edges),
        plot=lambda: _interactive(shares, edges, colours),
        draw=lambda: _draw(shares[first], edges, names[first], colours),
        choices=(Choice("part", "part", {part: names[part] for part in shares}),),
    )


def _shares(counts: NDArray[np.int64], dims: Sequence[int]) -> dict[str, Floats]:
    found = {"all": counts.sum(0), **{f"dimension {dim}": counts[dim] for dim in dims}}
    return {name: one / max(int(one.sum()), 1) for name, one in found.items()}


def _middles(edges: Sequence[float]) -> Floats:
    found: Floats = (np.asarray(edges[1:]) + np.asarray(edges[:-1])) / 2
    return found


def _table(shares: Mapping[str, Mapping[str, Floats]], edges: Sequence[float]) -> pa.Table:
    """A row a part, column and bin."""
    size = len(edges) - 1
    blocks = [(part, name, one) for part, found in shares.items() for name, one in found.items()]
    return pa.table(
        {
            "part": np.repeat([part for part, _, _ in blocks], size),
            "series": np.repeat([name for _, name, _ in blocks], size),
            "from": np.tile(edges[:-1], len(blocks)),
            "to": np.tile(edges[1:], len(blocks)),
            "share": np.concatenate([one for _, _, one in blocks]),
        }
    )


def _interactive(
    shares: Mapping[str, Mapping[str, Floats]], edges: Sequence[float], colours: Sequence[str]
) -> go.Figure:
    figure = go.Figure()
    for place, (part, found) in enumerate(shares.items()):
        for turn, (name, share) in enumerate(found.items()):
            figure.add_bar(
                x=_middles(edges), y=share, name=name, meta={"part": part}, visible=place == 0,
                marker={"color": colours[turn],
                        "opacity": 1 if turn == 0 else 0.65},
                hovertemplate=f"{name}<br>%{{x}} σ: %{{y:.3~g}}<extra></extra>",
            )  # fmt: skip
    figure.update_layout(
        layout(
            height=400,
            barmode="overlay",
            bargap=0,
            xaxis={"title": "weight, in σ from the mean of all"},
            yaxis={"title": "share of the weights", "type": "log", "exponentformat": "power"},
        )
    )
    return figure


def _draw(
    found: Mapping[str, Floats], edges: Sequence[float], label: str, colours: Sequence[str]
) -> Canvas:
    figure, axes = canvas(8, 3.6)
    for turn, (name, share) in enumerate(found.items()):
        axes.stairs(
            share, edges, fill=turn == 0, color=colours[turn],
            alpha=0.35 if turn == 0 else 1.0, label=name,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("weight, in σ from the mean of all")
    axes.set_ylabel("share of the weights")
    axes.set_title(label, parse_math=False)
    legend_beside(axes)
    return figure
