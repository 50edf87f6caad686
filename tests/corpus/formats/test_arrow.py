"""Arrow files and streams, whole and damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from corpus_helpers import account, read
from outdim.corpus import open_corpus
from outdim.errors import DataError

TEXTS = ["The first.", "größer", None, "", "第三 👍", "last"]
KINDS: dict[str, Callable[..., Any]] = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}


def write(path: Path, kind: str, columns: dict[str, Any], rows: int = 2, **options: Any) -> Path:
    table = pa.table(columns)
    with path.open("wb") as file, KINDS[kind](file, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


@pytest.mark.parametrize("kind", KINDS)
class TestBoth:
    def test_read_what_was_written(self, tmp_path: Path, kind: str) -> None:
        path = write(tmp_path / "a.arrow", kind, {"id": range(6), "text": TEXTS, "n": range(6)})
        for unit_bytes in (1, 400, 1 << 20):
            corpus = open_corpus(path, unit_bytes=unit_bytes)
            assert read(corpus) == [text for text in TEXTS if text]
            assert account(corpus).skipped == {"null": 1, "blank": 1}

    def test_packed_inside(self, tmp_path: Path, kind: str) -> None:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        path = write(tmp_path / "a.arrow", kind, {"text": TEXTS * 100}, options=options)
        assert len(read(open_corpus(path))) == 400

    def test_columns_of_other_kinds(self, tmp_path: Path, kind: str) -> None:
        columns = {
            "dictionary": pa.array(["x", "y", None, "x"]).dictionary_encode(),
            "chat": [[{"says": "Hi."}, {"says": "You!"}], [], None, [{"says": "é"}]],
            "meta": [{"text": "a"}, {"text": None}, None, {"text": "b"}],
            "nulls": pa.nulls(4),
            "number": [1, 2, 3, 4],
        }
        path = write(tmp_path / "a.arrow", kind, columns)
        assert read(open_corpus(path, column="dictionary")) == ["x", "y", "x"]
        assert read(open_corpus(path, column="chat.says")) == ["Hi.\nYou!", "é"]
        assert read(open_corpus(path, column="meta.text")) == ["a", "b"]
        assert account(open_corpus(path, column="nulls")).skipped == {"null": 4}
        with pytest.raises(DataError, match="expected strings, got int64"):
            open_corpus(path, column="number")
        with pytest.raises(DataError, match=r"a\.arrow: column: no 'text' here; there are: 'dic"):
            open_corpus(path)

    def test_invalid_utf8(self, tmp_path: Path, kind: str) -> None:
        data = pa.array([b"ok", b"\xff", None, b"fine"], pa.binary()).view(pa.string())
        path = write(tmp_path / "a.arrow", kind, {"text": data}, rows=4)
        with pytest.raises(DataError, match="batch 1: row 2: invalid UTF-8"):
            read(open_corpus(path))
        assert read(open_corpus(path, on_error="skip")) == ["ok", "fine"]

    def test_offsets_that_lead_outside(self, tmp_path: Path, kind: str) -> None:
        path = write(tmp_path / "a.arrow", kind, {"text": ["abcd", "efgh"] * 8}, rows=8)
        data = path.read_bytes()
        offsets = b"".join((4 * i).to_bytes(4, "little") for i in range(9))
        at = data.rindex(offsets)  # of the second batch
        path.write_bytes(data[: at + 4] + (1 << 30).to_bytes(4, "little") + data[at + 8 :])
        with pytest.raises(DataError, match="damaged or cut off after batch 1"):
            read(open_corpus(path))
        corpus = open_corpus(path, on_error="skip")
        assert read(corpus) == ["abcd", "efgh"] * 4
        assert account(corpus).skipped == {"truncated file": 1}


def test_units_of_a_file_are_ranges_of_batches_and_a_stream_is_one(tmp_path: Path) -> None:
    columns = {"text": [f"document {i}" for i in range(100)]}
    files = {kind: write(tmp_path / f"{kind}.arrow", kind, columns, rows=10) for kind in KINDS}
    assert len(open_corpus(files["file"], unit_bytes=1).units) == 10
    assert len(open_corpus(files["stream"], unit_bytes=1).units) == 1


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_stream_that_is_cut_off(tmp_path: Path, share: float) -> None:
    texts = [f"document {i}" for i in range(1000)]
    path = write(tmp_path / "a.arrow", "stream", {"text": texts}, rows=10)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="damaged or cut off after batch"):
        read(open_corpus(path))
    corpus = open_corpus(path, on_error="skip")
    found = read(corpus)
    assert found == texts[: len(found)]
    assert abs(len(found) / 1000 - share) < 0.05
    assert account(corpus).skipped == {"truncated file": 1}


def test_a_stream_that_ends_between_batches_without_its_end_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", "stream", {"text": ["one", "two"]})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="it ends before its end mark"):
        read(open_corpus(path))
    assert read(open_corpus(path, on_error="skip")) == ["one", "two"]


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", "file", {"text": TEXTS})
    path.write_bytes(path.read_bytes()[:-20])
    write(tmp_path / "b.arrow", "file", {"text": ["read"]})
    with pytest.raises(DataError, match=r"a\.arrow: not a readable Arrow file"):
        open_corpus(tmp_path)
    assert read(open_corpus(tmp_path, on_error="skip")) == ["read"]
