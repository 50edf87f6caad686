"""Text files, plain or packed, as blocks of whole lines: txt (a document a line), JSON lines."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from outdim.corpus.texts import Accounting, Texts
from outdim.errors import DataError

_BLOCK_BYTES = 8 << 20
_PACKED_BYTES = 64 << 10  # compressed bytes at a time: bounds what one step can unfold to
_BOM = b"\xef\xbb\xbf"

Problem = Callable[[str, int, str], None]
"""Called with a reason, the index of the row, and details; raises unless rows are skipped."""


def compression(path: str) -> str:
    """How a file is packed by the end of its name: "gz", "zst" or ""."""
    ending = path.rsplit(".", 1)[-1].lower()
    return ending if ending in ("gz", "zst") else ""


def unpacked(path: str) -> Iterator[bytes]:
    """The content of a .gz or .zst file in pieces; EOFError where the file ends too early."""
    make: Callable[[], Any] = {
        "gz": lambda: zlib.decompressobj(wbits=31),
        "zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
    }[compression(path)]
    with open(path, "rb") as file:
        unpacker, begun = make(), False
        while packed := file.read(_PACKED_BYTES):
            while packed:
                if not begun and compression(path) == "gz":
                    packed = packed.lstrip(b"\0")  # padding between members, as gzip(1) ignores it
                    if not packed:
                        break
                begun = True
                if piece := unpacker.decompress(packed):
                    yield piece
                if not unpacker.eof:
                    break
                packed = unpacker.unused_data
                unpacker, begun = make(), False
    if begun:
        raise EOFError("the compressed stream ends before its end mark")


def _pieces_of_range(path: str, start: int, stop: int) -> Iterator[bytes]:
    """The lines that start in [start, stop), in pieces."""
    with open(path, "rb") as file:
        at = start
        if start > 0:  # whatever precedes the first line start belongs to the unit before
            file.seek(start - 1)
            at = start - 1
            while piece := file.read(min(_BLOCK_BYTES, stop - at)):
                newline = piece.find(b"\n") + 1
                at += newline or len(piece)
                if newline:
                    file.seek(at)
                    break
        ended = True
        while at < stop and (piece := file.read(min(_BLOCK_BYTES, stop - at))):
            at += len(piece)
            ended = piece.endswith(b"\n")
            yield piece
        while not ended and (piece := file.read(_PACKED_BYTES)):
            newline = piece.find(b"\n") + 1
            ended = newline > 0
            yield piece[:newline] if ended else piece


def _whole_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Join pieces to blocks that end at a line end (the last one perhaps without)."""
    pending: list[bytes] = []
    size = 0
    for piece in pieces:
        pending.append(piece)
        size += len(piece)
        cut = piece.rfind(b"\n") + 1
        if size >= _BLOCK_BYTES and cut:
            pending[-1] = piece[:cut]
            yield b"".join(pending)
            pending = [piece[cut:]]
            size = len(pending[0])
    if size:
        yield b"".join(pending)


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


def is_utf8(data: NDArray[np.uint8]) -> bool:
    """Whether bytes are valid UTF-8."""
    if not len(data) or data.max() < 0x80:
        return True
    try:
        str(data.data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def read_lines(
    path: str, start: int, stop: int, account: Accounting, skip: bool
) -> Iterator[tuple[Texts, int]]:
    """Blocks of lines with the index of the first; ``stop`` < 0 reads a compressed file whole.

    A compressed file that is cut off or damaged raises DataError; with ``skip`` it ends at the last
    whole line that could be read, and the account says so.
    """
    pieces = unpacked(path) if stop < 0 else _pieces_of_range(path, start, stop)
    blocks = _whole_lines(pieces)
    first = 0
    while True:
        try:
            block = next(blocks, None)
        except (EOFError, zlib.error, zstandard.ZstdError) as error:
            place = f"{path}: damaged or cut off after line {first} ({error})"
            if not skip:
                raise DataError(
                    f"{place}. Fetch it again, or go on without its rest with on_error='skip'"
                ) from error
            account.skip("truncated file", place)
            return
        if block is None:
            return
        if first == 0 and start <= 0 and block.startswith(_BOM):
            block = block[len(_BOM) :]
        lines = _split_lines(block)
        yield lines, first
        first += len(lines)


def line_number(path: str, start: int, index: int) -> int:
    """The number, from 1, of a line given by its index among those that start from ``start`` on."""
    before, left = 0, max(start - 1, 0)
    with open(path, "rb") as file:
        while left > 0 and (piece := file.read(min(_BLOCK_BYTES, left))):
            before += piece.count(b"\n")
            left -= len(piece)
        if start > 0:  # the line that holds byte start - 1 belongs to the unit before
            before += 1
    return before + index + 1


def txt_documents(lines: Texts, first: int, problem: Problem) -> Texts:
    """One document a line; lines that are not UTF-8 are problems."""
    if is_utf8(lines.data):
        return lines
    valid = np.ones(len(lines), bool)
    for i in range(len(lines)):
        valid[i] = is_utf8(lines.data[lines.starts[i] : lines.ends[i]])
        if not valid[i]:
            problem("invalid UTF-8", first + i, "the line is not UTF-8 text")
    return lines.take(valid)
