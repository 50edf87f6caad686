"""Reading corpora: every row is a document, an error with its place, or accounted for."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from corpus_helpers import account, read
from outdim.analysis.in_memory import items_of
from outdim.corpus import Accounting, GivenTexts, Unit, corpus_of, open_corpus
from outdim.corpus.formats import hub_dataset as streams_module
from outdim.errors import ArgumentError, DataError

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
TEXTS = ["The first.", "zweitens: größer", "第三 \u0301 👍", "  spaces kept  ", "last\ttab"]


def write(path: Path, texts: list[Any], column: str = "text") -> Path:
    packing = "." + path.name.rsplit(".", 1)[-1]
    pack = PACK.get(packing, PACK[""])
    kind = path.name.split(".")[1]
    if kind == "txt":
        path.write_bytes(pack("".join(f"{text}\n" for text in texts).encode()))
    elif kind == "jsonl":
        rows = (json.dumps({"id": i, column: text}) for i, text in enumerate(texts))
        path.write_bytes(pack("".join(f"{row}\n" for row in rows).encode()))
    else:
        sink = pa.BufferOutputStream()
        table = pa.table({"id": range(len(texts)), column: pa.array(texts, pa.string())})
        pq.write_table(table, sink, row_group_size=2)
        path.write_bytes(pack(sink.getvalue().to_pybytes()))
    return path


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
class TestKinds:
    def test_reads_what_was_written(self, tmp_path: Path, kind: str, packing: str) -> None:
        path = write(tmp_path / f"a.{kind}{packing}", TEXTS)
        assert read(open_corpus(path)) == TEXTS

    def test_any_cut_into_units_gives_the_same(
        self, tmp_path: Path, kind: str, packing: str
    ) -> None:
        path = write(tmp_path / f"a.{kind}{packing}", TEXTS * 3)
        for unit_bytes in (1, 7, 40, 1000):
            assert read(open_corpus(path, unit_bytes=unit_bytes)) == TEXTS * 3

    def test_blank_and_short_documents_are_accounted_for(
        self, tmp_path: Path, kind: str, packing: str
    ) -> None:
        path = write(tmp_path / f"a.{kind}{packing}", ["", " \t", "αβγ", "four", "fünf!"])
        corpus = open_corpus(path, min_chars=4)
        assert read(corpus) == ["four", "fünf!"]
        found = account(corpus)
        assert found.skipped == {"blank": 2, "short": 1}
        assert (found.documents, found.characters, found.bytes) == (2, 9, 10)

    def test_units_are_plain_data_in_fixed_order(
        self, tmp_path: Path, kind: str, packing: str
    ) -> None:
        path = write(tmp_path / f"a.{kind}{packing}", TEXTS)
        first, again = open_corpus(path, unit_bytes=9), open_corpus(path, unit_bytes=9)
        assert first.units == again.units
        assert [unit.index for unit in first.units] == list(range(len(first.units)))
        stored = json.loads(json.dumps([unit.as_dict() for unit in first.units]))
        assert tuple(Unit(**fields) for fields in stored) == first.units


class TestErrors:
    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            (b'{"text": "ok"', "broken line: not valid JSON"),
            (b'{"txt": "ok"}', "no column: no 'text' here; there are: 'txt'"),
            (b'["text"]', "broken line: expected a JSON object, got a list"),
            (b'{"text": 3}', "not a string: 'text' is a int"),
            (b'{"text": "\\udc00x"}', "lone surrogate"),
            (b'{"text": "\xff"}', "invalid UTF-8"),
        ],
    )
    @pytest.mark.parametrize("unit_bytes", [10, 1000])
    def test_a_broken_row_is_named_or_skipped(
        self, tmp_path: Path, row: bytes, reason: str, unit_bytes: int
    ) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"text": "x"}\n' * 2 + b"\n" + row + b'\n{"text": "y"}\n')
        with pytest.raises(DataError) as raised:
            read(open_corpus(path, unit_bytes=unit_bytes))
        assert f"a.jsonl: line 4: {reason}" in str(raised.value)
        assert "on_error='skip'" in str(raised.value)
        corpus = open_corpus(path, on_error="skip", unit_bytes=unit_bytes)
        assert read(corpus) == ["x", "x", "y"]
        found = account(corpus)
        assert found.skipped == {reason.split(":")[0]: 1, "blank": 1}
        # To number a line takes reading all that precede its unit: done only for an error.
        where = "byte 29" if unit_bytes == 10 else "line 4"
        assert f"a.jsonl: {where}: {reason}" in found.places[0]

    def test_unknown_columns_list_those_there_are(self, tmp_path: Path) -> None:
        for name in ("a.parquet", "a.jsonl", "a.jsonl.gz"):
            path = write(tmp_path / name, TEXTS, column="content")
            with pytest.raises(DataError, match="no 'text' here; there are: 'id', 'content'"):
                open_corpus(path)
            assert read(open_corpus(path, column="content")) == TEXTS

    def test_a_column_of_another_type(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", TEXTS)
        with pytest.raises(DataError, match="column 'id': expected strings, got int64"):
            open_corpus(path, column="id")

    def test_missing_files_and_unknown_kinds(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such file"):
            open_corpus(tmp_path / "missing.txt")
        with pytest.raises(DataError, match="no such file"):
            open_corpus(str(tmp_path / "*.parquet"))
        (tmp_path / "a.md").write_text("x")
        with pytest.raises(DataError, match=r"a\.md: expected \.txt, \.jsonl, \.parquet, \.arrow"):
            open_corpus(tmp_path / "a.md")

    def test_empty_files(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("")
        with pytest.raises(DataError, match="nothing to read"):
            open_corpus(tmp_path / "a.txt")

    def test_arguments(self) -> None:
        with pytest.raises(
            ArgumentError, match="on_error: expected 'fail' or 'skip', got 'ignore'"
        ):
            open_corpus("python-docs", on_error="ignore")
        with pytest.raises(ArgumentError, match="unit_bytes"):
            open_corpus("python-docs", unit_bytes=0)


ODD: list[Any] = [{"text": ["a"]}, b"text", bytearray(b"text"), {"a", "b"}, None, 3, 2.5]


class TestOtherThings:
    """What holds no documents in an order is refused, not read letter by letter or key by key."""

    @pytest.mark.parametrize("given", ODD, ids=lambda given: type(given).__name__)
    def test_in_the_place_of_documents(self, given: Any) -> None:
        got = f"got {type(given).__name__}"
        with pytest.raises(ArgumentError, match=f"texts: expected a list of documents; a.*{got}"):
            corpus_of(given)
        with pytest.raises(ArgumentError, match=f"texts: expected a list of documents, .*{got}"):
            GivenTexts(given)
        with pytest.raises(ArgumentError, match=f"source: expected a path, glob or .*{got}"):
            open_corpus(given)
        with pytest.raises(ArgumentError, match=f"texts: expected labelled files .*{got}"):
            items_of("sst2", given, None)

    @pytest.mark.parametrize("given", [[{"text": "a"}], [b"a"], [["a"]], ["a", None], [3]])
    def test_among_documents_or_paths(self, given: Any) -> None:
        got = f"got {type(given[-1]).__name__}"
        with pytest.raises(ArgumentError, match=f"texts: expected strings, {got}"):
            corpus_of(given)
        with pytest.raises(ArgumentError, match=f"source: expected .*{got} among them"):
            open_corpus(given)

    @pytest.mark.parametrize("given", ["One document.", "two\nlines", "nul \0"])
    def test_a_document_in_the_place_of_a_path(self, given: str) -> None:
        with pytest.raises(ArgumentError, match=r"names no file, '.*'; of one document pass a"):
            corpus_of(given)

    def test_what_gives_documents_in_order_is_taken(self) -> None:
        for given in (("a", "b"), iter("ab"), np.array(["a", "b"])):
            corpus = corpus_of(given)
            assert list(corpus.read(corpus.units[0], Accounting())) == ["a", "b"]


class TestSources:
    def test_globs_directories_and_lists_in_sorted_order_each_file_once(
        self, tmp_path: Path
    ) -> None:
        for name in ("b.txt", "a.txt", "sub.jsonl"):
            write(tmp_path / name, [name])
        (tmp_path / "notes.md").write_text("not text")
        glob = str(tmp_path / "*.txt")
        assert read(open_corpus(glob)) == ["a.txt", "b.txt"]
        assert read(open_corpus(tmp_path)) == ["a.txt", "b.txt", "sub.jsonl"]
        assert read(open_corpus([tmp_path / "b.txt", glob])) == ["b.txt", "a.txt"]

    def test_files_are_described(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(b"abc\n")
        (described,) = open_corpus(path).files()
        assert described == {
            "path": str(path),
            "size_bytes": 4,
            "mtime_ns": path.stat().st_mtime_ns,
            "ctime_ns": path.stat().st_ctime_ns,
            "sha256": "edeaaff3f1774ad2888673770c6d64097e391bc362d7d6fb34982ddf0efd18cb",
        }

    def test_a_known_file_is_hashed_again_only_if_size_or_time_changed(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(b"abc\n")
        (real,) = open_corpus(path).files()
        known = {**real, "sha256": "as noted"}
        assert open_corpus(path).files([known]) == [known]
        os.utime(path, ns=(0, 0))
        times = {"mtime_ns": 0, "ctime_ns": path.stat().st_ctime_ns}
        assert open_corpus(path).files([known]) == [{**real, **times}]
        kept = path.stat()
        path.write_bytes(b"abd\n")  # as `cp -p` of another file does: size and mtime are the same
        os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
        (changed,) = open_corpus(path).files([{**real, **times}])
        assert changed["sha256"] != real["sha256"]

    def test_python_docs(self) -> None:
        corpus = open_corpus("python-docs", unit_bytes=1 << 19)
        texts = read(corpus)
        assert len(corpus.units) > 3
        assert 1_500_000 < sum(map(len, texts)) < 4_000_000
        assert any(text.startswith("JSON (JavaScript Object Notation)") for text in texts)
        assert texts == read(open_corpus("python-docs"))

    def test_crlf_and_byte_order_mark(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\n\xef\xbb\xbfthree\rx")
        assert read(open_corpus(path)) == ["one", "two", "\ufeffthree\rx"]

    def test_members_of_packed_files_follow_each_other(self, tmp_path: Path) -> None:
        for name, pack in (("a.txt.gz", PACK[".gz"]), ("a.txt.zst", PACK[".zst"])):
            (tmp_path / name).write_bytes(pack(b"one\ntw") + pack(b"o\n") + pack(b"three"))
            assert read(open_corpus(tmp_path / name)) == ["one", "two", "three"]
        (tmp_path / "b.txt.gz").write_bytes(PACK[".gz"](b"one\n") + b"\0" * 512)
        assert read(open_corpus(tmp_path / "b.txt.gz")) == ["one"]

    def test_hugging_face_datasets_are_streamed_by_shards(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        datasets = pytest.importorskip("datasets")
        rows = {"text": [*TEXTS, None], "other": range(6)}
        stream = datasets.Dataset.from_dict(rows).to_iterable_dataset(num_shards=3)
        monkeypatch.setattr(streams_module, "resolve_revision", lambda source: "abc123")
        monkeypatch.setattr(streams_module, "open_stream", lambda *arguments: stream)
        corpus = open_corpus("someone/corpus")
        assert [unit.path for unit in corpus.units] == ["hf://datasets/someone/corpus@abc123"] * 3
        assert read(corpus) == TEXTS
        assert account(corpus).skipped == {"null": 1}
        with pytest.raises(DataError, match="no 'body' here; there are: 'text', 'other'"):
            open_corpus("someone/corpus", column="body")

    def test_an_unreachable_dataset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hub = pytest.importorskip("huggingface_hub")

        def fail(*_: object, **__: object) -> None:
            raise ConnectionError("offline")

        monkeypatch.setattr(hub.HfApi, "dataset_info", fail)
        with pytest.raises(DataError, match="'no/such' is no local file"):
            open_corpus("no/such")


def test_accounting_adds_and_survives_json() -> None:
    first = Accounting(1, 2, 3, 4, 5)
    first.skip("blank", rows=2)
    first.skip("broken line", "a: line 1")
    both = first + first
    assert (both.documents, both.special, both.skipped["blank"]) == (2, 10, 4)
    assert Accounting.from_dict(json.loads(json.dumps(both.as_dict()))) == both
