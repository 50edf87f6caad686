"""What the page shows of one step."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from outdim.report.figures.base import Figure


@dataclass(frozen=True)
class Cell:
    """Of a table: text, how many rows it spans, whether it heads them or stands out, a tooltip."""

    text: str
    rows: int = 1
    heading: bool = False
    marked: bool = False
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes:
        title: For those who do not see it, and in the summary.
        caption: How to read it.
        columns: Headings; those of the first ``left`` are aligned left.
        rows: Cells, or plain texts, of which the first heads its row.
        over: A heading over all columns from ``over_from`` on.
        brief: Whether the summary for a terminal has it as well.
        marks: What it means that a cell is marked: shaded on the page, starred in a terminal.
        folded: Whether the page shows its title alone until it is asked for.
    """

    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    left: int = 1
    over: str = ""
    over_from: int = 0
    brief: bool = False
    marks: str = ""
    folded: bool = False

    def cells(self) -> list[list[Cell]]:
        """The rows as cells."""
        return [
            [
                cell if isinstance(cell, Cell) else Cell(cell, heading=place == 0)
                for place, cell in enumerate(row)
            ]
            for row in self.rows
        ]


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        step: Its step.
        title: Its heading.
        sentences: What relates the step to others; what it found itself is in its headline.
        tables, figures: In this order.
        definitions: Template with the terms it uses; "" for none.
    """

    step: str
    title: str
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = field(default=())
    definitions: str = ""
