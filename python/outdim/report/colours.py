"""The colours of the page, for light and for dark ground, safe for colour-blind readers.

Figures are made with the light ones; the page replaces them by their dark partners where the
reader's system asks for a dark page.
"""

from collections.abc import Iterable
from typing import NamedTuple

# Okabe and Ito's palette, darkened for white and lightened for black ground.
SERIES = {
    "#0072b2": "#56b4e9",
    "#d55e00": "#ff8c42",
    "#00805f": "#2fcf9f",
    "#b0468a": "#e78ac3",
    "#8a6d00": "#f0d54a",
    "#5b4bb5": "#a99cf5",
    "#7a4a1e": "#c99a6b",
    "#3f6f8f": "#9cc3d5",
}
_SHAPES = (("circle", "o"), ("square", "s"), ("diamond", "D"), ("triangle-up", "^"))
INK = "#1f2933"
MUTED = "#5f6c7b"
FAINT = "#a3adb8"
GRID = "#e3e7ec"
BAND = "rgba(95,108,123,0.22)"
DARK = {
    **SERIES,
    INK: "#e6eaef",
    MUTED: "#a5b1bf",
    FAINT: "#8592a0",
    GRID: "#323a44",
    BAND: "rgba(165,177,191,0.22)",
}

# Diverging, centred at 0: blue for negative, orange for positive, the ground's own tone for none.
DIVERGING = ("#08306b", "#2f79b5", "#9cc8e3", "#f7f7f7", "#fdbb7c", "#dd6b15", "#7f2704")
#: Of shares, from none to all.
ORANGE = DIVERGING[len(DIVERGING) // 2 :]
DIVERGING_DARK = ("#c6e2ff", "#62aef0", "#245f92", "#15191e", "#96480c", "#f0913a", "#ffe3c2")


def series(index: int) -> str:
    """Colour of the index-th series; colours repeat after the eighth."""
    return list(SERIES)[index % len(SERIES)]


class Look(NamedTuple):
    """How something is drawn: colour, and shape of its marks for plotly and matplotlib."""

    colour: str
    symbol: str
    marker: str


class Palette:
    """A look for each dimension, the same in all figures of a report.

    Looks are given in the order in which dimensions are first asked for, so that those a report is
    about have to be asked for first. When all colours are used they return with another shape.

    Example:
        >>> palette = Palette()
        >>> palette.of(507) == palette.of(507) != palette.of(247)
        True
    """

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._grey: set[int] = set()

    def of(self, dim: int) -> Look:
        """The look of a dimension."""
        found = look(self._places.setdefault(int(dim), len(self._places)))
        return found._replace(colour=MUTED) if dim in self._grey else found

    def grey(self, dims: Iterable[int]) -> None:
        """Those that are there to be compared with, but for those that have a colour."""
        self._grey.update(set(dims) - set(self._places))


def look(index: int) -> Look:
    """The index-th look; after all colours in one shape they come in the next."""
    return Look(series(index), *_SHAPES[index // len(SERIES) % len(_SHAPES)])


def scale(colours: tuple[str, ...]) -> list[list[float | str]]:
    """Space colours evenly over 0..1, as plotly wants them."""
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]
