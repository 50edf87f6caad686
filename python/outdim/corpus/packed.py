"""Files packed as .gz or .zst, unpacked in small steps: a small file may hold very much."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

import zstandard

from outdim.corpus.files import open_file, printable
from outdim.errors import DataError

_PIECE_BYTES = 1 << 20
# --long=31, the largest that zstd(1) packs with; it takes as much memory as there is text, up to it
_MAX_WINDOW_BYTES = 1 << 31


class _Packing(NamedTuple):
    """How one kind is unpacked; ``step``: packed bytes at a time.

    One step unfolds to 17 MB at most of gz, and of zst to 134 MB, where every 4 bytes stand for
    128 KiB.
    """

    start: Callable[[], Any]
    step: int
    magic: bytes


_PACKINGS = {
    "gz": _Packing(lambda: zlib.decompressobj(wbits=31), 16 << 10, b"\x1f\x8b"),
    "zst": _Packing(
        lambda: zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj(),
        4 << 10,
        b"\x28\xb5\x2f\xfd",
    ),
}


class DamagedError(Exception):
    """A packed file cannot be unpacked any further.

    ``ended``: what was unpacked is whole, and something else follows it.
    """

    def __init__(self, details: str, ended: bool):
        super().__init__(details)
        self.ended = ended


def packing(path: str) -> str:
    """How a file is packed by the end of its name: "gz", "zst" or ""."""
    ending = path.rsplit(".", 1)[-1].lower()
    return ending if ending in _PACKINGS else ""


def without_packing(path: str) -> str:
    """The name of what is packed."""
    return path.rsplit(".", 1)[0] if packing(path) else path


def unpacked(path: str) -> Iterator[bytes]:
    """The content of a .gz or .zst file in pieces of at most a megabyte.

    Raises:
        DamagedError: It is cut off or damaged, or bytes follow its end that are no part of it.
    """
    with open_file(path) as file:
        for piece in _members(file, packing(path)):
            for start in range(0, len(piece), _PIECE_BYTES):
                yield piece[start : start + _PIECE_BYTES]


def open_whole(path: str) -> BinaryIO:
    """A file in which one can seek: one that is packed is unpacked into a temporary one.

    Raises:
        DamagedError: It cannot be unpacked.
        DataError: There is no room for it.
    """
    if not packing(path):
        return open_file(path)
    file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        for piece in unpacked(path):
            file.write(piece)
        file.seek(0)
    except OSError as error:
        file.close()
        raise DataError(
            f"source: {printable(path)}: it cannot be unpacked in {tempfile.gettempdir()} "
            f"({error.strerror}). Unpack it yourself, or name a larger folder by TMPDIR"
        ) from error
    except BaseException:
        file.close()
        raise
    return file


def _members(file: BinaryIO, kind: str) -> Iterator[bytes]:
    """A packed file may be several, one behind the other (as pzstd and bgzip write them)."""
    start, step, magic = _PACKINGS[kind]
    unpacker, head, members = start(), b"", 0

    def damaged(details: str) -> DamagedError:
        if members and not head.startswith(magic[: len(head)]):
            return DamagedError("bytes follow its end that are no part of it", ended=True)
        return DamagedError(details, ended=False)

    while packed := file.read(step):
        while packed:
            if not head and kind == "gz":
                packed = packed.lstrip(b"\0")  # padding between members, as gzip(1) ignores it
            head = head or packed[: len(magic)]
            before = unpacker.copy() if kind == "gz" else None
            try:
                piece = unpacker.decompress(packed)
            except (zlib.error, zstandard.ZstdError) as error:
                if before is not None:
                    yield from _bytewise(before, packed)
                # Neither kind checks what it unpacks before its end.
                raise damaged(f"{error}; lines before may be damaged, too") from error
            if piece:
                yield piece
            if not unpacker.eof:
                break
            packed, unpacker, head = unpacker.unused_data, start(), b""
            members += 1
    if head:
        raise damaged("it ends before its end mark")


def _bytewise(unpacker: Any, packed: bytes) -> Iterator[bytes]:
    """What comes before damage: of a step that fails as a whole nothing is returned."""
    with suppress(zlib.error):
        for byte in packed:
            yield unpacker.decompress(bytes([byte]))
