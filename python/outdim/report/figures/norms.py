"""LayerNorm parameters, gamma against beta, with the bounds of k sigma: paper A's outliers."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from matplotlib.figure import Figure as Canvas

from outdim.report.colours import FAINT, MUTED, series
from outdim.report.figures.base import Choice, Figure, canvas, layout
from outdim.report.run_files import Array, Floats, Run
from outdim.report.text import listing

# 12 layers x 768 dimensions fit six times; this many dots are 0.7 MB of page.
MAX_DOTS = 60_000
_MAX_PANELS = 24
_LABELLED = 12
_NEAREST = 5


@dataclass(frozen=True)
class Norms:
    """LayerNorm parameters [L, D]; beta is None for norms without one (RMSNorm)."""

    gamma: Floats
    beta: Floats | None
    points: list[str]
    layers: list[int]
    labels: list[str]
    outliers: list[int]
    k: float
    detected: bool

    @cached_property
    def z(self) -> dict[str, Floats]:
        """z-scores within the layer by letter, [L, D]; beta's only where there is one."""
        scores = {"γ": _z(self.gamma)}
        return scores if self.beta is None else scores | {"β": _z(self.beta)}

    @cached_property
    def named(self) -> list[int]:
        """Dimensions to speak of: the outliers or, where there is none, the nearest to being one.

        Nearest are those beyond k in the most layers in all parameters at once, then in any.
        """
        if self.outliers or not self.detected:
            return self.outliers
        beyond = np.stack([np.abs(z) > self.k for z in self.z.values()])
        furthest = np.max([np.nan_to_num(np.abs(z)).max(axis=0) for z in self.z.values()], axis=0)
        together, somewhere = beyond.all(axis=0).sum(axis=0), beyond.sum(axis=(0, 1))
        order = np.lexsort((-furthest, -somewhere, -together))[:_NEAREST]
        return [int(dim) for dim in order if somewhere[dim]]


def read_norms(run: Run) -> Norms | None:
    """Collect the LayerNorm parameters of a run; None where it has none."""
    statistics = run.statistics
    if statistics is None or not len(rows := statistics.norm_rows()):
        return None
    gamma, beta = statistics.values["gamma", "", ""][rows], statistics.get("beta")
    beta = None if beta is None or not np.isfinite(beta[rows]).any() else beta[rows]
    return Norms(
        gamma=gamma,
        beta=beta,
        points=[statistics.points[p] for p in rows],
        layers=[statistics.layers[p] for p in rows],
        labels=statistics.labels(rows),
        outliers=[dim for dim in run.outlier_dims() if dim < statistics.dims],
        k=float((run.detection or {}).get("k", 3.0)),
        detected=run.detection is not None,
    )


def norm_scatter(norms: Norms) -> Figure:
    """Draw gamma against beta, a layer at a time (interactive) or side by side (static)."""
    total = norms.gamma.shape[1]
    dims = _chosen(norms)
    rule = (
        ""
        if len(dims) == total
        else f" Of {total:,} dimensions {len(dims):,} are drawn: the outliers, those with the "
        "largest |z| in any layer, and the rest evenly thinned out; stats.parquet has them all."
    )
    drawn = _panels(norms)
    static = (
        ""
        if len(drawn) == len(norms.layers)
        else f" The static drawing shows {len(drawn)} of {len(norms.layers)} layers, evenly spaced."
    )
    reading = (
        "one dot is one dimension of the layer's LayerNorm, its scale γ to the right and its shift "
        f"β upwards. Dashed lines: {norms.k:g} standard deviations from the layer's mean. The rule "
        "of Kovaleva et al. asks for dots in the four corners, beyond the lines of both, at the "
        "same dimension in many layers"
        if norms.beta is not None
        else "one dot is one dimension of the layer's norm, which has no β: its number to the "
        f"right, its scale γ upwards. Dashed lines: {norms.k:g} standard deviations from the "
        "layer's mean"
    )
    labels = (
        "the outlier dimensions found"
        if norms.outliers or not norms.detected
        else "the dimensions nearest to being outliers, as none was found"
    )
    return Figure(
        id="layer_norm_parameters",
        title="LayerNorm parameters of each layer",
        caption=f"In each layer, {reading}. Coloured and "
        f"labelled: {labels}, at most {_LABELLED}.{rule}{static}",
        alt=f"Scatter plot of the LayerNorm parameters of {len(norms.layers)} layers, "
        f"{total:,} dimensions each; labelled: {listing(norms.named[:_LABELLED]) or 'none'}.",
        table=_table(norms, dims),
        interactive=_interactive(norms, dims),
        draw=lambda: _draw(norms, dims, drawn),
        choices=(
            Choice(
                "layer",
                "Layer",
                {
                    point: f"{layer} ({point})"
                    for point, layer in zip(norms.points, norms.layers, strict=True)
                },
            ),
        )
        if len(norms.points) > 1
        else (),
    )


def _z(values: Floats) -> Floats:
    spread = np.nanstd(values, axis=1, ddof=1, keepdims=True)
    deviation = values - np.nanmean(values, axis=1, keepdims=True)
    z: Floats = np.divide(deviation, spread, out=np.zeros_like(deviation), where=spread > 0)
    return z


