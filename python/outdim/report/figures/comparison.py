"""Two token counts of one vocabulary, against each other and each by rank."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas

from outdim.report.colours import MUTED, series
from outdim.report.figures.base import LOG_AXIS, Figure, canvas, layout
from outdim.report.figures.rank_curve import thinned
from outdim.report.statistics import Array
from outdim.report.text import plot_text, token_text
from outdim.text import number, visible

if TYPE_CHECKING:
    from outdim.tokens import Comparison

MAX_TOKENS = 4_000
_DIFFERING = 200


def comparison_figures(comparison: "Comparison", names: tuple[str, str]) -> list[Figure]:
    """Draw the counts of each token in the one against the other, and both rank curves."""
    return [_scatter(comparison, names), _rank_curves(comparison, names)]


def _scatter(comparison: "Comparison", names: tuple[str, str]) -> Figure:
    chosen = _chosen(comparison)
    counts = [part.counts[chosen] for part in (comparison.first, comparison.second)]
    occurring = int(_occurring(comparison).sum())
    thin = (
        f"All {occurring:,} tokens that occur in either are drawn."
        if len(chosen) == occurring
        else f"Of {occurring:,} tokens that occur in either {len(chosen):,} are drawn: the "
        f"{_DIFFERING} whose share differs most, weighted by that share, and the rest evenly "
        "thinned out by frequency."
    )
    return Figure(
        id="counts_compared",
        title="Share of each token in both",
        caption="Each dot is a token: how many of a million tokens it makes up in the first to the "
        "right, in the second upwards, with one occurrence in the smaller text added to both so "
        "that tokens absent from one still show; both axes are logarithmic. On the line a token "
        "has the same share of the text in both; far from it, it belongs to one of them. r of "
        f"log(1 + count) over all token ids of text: {number(comparison.correlation)}. "
        f"{thin}",
        alt=f"Log-log scatter plot of the shares of {len(chosen):,} tokens in both texts.",
        table=pa.table(
            {
                "id": chosen,
                "token": [comparison.first.tokens[i] for i in chosen],
                "first_count": counts[0],
                "second_count": counts[1],
                "log2_ratio": comparison.log_ratio[chosen],
            }
        ),
        plot=lambda: _interactive_scatter(comparison, chosen, names),
        draw=lambda: _draw_scatter(comparison, chosen, names),
    )


def _rank_curves(comparison: "Comparison", names: tuple[str, str]) -> Figure:
    curves = [_curve(comparison.ranks()[:, side]) for side in (0, 1)]
    return Figure(
        id="ranks_compared",
        title="How often the token of each rank occurs",
        caption="The tokens of each text sorted by their own frequency, in tokens per million, so "
        "that texts of different size can be compared; both axes are logarithmic, ranks beyond the "
        "first few hundred are thinned out evenly on the axis. Where a curve is steeper, fewer "
        "tokens make up more of the text.",
        alt="Log-log plot of tokens per million by rank, one curve for each of the two counts.",
        table=pa.table(
            {
                "counts": np.repeat(["first", "second"], [len(rank) for rank, _ in curves]),
                "rank": np.concatenate([rank for rank, _ in curves]),
                "per_million": np.concatenate([share for _, share in curves]),
            }
        ),
        plot=lambda: _interactive_ranks(curves, names),
        draw=lambda: _draw_ranks(curves, names),
    )


def _occurring(comparison: "Comparison") -> Array:
    either = (comparison.first.counts > 0) | (comparison.second.counts > 0)
    return comparison.text & either


def _chosen(comparison: "Comparison") -> Array:
    """Ids to draw: all, or those that differ most and an even choice of the rest."""
    ids = np.flatnonzero(_occurring(comparison))
    if len(ids) <= MAX_TOKENS:
        return ids
    far = np.array([row[0] for row in comparison.largest(_DIFFERING)], dtype=int)
    rest = np.setdiff1d(ids, far)
    rest = rest[np.argsort(-comparison.first.counts[rest], kind="stable")]
    return np.union1d(far, rest[:: -(-len(rest) // (MAX_TOKENS - len(far)))])


def _curve(falling: Array) -> tuple[Array, Array]:
    """Ranks from 1 and tokens per million at them, of counts that fall."""
    falling = falling[falling > 0]
    ranks = thinned(len(falling))
    return ranks + 1, 1e6 * falling[ranks] / max(int(falling.sum()), 1)


def _per_million(comparison: "Comparison", chosen: Array) -> Array:
    """Places of the dots [2, N]: shares as the ratio takes them, one occurrence added."""
    return 1e6 * (comparison.shares[:, chosen] + comparison.one_occurrence)


def _equal_shares(places: Array) -> list[float]:
    """Give the ends, right and up alike, of the line on which a token has the same share."""
    return [float(places.min()), float(places.max())] if places.size else [1.0, 1.0]


def _interactive_scatter(
    comparison: "Comparison", chosen: Array, names: tuple[str, str]
) -> go.Figure:
    figure = go.Figure()
    places = _per_million(comparison, chosen)
    figure.add_scatter(
        x=_equal_shares(places),
        y=_equal_shares(places),
        mode="lines",
        name="same share of the text",
        line={"color": MUTED, "width": 1},
        hoverinfo="skip",
    )
    first, second = (part.counts[chosen] for part in (comparison.first, comparison.second))
    figure.add_scatter(
        x=places[0],
        y=places[1],
        text=[plot_text(token_text(comparison.first.tokens[i])) for i in chosen],
        customdata=np.stack([chosen, first, second], axis=1),
        mode="markers",
        name="tokens",
        marker={"size": 5, "color": series(0), "opacity": 0.5},
        hovertemplate="“%{text}” (id %{customdata[0]})<br>first: %{customdata[1]:,} times<br>"
        "second: %{customdata[2]:,} times<extra></extra>",
    )
    figure.update_layout(
        layout(
            height=520,
            xaxis={"title": f"per million in {plot_text(names[0])}", **LOG_AXIS},
            yaxis={"title": f"per million in {plot_text(names[1])}", **LOG_AXIS},
        )
    )
    return figure


def _draw_scatter(comparison: "Comparison", chosen: Array, names: tuple[str, str]) -> Canvas:
    figure, axes = canvas(5.5, 5)
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel(f"per million in {visible(names[0])}", parse_math=False)
    axes.set_ylabel(f"per million in {visible(names[1])}", parse_math=False)
    places = _per_million(comparison, chosen)
    ends = _equal_shares(places)
    axes.plot(ends, ends, color=MUTED, linewidth=0.8, label="same share of the text")
    axes.scatter(*places, s=5, color=series(0), alpha=0.5, linewidths=0, rasterized=True)
    axes.legend()
    return figure


def _interactive_ranks(curves: list[tuple[Array, Array]], names: tuple[str, str]) -> go.Figure:
    figure = go.Figure()
    for place, ((rank, share), name) in enumerate(zip(curves, names, strict=True)):
        figure.add_scatter(
            x=rank,
            y=share,
            mode="lines",
            name=plot_text(name),
            line={"color": series(place), "width": 2},
            hovertemplate="rank %{x:,}: %{y:,.2f} per million",
        )
    figure.update_layout(
        layout(
            height=420,
            xaxis={"title": "rank of the token", **LOG_AXIS},
            yaxis={"title": "tokens per million", **LOG_AXIS},
        )
    )
    return figure


def _draw_ranks(curves: list[tuple[Array, Array]], names: tuple[str, str]) -> Canvas:
    figure, axes = canvas(7, 4)
    axes.set(xscale="log", yscale="log", xlabel="rank of the token", ylabel="tokens per million")
    for place, ((rank, share), name) in enumerate(zip(curves, names, strict=True)):
        axes.plot(rank, share, color=series(place), label=visible(name))
    for text in axes.legend().get_texts():
        text.set_parse_math(False)
    return figure
