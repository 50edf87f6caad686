"""Work units: the immutable pieces of a corpus that are read, counted and committed one by one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Unit:
    """A piece of a corpus; all fields are plain JSON values (:meth:`as_dict`).

    ``kind`` says what ``start`` and ``stop`` count:

    * "lines": bytes of a plain text or JSON lines file; the unit owns the lines that start in
      [start, stop);
    * "file": a whole compressed file, which can only be read from its start;
    * "row_groups": row groups of a parquet file;
    * "documents": documents of ``python-docs``;
    * "shard": shards of a streamed Hugging Face dataset, whose sizes are not known (``size_bytes``
      0).

    ``size_bytes`` is the size of the text before it is read: on disk for "lines" and "file",
    uncompressed for "row_groups".
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


def ranges(sizes: list[int], unit_bytes: int) -> list[tuple[int, int, int]]:
    """Group consecutive items into [start, stop) ranges of at most ``unit_bytes``, one at least.

    >>> ranges([3, 3, 3, 9, 1], unit_bytes=6)
    [(0, 2, 6), (2, 3, 3), (3, 4, 9), (4, 5, 1)]
    """
    found: list[tuple[int, int, int]] = []
    start, total = 0, 0
    for i, size in enumerate(sizes):
        if i > start and total + size > unit_bytes:
            found.append((start, i, total))
            start, total = i, 0
        total += size
    if len(sizes) > start:
        found.append((start, len(sizes), total))
    return found
