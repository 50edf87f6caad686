"""Lines of text files, plain or packed, in blocks: what txt and JSON lines share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from outdim.corpus.files import open_file, printable
from outdim.corpus.packed import DamagedError, packing, unpacked
from outdim.corpus.reading import Problems
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

    def place(self, i: int, problems: Problems) -> str:
        """Names line ``i`` of the block: by its number, or where that is not known by its byte.

        To number a line takes reading all that precede its unit, which is done for an error only.
        """
        if self.unit.start == 0 or problems.fatal:
            return f"{self.unit.path}: line {_lines_before(self.unit) + self.first + i + 1}"
        return f"{self.unit.path}: byte {self.offset + int(self.texts.starts[i])}"


def line_units(path: str, unit_bytes: int | None = None) -> list[Span]:
    """Ranges of bytes, where a unit owns the lines that start in it, or the whole file.

    A packed file can only be read from its start: it is one unit, whose stop is -1.
    """
    size = os.path.getsize(path)
    if packing(path):
        return [(0, -1, size)] if size else []
    step = unit_bytes or max(size, 1)
    starts = range(0, size, step)
    return [(start, min(start + step, size), min(step, size - start)) for start in starts]


def read_lines(unit: Unit, problems: Problems) -> Iterator[Lines]:
    """The lines of a unit; of a packed file that is damaged the whole ones before the damage."""
    first = 0
    try:
        for offset, block in _blocks(unit, problems.longest):
            if not block:
                dropped = Lines(unit, Texts.of([""]), first, offset)
                problems.too_long(partial(dropped.place, 0, problems))
                first += 1
                continue
            if offset == 0 and block.startswith(_BOM):
                offset, block = len(_BOM), block[len(_BOM) :]
            texts = _split_lines(block)
            yield Lines(unit, texts, first, offset)
            first += len(texts)
    except DamagedError as error:
        reason = "trailing bytes" if error.ended else "truncated file"
        what = "the text ends" if error.ended else "damaged or cut off"
        details = f"{what} after line {first} ({error})"
        advice = "Fetch it again, or go on without its rest"
        problems.row(reason, lambda: unit.path, details, advice=advice)


def is_utf8(data: NDArray[np.uint8]) -> bool:
    """Whether bytes are valid UTF-8, without making a string of them."""
    if not len(data) or data.max() < 0x80:
        return True
    import pyarrow as pa

    bounds = pa.py_buffer(np.array([0, len(data)], np.int64))
    try:
        pa.LargeStringArray.from_buffers(1, bounds, pa.py_buffer(data)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _blocks(unit: Unit, longest: int) -> Iterator[tuple[int, bytes]]:
    """Whole lines in blocks (see `_whole_lines`), each with its offset in the file."""
    if packing(unit.path):
        yield from _whole_lines(unpacked(unit.path), 0, longest)
        return
    with open_file(unit.path) as file:
        start = _first_start(file, unit.start, unit.stop)
        yield from _whole_lines(_pieces(file, start, unit.stop), start, longest)


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
    while start < stop:
        piece = file.read(min(_BLOCK_BYTES, stop - start))
        if not piece:
            raise DataError(f"source: {printable(file.name)}: it ends at byte {start}, not {stop}")
        start += len(piece)
        ended = piece.endswith(b"\n")
        yield piece
    while not ended and (piece := file.read(_TAIL_BYTES)):
        newline = piece.find(b"\n") + 1
        ended = newline > 0
        yield piece[:newline] if ended else piece


def _whole_lines(pieces: Iterator[bytes], offset: int, longest: int) -> Iterator[tuple[int, bytes]]:
    """Join pieces to blocks that end at a line end (the last one perhaps without).

    A line of more than ``longest`` bytes is dropped while it is read; an empty block stands for it.
    """
    held: list[bytes] = []
    size = unended = 0  # bytes held, and how many of them follow the last line end
    dropping = False
    try:
        for piece in pieces:
            if dropping:
                newline = piece.find(b"\n") + 1
                offset += newline or len(piece)
                dropping = not newline
                piece = piece[newline:] if newline else b""
            cut = piece.rfind(b"\n") + 1
            held.append(piece)
            size += len(piece)
            unended = len(piece) - cut if cut else unended + len(piece)
            if unended > longest:
                if size > unended:
                    yield offset, b"".join(held)[: size - unended]
                yield offset + size - unended, b""
                offset += size
                held, size, unended, dropping = [], 0, 0, True
            elif cut and size >= _BLOCK_BYTES:
                held[-1] = piece[:cut]
                yield offset, b"".join(held)
                offset += size - unended
                held, size = [piece[cut:]], unended
    except DamagedError as error:
        whole = size if error.ended else size - unended
        if whole:
            yield offset, b"".join(held)[:whole]
        raise
    if size:
        yield offset, b"".join(held)


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
    with open_file(unit.path) as file:
        while left > 0 and (piece := file.read(min(_BLOCK_BYTES, left))):
            before += piece.count(b"\n")
            left -= len(piece)
    return before
