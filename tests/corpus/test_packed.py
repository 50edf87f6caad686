"""Packed files: every whole line before damage, and nothing unfolded beyond what is needed."""

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from corpus_helpers import account, read
from outdim.corpus import open_corpus
from outdim.corpus.packed import DamagedError, unpacked
from outdim.errors import DataError

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstandard.ZstdCompressor().compress,
}
LINES = [f"line {i} {i * 7919 % 100003} {i * 104729 % 7777}" for i in range(20_000)]


def whole_lines_of_cut(kind: str, data: bytes) -> list[str]:
    """What can be unpacked of a file that is cut off, to its last line end."""
    unpacker = (
        zlib.decompressobj(31) if kind == "gz" else zstandard.ZstdDecompressor().decompressobj()
    )
    text: bytes = unpacker.decompress(data)
    return text.decode().split("\n")[:-1]


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("share", [0.0001, 0.6, 0.75, 0.9999])
def test_all_whole_lines_of_a_file_that_is_cut_off(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / f"a.txt.{kind}"
    data = PACK[kind]("\n".join(LINES).encode())
    path.write_bytes(data[: int(len(data) * share)])
    expected = whole_lines_of_cut(kind, path.read_bytes())
    assert expected == LINES[: len(expected)]
    assert share < 0.6 or len(expected) > 2000
    corpus = open_corpus(path, on_error="skip")
    assert read(corpus) == expected
    assert account(corpus).skipped == {"truncated file": 1}
    with pytest.raises(DataError, match=rf"damaged or cut off after line {len(expected)} \("):
        read(open_corpus(path))


@pytest.mark.parametrize("kind", PACK)
def test_lines_before_damage_in_the_middle(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.txt.{kind}"
    data = bytearray(PACK[kind]("\n".join(LINES).encode()))
    at = len(data) * 3 // 4
    before = whole_lines_of_cut(kind, bytes(data[: at - 4096]))
    data[at : at + 40] = b"\xff" * 40
    path.write_bytes(bytes(data))
    corpus = open_corpus(path, on_error="skip")
    assert read(corpus)[: len(before)] == before
    assert len(before) > 10_000
    assert account(corpus).skipped["truncated file"] == 1
    assert "lines before may be damaged, too" in account(corpus).places[-1]


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("behind", [b"x", b"no", b"garbage " * 100, b"\0" * 20 + b"zz"])
def test_bytes_behind_the_end(tmp_path: Path, kind: str, behind: bytes) -> None:
    path = tmp_path / f"a.txt.{kind}"
    path.write_bytes(PACK[kind](b"one\ntwo\nthree") + behind)
    corpus = open_corpus(path, on_error="skip")
    assert read(corpus) == ["one", "two", "three"]
    assert account(corpus).skipped == {"trailing bytes": 1}
    with pytest.raises(DataError, match="bytes follow its end that are no part of it"):
        read(open_corpus(path))


@pytest.mark.parametrize("kind", PACK)
def test_a_member_that_is_cut_off_at_once_ends_in_a_part_of_a_line(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"a.txt.{kind}"
    path.write_bytes(PACK[kind](b"one\ntw") + PACK[kind](b"o\nthree\n")[:3])
    assert read(open_corpus(path, on_error="skip")) == ["one"]


def test_frames_to_be_skipped_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    note = struct.pack("<II", 0x184D2A50, 4) + b"note"
    path.write_bytes(note + PACK["zst"](b"one\ntw") + note + PACK["zst"](b"o\n") + note)
    assert read(open_corpus(path)) == ["one", "two"]


def test_the_largest_window_of_zstd(tmp_path: Path) -> None:
    packer = zstandard.ZstdCompressor().compressobj()  # without the size of the content
    frame = bytearray(packer.compress(b"one\ntwo\n") + packer.flush())
    assert not frame[4] & 0b1110_0000  # the header is a descriptor, then the window
    frame[5] = (31 - 10) << 3
    path = tmp_path / "a.txt.zst"
    path.write_bytes(bytes(frame))
    assert zstandard.get_frame_parameters(bytes(frame)).window_size == 1 << 31
    assert read(open_corpus(path)) == ["one", "two"]


@pytest.mark.parametrize("kind", PACK)
def test_pieces_are_small_however_much_a_file_unfolds_to(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.txt.{kind}"
    path.write_bytes(PACK[kind](b"a\n" * 30_000_000))
    sizes = [len(piece) for piece in unpacked(str(path))]
    assert sum(sizes) == 60_000_000
    assert max(sizes) <= 1 << 20


def test_what_is_no_packed_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(b"plain text\n")
    with pytest.raises(DamagedError):
        list(unpacked(str(path)))
    assert account(open_corpus(path, on_error="skip")).skipped == {"truncated file": 1}
