"""Tables in columns of text, within the width of a line."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from outdim.report.section import Table
from outdim.text import visible

_GAP = 2
_WORDS, _NUMBERS = 20, 36  # cells that are longer may be cut into lines


@dataclass(frozen=True)
class _Column:
    """Texts of a column from its heading on, and whether they are words, which stand left."""

    texts: Sequence[str]
    left: bool

    @property
    def narrowest(self) -> int:
        """As wide as the longest word of its heading, and as its cells if they are not long."""
        heading, *cells = self.texts
        longest = min(max(map(len, cells), default=0), _WORDS if self.left else _NUMBERS)
        return max([1, longest, *map(len, heading.split())])

    @property
    def wanted(self) -> int:
        """How wide it is where nothing is cut."""
        return max([1, *map(len, self.texts)])

    def lines(self, width: int) -> list[list[str]]:
        """Each text in lines of a width."""
        wrapped = (textwrap.wrap(text, width, break_on_hyphens=False) for text in self.texts)
        return [[f"{line:{'<' if self.left else '>'}{width}}" for line in text] for text in wrapped]


def in_columns(table: Table, width: int) -> list[str]:
    """The lines of a table; columns without room follow in blocks below, headed by the first."""
    star = "*" if table.marks else ""
    rows = [[cell.text + (star if cell.marked else "") for cell in row] for row in table.cells()]
    columns = [
        _Column([visible(text) for text in texts], place < table.left)
        for place, texts in enumerate(zip(table.columns, *rows, strict=True))
    ]
    lines: list[str] = []
    for block in _blocks(columns, width):
        lines += ([""] if lines else []) + _side_by_side(block, width)
    return lines


def _blocks(columns: Sequence[_Column], width: int) -> Iterator[list[_Column]]:
    """The columns of each block: at least one beside the first."""
    first, *others = columns
    block = [first]
    for column in others:
        if len(block) > 1 and _room([*block, column], width) < 0:
            yield block
            block = [first]
        block.append(column)
    yield block


def _room(block: Sequence[_Column], width: int) -> int:
    """What is left of a line where columns are as narrow as they may be."""
    return width + _GAP - sum(_GAP + column.narrowest for column in block)


def _side_by_side(block: Sequence[_Column], width: int) -> list[str]:
    """Lines of columns; those that ask for most are given what room there is."""
    widths = [column.narrowest for column in block]
    room = max(0, _room(block, width))
    for place in sorted(range(len(block)), key=lambda i: widths[i] - block[i].wanted):
        more = min(room, max(0, block[place].wanted - widths[place]))
        widths[place] += more
        room -= more
    drawn = [column.lines(wide) for column, wide in zip(block, widths, strict=True)]
    lines = []
    for number, cells in enumerate(zip(*drawn, strict=True)):
        deep = max(map(len, cells))
        for line in range(deep):
            # Headings end on one line, cells begin on one.
            places = [line - (deep - len(cell)) * (number == 0) for cell in cells]
            parts = [
                cell[place] if 0 <= place < len(cell) else " " * wide
                for cell, place, wide in zip(cells, places, widths, strict=True)
            ]
            lines.append((" " * _GAP).join(parts).rstrip())
    return lines
