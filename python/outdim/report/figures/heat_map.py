"""Heat map of r, layer x dimension: what follows frequency everywhere is a vertical line."""

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas

from outdim.report.colours import DIVERGING, FAINT, GRID, scale
from outdim.report.figures.base import Figure, canvas, layout
from outdim.report.figures.correlation import Correlations, describe, largest_bound, meta
from outdim.report.run_files import Array
from outdim.report.text import listing

# 13 points x 768 dimensions fit four times; 16 choices of this many cells are 3.5 MB of page.
MAX_CELLS = 40_000
_MARKED = 12


def heat_map(correlations: Correlations) -> Figure:
    """Draw r of every point and dimension, or of as many dimensions as MAX_CELLS allows."""
    total = next(iter(correlations.r.values())).shape[1]
    kept = max(1, MAX_CELLS // len(correlations.points))
    dims = np.sort(correlations.strongest()[:kept])
    whole = len(dims) == total
    outliers = [dim for dim in correlations.outliers[:_MARKED] if dim in dims]
    rule = (
        f"All {total:,} dimensions are shown. "
        if whole
        else f"Of {total:,} dimensions the figure and its CSV show {len(dims):,}: the outlier "
        "dimensions and those with the largest |r| over all layers and choices; stats.parquet has "
        "them all. "
    )
    marks = f"Ticks on the upper edge mark the outlier dimensions {listing(outliers)}. "
    return Figure(
        id="correlation_heat_map",
        title="Which dimensions follow token frequency, and in which layers",
        caption="Each cell is Pearson's r over all tokens between one dimension of the hidden "
        "state after one layer and the frequency of the token: orange rises with frequency, blue "
        "falls, the neutral tone in the middle is none. A dimension that follows frequency through "
        "the model shows as a vertical line. "
        + rule
        + (marks if outliers else "")
        + "Empty cells: r is not defined there, see the warnings.",
        alt=f"Heat map of r, {describe(correlations.headline)}: {len(correlations.points)} layers "
        f"by {len(dims):,} dimensions.",
        table=_table(correlations, dims),
        interactive=_interactive(correlations, dims, outliers),
        draw=lambda: _draw(correlations, dims, outliers),
        choices=correlations.choices(),
    )


def _table(correlations: Correlations, dims: Array) -> pa.Table:
    """One row per point and dimension, one column per choice: shorter than one row per r."""
    columns = {
        "point": np.repeat(correlations.points, len(dims)),
        "layer": np.repeat(correlations.layers, len(dims)),
        "dim": np.tile(dims, len(correlations.points)),
    }
    for (statistic, covariate, selection), r in correlations.r.items():
        columns[f"{statistic}_{covariate}_{selection}"] = r[:, dims].ravel()
    return pa.table(columns)


def _interactive(correlations: Correlations, dims: Array, outliers: list[int]) -> go.Figure:
    whole = len(dims) == next(iter(correlations.r.values())).shape[1]
    x = dims if whole else [str(dim) for dim in dims]
    figure = go.Figure()
    for key, r in correlations.r.items():
        figure.add_heatmap(
            x=x,
            y=correlations.labels,
            z=r[:, dims].astype(np.float32),
            coloraxis="coloraxis",
            meta=meta(key),
            visible=key == correlations.headline,
            hoverongaps=False,
            hovertemplate="dimension %{x}<br>layer %{y}<br>r = %{z:.3f}<extra></extra>",
        )
    bound = largest_bound(correlations)
    figure.update_layout(
        layout(
            height=120 + min(420, max(200, 22 * len(correlations.points))),
            margin={"l": 56, "r": 12, "t": 40 if outliers else 12, "b": 48},
            xaxis={
                "title": "dimension" if whole else "dimension (those shown, in order)",
                "showgrid": False,
                "zeroline": False,
                "type": "linear" if whole else "category",
                "nticks": 10,
            },
            yaxis={
                "title": "layer",
                "showgrid": False,
                "zeroline": False,
                "type": "category",
            },
            coloraxis={
                "colorscale": scale(DIVERGING),
                "cmin": -bound,
                "cmax": bound,
                "colorbar": {
                    "title": {"text": "r", "side": "top"},
                    "thickness": 10,
                    "xpad": 6,
                    "outlinewidth": 0,
                },
            },
            annotations=_marks(dims, outliers),
        )
    )
    return figure


def _marks(dims: Array, outliers: list[int]) -> list[dict[str, object]]:
    """Label outliers above the map, on two lines in turn so that neighbours stay readable."""
    places = sorted((int(np.searchsorted(dims, dim)), dim) for dim in outliers)
    return [
        {
            "x": x,
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "text": str(dim),
            "showarrow": True,
            "arrowhead": 0,
            "arrowwidth": 1,
            "arrowcolor": FAINT,
            "ax": 0,
            "ay": -8 - 14 * (turn % 2),
            "font": {"size": 11},
        }
        for turn, (x, dim) in enumerate(places)
    ]


def _every(count: int) -> list[int]:
    return list(range(0, count, max(1, -(-count // 20))))


def _draw(correlations: Correlations, dims: Array, outliers: list[int]) -> Canvas:
    r = correlations.r[correlations.headline][:, dims]
    figure, axes = canvas(9, 1.6 + min(4.5, 0.22 * len(r)))
    colours = LinearSegmentedColormap.from_list("outdim", DIVERGING).with_extremes(bad=GRID)
    bound = largest_bound(correlations)
    image = axes.imshow(
        np.ma.masked_invalid(r),
        aspect="auto",
        origin="lower",
        cmap=colours,
        vmin=-bound,
        vmax=bound,
    )
    axes.grid(False)
    axes.set(xlabel="dimension", ylabel="layer")
    axes.set_title(f"r of {describe(correlations.headline)}", pad=26 if outliers else 6)
    rows = _every(len(correlations.labels))
    axes.set_yticks(rows, [correlations.labels[i] for i in rows])
    if len(dims) < correlations.r[correlations.headline].shape[1]:
        columns = np.linspace(0, len(dims) - 1, min(8, len(dims))).astype(int)
        axes.set_xticks(columns, [str(dims[i]) for i in columns])
    places = sorted((int(np.searchsorted(dims, dim)), dim) for dim in outliers)
    for turn, (x, dim) in enumerate(places):
        axes.annotate(
            str(dim),
            (x, len(r) - 0.5),
            xytext=(0, 4 + 9 * (turn % 2)),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
    figure.colorbar(image, ax=axes, label="Pearson r", shrink=0.9, pad=0.01)
    return figure
