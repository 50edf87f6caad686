"""Lines of text files, plain or packed, in blocks: what txt and JSON lines share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from outdim.corpus.packed import DamagedError, packing, unpacked
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.texts import Texts
from outdim.corpus.unit import Span, Unit
from outdim.errors import DataError

_BLOCK_BYTES = 8 << 20
_TAIL_BYTES = 64 << 10  # a line that goes on behind the end of its unit is read by these
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Lines:
    """A block of lines: ``texts`` without their ends, ``first`` the index of the first in its unit.

    ``offset`` is where ``texts.data`` begins in the file once it is unpacked.
    """

    unit: Unit
    texts: Texts
    first: int
    offset: int

    def problem(self, problems: Problems, i: int, reason: str, details: str) -> None:
        """Line ``i`` of the block cannot be read."""
        problems.row(reason, lambda: self._place(i, exact=problems.fatal), details)

    def _place(self, i: int, exact: bool) -> str:
        """The number of the line; to count the lines before the unit takes reading them."""
        if self.unit.start == 0 or exact:
            return f"{self.unit.path}: line {_lines_before(self.unit) + self.first + i + 1}"
        return f"{self.unit.path}: byte {self.offset + int(self.texts.starts[i])}"


def line_units(path: str, options: ReadOptions) -> list[Span]:
    """Ranges of bytes: a unit owns the lines that start in it; a packed file is read whole.

    A packed file can only be read from its start: it is one unit, whose stop is -1.
    """
    size, step = os.path.getsize(path), options.unit_bytes
    if packing(path):
        return [(0, -1, size)] if size else []
    return [
        (start, min(start + step, size), min(step, size - start)) for start in range(0, size, step)
    ]


def read_lines(unit: Unit, problems: Problems) -> Iterator[Lines]:
    """The lines of a unit; of a packed file that is damaged those before the damage."""
    first = 0
    try:
        for offset, block in _blocks(unit):
            if offset == 0 and block.startswith(_BOM):
                offset, block = len(_BOM), block[len(_BOM) :]
            texts = _split_lines(block)
            yield Lines(unit, texts, first, offset)
            first += len(texts)
    except DamagedError as error:
        problems.row(
            "truncated file",
            lambda: unit.path,
            f"damaged or cut off after line {first} ({error})",
            advice="Fetch it again, or go on without its rest",
        )


def is_utf8(data: NDArray[np.uint8]) -> bool:
    """Whether bytes are valid UTF-8."""
    if not len(data) or data.max() < 0x80:
        return True
    try:
        str(data.data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _blocks(unit: Unit) -> Iterator[tuple[int, bytes]]:
    """Whole lines in blocks, each with its offset in the file (the last perhaps without end)."""
    if packing(unit.path):
        yield from _whole_lines(unpacked(unit.path), 0)
        return
    if not os.path.exists(unit.path):
        raise DataError(f"source: {unit.path}: no such file")
    with open(unit.path, "rb") as file:
        start = _first_start(file, unit.start, unit.stop)
        yield from _whole_lines(_pieces(file, start, unit.stop), start)


def _first_start(file: BinaryIO, start: int, stop: int) -> int:
    """Where the first line begins in [start, stop): what precedes it is of the unit before."""
    if start == 0:
        return 0
    at = start - 1
    file.seek(at)
    while piece := file.read(min(_BLOCK_BYTES, stop - at)):
        newline = piece.find(b"\n") + 1
        if newline:
            return at + newline
        at += len(piece)
    return stop


def _pieces(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    """From ``start`` up to the first line end at or behind ``stop``."""
    file.seek(start)
    ended = True
    while start < stop and (piece := file.read(min(_BLOCK_BYTES, stop - start))):
        start += len(piece)
        ended = piece.endswith(b"\n")
        yield piece
    while not ended and (piece := file.read(_TAIL_BYTES)):
        newline = piece.find(b"\n") + 1
        ended = newline > 0
        yield piece[:newline] if ended else piece


def _whole_lines(pieces: Iterator[bytes], offset: int) -> Iterator[tuple[int, bytes]]:
    """Join pieces to blocks that end at a line end (the last one perhaps without)."""
    pending: list[bytes] = []
    size = 0
    for piece in pieces:
        pending.append(piece)
        size += len(piece)
        cut = piece.rfind(b"\n") + 1
        if size >= _BLOCK_BYTES and cut:
            pending[-1] = piece[:cut]
            block = b"".join(pending)
            yield offset, block
            offset += len(block)
            pending = [piece[cut:]]
            size = len(pending[0])
    if size:
        yield offset, b"".join(pending)


def _split_lines(block: bytes) -> Texts:
    """The lines of a block without their ends (LF or CRLF)."""
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(data == 0x0A)
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(block))
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1] + 1
    returned = ends > starts
    returned[returned] = data[ends[returned] - 1] == 0x0D
    return Texts(data, starts, ends - returned)


def _lines_before(unit: Unit) -> int:
    """How many lines start before the unit."""
    if unit.start == 0:
        return 0
    before, left = 1, unit.start - 1  # the line that holds byte start - 1 begins before, too
    with open(unit.path, "rb") as file:
        while left > 0 and (piece := file.read(min(_BLOCK_BYTES, left))):
            before += piece.count(b"\n")
            left -= len(piece)
    return before
