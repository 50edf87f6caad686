"""Token frequency by rank, both axes logarithmic (Zipf's plot)."""

import math

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas

from outdim.report.colours import INK, MUTED, series
from outdim.report.figures.base import LOG_AXIS, Figure, canvas, layout
from outdim.report.statistics import Array
from outdim.report.text import plot_text, token_of
from outdim.tokens import TokenFrequencies

_ALL_UP_TO = 300
_POINTS = 1_200
_NAMED_RANKS = (1, 3, 10, 30, 100)  # evenly spaced on the axis, so that the names have room
_NAME_CHARACTERS = 14


def rank_curve(counts: TokenFrequencies) -> Figure:
    """Draw the counts of the tokens that occur, ordinary ones as a curve, special ones as marks."""
    occurring = np.flatnonzero(counts.counts > 0)
    ordinary = occurring[~counts.special[occurring]]
    ordinary = ordinary[np.argsort(-counts.counts[ordinary], kind="stable")]
    special = occurring[counts.special[occurring]]
    ranks = thinned(len(ordinary))
    of_text = int((~counts.special).sum())
    thin = (
        ""
        if len(ranks) == len(ordinary)
        else f" Beyond rank {_ALL_UP_TO} the figure and its CSV show {len(ranks):,} of "
        f"{len(ordinary):,} ranks, evenly spaced on the axis."
    )
    return Figure(
        id="token_frequency",
        title="How often each token occurs",
        caption="Each dot is a token of the vocabulary, the most frequent on the left, a few "
        "named; both axes are logarithmic. Natural text falls roughly along Zipf's law, the thin "
        "line (count proportional to 1/rank): a few tokens make up most of the text, which is why "
        "r with the raw count and with its logarithm can differ. Diamonds: special tokens, at the "
        f"place their count would have. {of_text - len(ordinary):,} of {of_text:,} token ids of "
        f"text never occur.{thin}",
        alt=f"Log-log plot of token count by rank for {len(ordinary):,} tokens that occur.",
        table=_table(counts, ordinary, ranks, special),
        plot=lambda: _interactive(counts, ordinary, ranks, special),
        draw=lambda: _draw(counts, ordinary, ranks, special),
    )


def _named(counts: TokenFrequencies, ordinary: Array) -> list[tuple[int, int, str]]:
    """(rank, count, token) of the tokens whose names stand in the figure."""
    named = []
    for rank in _NAMED_RANKS:
        if rank <= len(ordinary):
            i = ordinary[rank - 1]
            name = token_of(counts, int(i), counts.tokens[i])
            if len(name) > _NAME_CHARACTERS:
                name = name[: _NAME_CHARACTERS - 1] + "…"
            named.append((rank, int(counts.counts[i]), f"“{name}”"))
    return named


def thinned(count: int) -> Array:
    """Give the 0-based ranks to draw: all up to _ALL_UP_TO, then evenly spaced in the logarithm."""
    if count <= _POINTS:
        return np.arange(count)
    spaced = np.geomspace(_ALL_UP_TO, count - 1, _POINTS - _ALL_UP_TO).round().astype(int)
    return np.union1d(np.arange(_ALL_UP_TO), spaced)


def _special_ranks(counts: TokenFrequencies, ordinary: Array, special: Array) -> Array:
    """Give the 1-based rank that each special token's count would have among the ordinary ones."""
    falling = -counts.counts[ordinary]
    return np.searchsorted(falling, -counts.counts[special], side="left") + 1


def _table(counts: TokenFrequencies, ordinary: Array, ranks: Array, special: Array) -> pa.Table:
    chosen = np.concatenate([ordinary[ranks], special])
    return pa.table(
        {
            "rank": np.concatenate([ranks + 1, _special_ranks(counts, ordinary, special)]),
            "id": chosen,
            "token": [counts.tokens[i] for i in chosen],
            "special": counts.special[chosen],
            "count": counts.counts[chosen],
        }
    )


def _interactive(
    counts: TokenFrequencies, ordinary: Array, ranks: Array, special: Array
) -> go.Figure:
    hover = "“%{text}” (id %{customdata})<br>rank %{x:,}: %{y:,} times<extra></extra>"

    def labels(chosen: Array) -> list[str]:
        return [plot_text(token_of(counts, int(i), counts.tokens[i])) for i in chosen]

    figure = go.Figure()
    if len(ordinary):
        figure.add_scatter(**_zipf(counts, ordinary))
    figure.add_scatter(
        x=ranks + 1,
        y=counts.counts[ordinary[ranks]],
        text=labels(ordinary[ranks]),
        customdata=ordinary[ranks],
        mode="markers",
        name="tokens",
        marker={"size": 4, "color": series(0)},
        hovertemplate=hover,
    )
    if len(special):
        figure.add_scatter(
            x=_special_ranks(counts, ordinary, special),
            y=counts.counts[special],
            text=labels(special),
            customdata=special,
            mode="markers",
            name="special tokens",
            marker={"size": 10, "color": series(1), "symbol": "diamond-open"},
            hovertemplate=hover,
        )
    for rank, count, name in _named(counts, ordinary):
        figure.add_annotation(
            x=math.log10(rank),
            y=math.log10(count),
            text=plot_text(name),
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
            font={"size": 13, "color": INK},
        )
    figure.update_layout(
        layout(
            height=420,
            xaxis={"title": "rank of the token", **LOG_AXIS},
            yaxis={"title": "count of the token", **LOG_AXIS},
        )
    )
    return figure


def _zipf(counts: TokenFrequencies, ordinary: Array) -> dict[str, object]:
    top, last = float(counts.counts[ordinary[0]]), len(ordinary)
    end = min(last, top)  # the line ends at a count of one
    return {
        "x": [1, end],
        "y": [top, top / end],
        "mode": "lines",
        "name": "count ∝ 1/rank",
        "line": {"color": MUTED, "width": 1},
        "hoverinfo": "skip",
    }


def _draw(counts: TokenFrequencies, ordinary: Array, ranks: Array, special: Array) -> Canvas:
    figure, axes = canvas(7, 4)
    axes.set(xscale="log", yscale="log", xlabel="rank of the token", ylabel="count of the token")
    if len(ordinary):
        line = _zipf(counts, ordinary)
        axes.plot(line["x"], line["y"], color=MUTED, linewidth=0.8, label="count ∝ 1/rank")
    axes.plot(
        ranks + 1,
        counts.counts[ordinary[ranks]],
        ".",
        color=series(0),
        markersize=3,
        label="tokens",
    )
    if len(special):
        axes.plot(
            _special_ranks(counts, ordinary, special),
            counts.counts[special],
            "D",
            color=series(1),
            markerfacecolor="none",
            markersize=5,
            label="special tokens",
        )
    for rank, count, name in _named(counts, ordinary):
        axes.annotate(
            name,
            (rank, count),
            (2, 3),
            textcoords="offset points",
            fontsize=8,
            parse_math=False,
        )
    axes.legend()
    return figure