def _chosen(norms: Norms) -> Array:
    """All dimensions, or the outliers, the furthest, and every so-manieth of the rest."""
    layers, total = norms.gamma.shape
    kept = MAX_DOTS // layers
    if total <= kept:
        return np.arange(total)
    z = np.max([np.nan_to_num(np.abs(z)).max(axis=0) for z in norms.z.values()], axis=0)
    far = np.union1d(np.argsort(-z, kind="stable")[: kept // 2], norms.outliers).astype(int)
    rest = np.setdiff1d(np.arange(total), far)
    return np.union1d(far, rest[:: -(-len(rest) // max(1, kept - len(far)))])


def _panels(norms: Norms) -> list[int]:
    count = min(len(norms.layers), _MAX_PANELS)
    rows = np.linspace(0, len(norms.layers) - 1, count).round()
    return [int(row) for row in rows]


def _bounds(values: Floats, k: float) -> tuple[float, float]:
    mean, spread = float(np.nanmean(values)), float(np.nanstd(values, ddof=1))
    return mean - k * spread, mean + k * spread


def _table(norms: Norms, dims: Array) -> pa.Table:
    columns = {
        "point": np.repeat(norms.points, len(dims)),
        "layer": np.repeat(norms.layers, len(dims)),
        "dim": np.tile(dims, len(norms.points)),
        "gamma": norms.gamma[:, dims].ravel(),
    }
    if norms.beta is not None:
        columns["beta"] = norms.beta[:, dims].ravel()
    columns["outlier"] = np.isin(columns["dim"], norms.outliers)
    return pa.table(columns)


def _interactive(norms: Norms, dims: Array) -> go.Figure:
    figure = go.Figure()
    labelled = norms.named[:_LABELLED]
    rest = dims[~np.isin(dims, labelled)]
    for row, point in enumerate(norms.points):
        x, y = _dots(norms, row)
        shared = {"meta": {"layer": point}, "visible": row == 0}
        hover = "γ = %{x:.4f}<br>β = %{y:.4f}" if norms.beta is not None else "γ = %{y:.4f}"
        figure.add_scatter(
            x=x[rest].astype(np.float32),
            y=y[rest].astype(np.float32),
            customdata=rest.astype(np.int32),
            mode="markers",
            name="other dimensions",
            marker={"size": 5, "color": FAINT, "opacity": 0.7},
            hovertemplate=f"dimension %{{customdata}}<br>{hover}<extra></extra>",
            **shared,
        )
        for place, dim in enumerate(labelled):
            figure.add_scatter(
                x=[x[dim]],
                y=[y[dim]],
                mode="markers+text",
                name=f"dim {dim}",
                text=[str(dim)],
                textposition="top center",
                cliponaxis=False,
                marker={"size": 10, "color": series(place)},
                hovertemplate=f"dimension {dim}<br>{hover}<extra></extra>",
                **shared,
            )
        figure.add_scatter(**_bound_lines(x, y, norms), **shared)
    figure.update_layout(
        layout(
            height=460,
            xaxis={"title": "γ (scale)" if norms.beta is not None else "dimension"},
            yaxis={"title": "β (shift)" if norms.beta is not None else "γ (scale)"},
        )
    )
    return figure


def _dots(norms: Norms, row: int) -> tuple[Floats, Floats]:
    """Give abscissa and ordinate of a layer's dimensions: gamma and beta, or number and gamma."""
    if norms.beta is not None:
        return norms.gamma[row], norms.beta[row]
    return np.arange(norms.gamma.shape[1], dtype=np.float64), norms.gamma[row]


def _bound_lines(x: Floats, y: Floats, norms: Norms) -> dict[str, object]:
    """Trace of the four (two without beta) lines at k sigma, as wide as dots and bounds reach."""
    (left, right), (low, high) = _bounds(x, norms.k), _bounds(y, norms.k)
    if norms.beta is None:
        left, right = 0.0, float(len(x) - 1)
    x0, x1 = _reach(x, left, right)
    y0, y1 = _reach(y, low, high)
    lines_x, lines_y = [x0, x1, None, x0, x1], [low, low, None, high, high]
    if norms.beta is not None:
        lines_x += [None, left, left, None, right, right]
        lines_y += [None, y0, y1, None, y0, y1]
    return {
        "x": lines_x,
        "y": lines_y,
        "mode": "lines",
        "name": f"mean ± {norms.k:g} σ",
        "line": {"color": MUTED, "width": 1, "dash": "dash"},
        "hoverinfo": "skip",
    }


def _reach(values: Floats, low: float, high: float) -> tuple[float, float]:
    """Span dots and bounds, and a little more."""
    low, high = min(low, float(np.nanmin(values))), max(high, float(np.nanmax(values)))
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def _draw(norms: Norms, dims: Array, panels: list[int]) -> Canvas:
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = canvas(
        max(4.5, 2.4 * columns), 0.5 + 2.1 * lines, nrows=lines, ncols=columns, squeeze=False
    )
    labelled = norms.named[:_LABELLED]
    rest = dims[~np.isin(dims, labelled)]
    for axes, row in zip(grid.flat, panels, strict=False):
        x, y = _dots(norms, row)
        # As an image inside the SVG: tens of thousands of circles would weigh megabytes.
        axes.scatter(x[rest], y[rest], s=4, color=FAINT, linewidths=0, rasterized=True)
        for place, dim in enumerate(labelled):
            axes.scatter([x[dim]], [y[dim]], s=18, color=series(place), zorder=3)
            axes.annotate(
                str(dim), (x[dim], y[dim]), xytext=(3, 3), textcoords="offset points", fontsize=7
            )
        for bound in _bounds(y, norms.k):
            axes.axhline(bound, color=MUTED, linewidth=0.7, linestyle="--")
        for bound in _bounds(x, norms.k) if norms.beta is not None else ():
            axes.axvline(bound, color=MUTED, linewidth=0.7, linestyle="--")
        axes.set_title(f"layer {norms.labels[row]}", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.margins(0.12)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("γ (scale)" if norms.beta is not None else "dimension", fontsize=9)
    figure.supylabel("β (shift)" if norms.beta is not None else "γ (scale)", fontsize=9)
    figure.suptitle(f"dashed: mean ± {norms.k:g} σ", fontsize=9)
    return figure
