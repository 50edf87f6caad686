"""r by layer: single dimensions against the median and the 5-95 % band of all of them."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas

from outdim.report.colours import BAND, MUTED, series
from outdim.report.figures.base import Figure, canvas, layout
from outdim.report.figures.correlation import Correlations, describe, meta
from outdim.report.run_files import Floats, Key
from outdim.report.text import listing

MAX_LINES = 8
_MAX_OUTLIERS = 5


def layer_curves(correlations: Correlations) -> Figure:
    """Draw the outlier dimensions and the strongest others, for each choice its own."""
    dims = _chosen(correlations, correlations.headline)
    marked = correlations.outliers[:_MAX_OUTLIERS]
    return Figure(
        id="correlation_by_layer",
        title="Frequency correlation, layer by layer",
        caption="Solid lines: the outlier dimensions "
        + (f"({listing(marked)}). " if marked else "(none was detected here). ")
        + "Dashed lines: the other dimensions with the largest |r| in any layer under the chosen "
        f"measures; {MAX_LINES} lines at most. Grey: the median of all dimensions and the band "
        "that holds 90 % of them (5th to 95th percentile); a line far outside of the band is "
        "exceptional, one inside is like any other dimension.",
        alt=f"Line chart of r, {describe(correlations.headline)}, by layer for dimensions "
        f"{listing(dims)}, with the median and the 5 to 95 % band of all dimensions.",
        table=_table(correlations),
        interactive=_interactive(correlations),
        draw=lambda: _draw(correlations),
        choices=correlations.choices(),
    )


def band(r: Floats) -> Floats:
    """Give the 5th, 50th and 95th percentile over dimensions [3, R]; NaN is left out."""
    percentiles = np.full((3, len(r)), np.nan)
    for row, values in enumerate(r):
        finite = values[np.isfinite(values)]
        if len(finite):
            percentiles[:, row] = np.percentile(finite, (5, 50, 95))
    return percentiles


def _chosen(correlations: Correlations, key: Key) -> list[int]:
    """Outliers first, then the dimensions with the largest |r| in any layer."""
    largest = np.nan_to_num(np.abs(correlations.r[key]), nan=0.0).max(axis=0)
    dims = list(correlations.outliers[:_MAX_OUTLIERS])
    for dim in np.argsort(-largest, kind="stable"):
        if len(dims) == MAX_LINES:
            break
        if dim not in dims and largest[dim] > 0:
            dims.append(int(dim))
    return dims


def _table(correlations: Correlations) -> pa.Table:
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("selection", "statistic", "covariate", "point", "layer", "series", "r")
    }
    for key, r in correlations.r.items():
        curves = dict(zip(("5%", "median", "95%"), band(r), strict=True))
        curves |= {f"dim {dim}": r[:, dim] for dim in _chosen(correlations, key)}
        for name, curve in curves.items():
            columns["selection"] += [key[2]] * len(r)
            columns["statistic"] += [key[0]] * len(r)
            columns["covariate"] += [key[1]] * len(r)
            columns["point"] += correlations.points
            columns["layer"] += correlations.layers
            columns["series"] += [name] * len(r)
            columns["r"] += curve.tolist()
    return pa.table(columns)


def _interactive(correlations: Correlations) -> go.Figure:
    figure = go.Figure()
    for key, r in correlations.r.items():
        low, middle, high = band(r)
        shared = {
            "x": correlations.labels,
            "meta": meta(key),
            "visible": key == correlations.headline,
            "customdata": correlations.points,
        }
        bounds = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "legendgroup": "band"}
        figure.add_scatter(y=low, showlegend=False, **bounds, **shared)
        figure.add_scatter(
            y=high, fill="tonexty", fillcolor=BAND, name="5–95 % of all", **bounds, **shared
        )
        figure.add_scatter(
            y=middle,
            name="median of all",
            line={"color": MUTED, "width": 2},
            mode="lines",
            hovertemplate="median r = %{y:.3f}<extra></extra>",
            **shared,
        )
        for place, dim in enumerate(_chosen(correlations, key)):
            outlier = dim in correlations.outliers
            figure.add_scatter(
                y=r[:, dim],
                name=f"dim {dim}",
                mode="lines+markers",
                line={
                    "color": series(place),
                    "width": 2.5 if outlier else 1.6,
                    "dash": "solid" if outlier else "dash",
                },
                marker={"size": 6 if outlier else 4},
                hovertemplate=f"dimension {dim}<br>%{{customdata}}: r = %{{y:.3f}}<extra></extra>",
                **shared,
            )
    figure.update_layout(
        layout(
            height=440,
            xaxis={"title": "layer", "type": "category", "zeroline": False},
            yaxis={"title": "Pearson r", "zeroline": True, "zerolinecolor": MUTED},
        )
    )
    return figure


def _draw(correlations: Correlations) -> Canvas:
    key = correlations.headline
    r = correlations.r[key]
    low, middle, high = band(r)
    x = np.arange(len(r))
    figure, axes = canvas(8, 4)
    axes.fill_between(x, low, high, color=MUTED, alpha=0.22, linewidth=0, label="5–95 % of all")
    axes.plot(x, middle, color=MUTED, linewidth=2, label="median of all")
    for place, dim in enumerate(_chosen(correlations, key)):
        outlier = dim in correlations.outliers
        axes.plot(
            x,
            r[:, dim],
            "-o" if outlier else "--o",
            color=series(place),
            linewidth=2 if outlier else 1.2,
            markersize=4 if outlier else 2.5,
            label=f"dimension {dim}",
        )
    axes.axhline(0, color=MUTED, linewidth=0.8)
    step = max(1, -(-len(x) // 20))
    axes.set_xticks(x[::step], correlations.labels[::step])
    axes.set(xlabel="layer", ylabel="Pearson r", title=f"r of {describe(key)}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
