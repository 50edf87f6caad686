"""What every figure of the report has in common."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from plotly.graph_objects import Figure as Interactive

from outdim.files import write_bytes
from outdim.report.colours import GRID, INK, MUTED
from outdim.tables import csv_bytes

#: Of an axis in powers of ten.
LOG_AXIS = {"type": "log", "dtick": 1, "exponentformat": "power", "zeroline": False}
COLOUR_BAR = {"thickness": 10, "xpad": 6, "outlinewidth": 0}


@dataclass(frozen=True)
class Choice:
    """A question the reader answers: traces whose meta[name] is another answer are hidden.

    options maps an answer to its label; the first one is shown at first.
    """

    name: str
    label: str
    options: dict[str, str]


@dataclass(frozen=True)
class Figure:
    """One figure: the same numbers as a table, as an interactive plot and as a static drawing.

    caption says how to read it, alt says in a sentence what it shows to those who do not see it;
    plot makes the interactive one, draw the matplotlib figure of the first answers, when they are
    wanted: a summary in words needs neither; rows of the table are tidy.
    """

    id: str
    title: str
    caption: str
    alt: str
    table: pa.Table
    plot: Callable[[], Interactive]
    draw: Callable[[], Canvas]
    choices: tuple[Choice, ...] = ()

    @cached_property
    def interactive(self) -> Interactive:
        """The interactive figure."""
        return self.plot()

    def svg(self) -> bytes:
        """Draw the static figure; the same bytes for the same numbers."""
        buffer = BytesIO()
        with _drawing():
            self.draw().savefig(buffer, format="svg", metadata={"Date": None, "Creator": "outdim"})
        return buffer.getvalue()

    def csv(self) -> bytes:
        """Write the table with a header line."""
        return csv_bytes(self.table)

    def save(self, folder: Path) -> bytes:
        """Write id.svg and id.csv into a folder, whole or not at all; returns the SVG."""
        svg = self.svg()
        write_bytes(folder / f"{self.id}.svg", svg)
        write_bytes(folder / f"{self.id}.csv", self.csv())
        return svg


def canvas(width: float, height: float, **subplots: Any) -> tuple[Canvas, Any]:
    """Make a matplotlib figure, in inches, and its axes; call it inside a figure's draw."""
    figure = Canvas(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**subplots)


def layout(height: int, **changes: Any) -> dict[str, Any]:
    """Give the plotly layout that all figures share, with changes."""
    axis = {"gridcolor": GRID, "linecolor": MUTED, "zerolinecolor": GRID, "automargin": True}
    return {
        "template": "none",
        "height": height,
        "autosize": True,
        "margin": {"l": 56, "r": 16, "t": 24, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "hoverlabel": {"font": {"family": "system-ui, sans-serif", "size": 13}, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        **changes,
        "xaxis": {**axis, **changes.get("xaxis", {})},
        "yaxis": {**axis, **changes.get("yaxis", {})},
    }


def colour_map(colours: tuple[str, ...]) -> LinearSegmentedColormap:
    """What `outdim.report.colours.scale` is for plotly, for matplotlib."""
    return LinearSegmentedColormap.from_list("outdim", colours)


def whiskers(value: Any, low: Any, high: Any) -> tuple[list[float], list[float]]:
    """How far the ends of intervals lie below and above the values; 0 where there is none."""
    value, low, high = (np.asarray(part, np.float64) for part in (value, low, high))
    below, above = (np.nan_to_num(np.maximum(part, 0)) for part in (value - low, high - value))
    return below.tolist(), above.tolist()


def error_bars(value: Any, low: Any, high: Any) -> dict[str, Any]:
    """The same as ``error_x`` or ``error_y`` of plotly."""
    below, above = whiskers(value, low, high)
    ends = {"array": above, "arrayminus": below}
    return {"type": "data", "symmetric": False, "thickness": 1, "width": 3, **ends}


def missing_intervals(low: Sequence[float]) -> str:
    """Says, behind a caption that speaks of intervals, of how many values there is none.

    >>> missing_intervals([1.0, float("nan")])
    ' No interval is known for 1 of 2 values.'
    """
    missing = int(np.isnan(np.asarray(low, np.float64)).sum())
    if not missing:
        return ""
    of = "any of them" if missing == len(low) else f"{missing} of {len(low)} values"
    return f" No interval is known for {of}."


def legend_beside(axes: Any) -> None:
    """Put the legend to the right of the axes; its words are no TeX."""
    for text in axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0)).get_texts():
        text.set_parse_math(False)


@contextmanager
def _drawing() -> Iterator[None]:
    style = {
        "svg.fonttype": "none",  # text stays text: searchable, and drawn in the reader's fonts
        "svg.hashsalt": "outdim",
        "font.family": ["DejaVu Sans"],
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "image.interpolation": "nearest",
    }
    with rc_context(style), warnings.catch_warnings():
        # Tokens may be of any script; the SVG holds the characters, whatever this font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
