"""Work units: the immutable pieces of a corpus that are read, counted and committed one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

Span = tuple[int, int, int]
"""Start, stop and size in bytes of a unit."""


@dataclass(frozen=True)
class Unit:
    """A piece of a corpus; all fields are plain JSON values (`as_dict`).

    Attributes:
        index: Its number in the corpus.
        kind: The format that reads it, a module of ``outdim.corpus.formats``, which says what
            ``start`` and ``stop`` count.
        path: Of the file, or what else the format reads.
        start: Where it begins.
        stop: Where it ends.
        size_bytes: Of the text before it is read: on disk for text files, uncompressed for columns,
            0 where it is not known.
    """

    index: int
    kind: str
    path: str
    start: int
    stop: int
    size_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """The fields as a dict; ``Unit(**fields)`` is the way back."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.path} ({self.kind} {self.start}-{self.stop})"


def ranges(sizes: Iterable[int], unit_bytes: int) -> list[Span]:
    """Group consecutive items into [start, stop) ranges of at most ``unit_bytes``, one at least.

    Example:
        >>> ranges([3, 3, 3, 9, 1], unit_bytes=6)
        [(0, 2, 6), (2, 3, 3), (3, 4, 9), (4, 5, 1)]
    """
    found: list[Span] = []
    start = stop = total = 0
    for size in sizes:
        if stop > start and total + size > unit_bytes:
            found.append((start, stop, total))
            start, total = stop, 0
        stop += 1
        total += size
    if stop > start:
        found.append((start, stop, total))
    return found
