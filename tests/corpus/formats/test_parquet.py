"""Parquet: columns of every kind, shards that differ from the others, and damage."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_helpers import account, read
from outdim.corpus import open_corpus
from outdim.corpus.formats import parquet
from outdim.errors import DataError


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


class TestShardsThatDiffer:
    @pytest.mark.parametrize(
        ("columns", "reason", "details"),
        [
            ({"caption": ["x", "y"]}, "no column", "no 'text' here; there are: 'caption'"),
            ({"text": [1, 2]}, "not a string", "column 'text': expected strings, got int64"),
            ({"text": [["x"], ["y"]]}, "not a string", "column 'text': expected strings, got list"),
        ],
    )
    def test_count_by_their_rows(
        self, tmp_path: Path, columns: dict[str, Any], reason: str, details: str
    ) -> None:
        write(tmp_path / "a.parquet", {"text": ["one", "two"]})
        write(tmp_path / "b.parquet", columns)
        with pytest.raises(DataError, match=r"b\.parquet: column") as raised:
            open_corpus(tmp_path)
        assert details in str(raised.value)
        corpus = open_corpus(tmp_path, on_error="skip")
        assert read(corpus) == ["one", "two"]
        assert corpus.unreadable.skipped == {reason: 2}
        with pytest.raises(DataError, match=rf"nothing to read \({{'{reason}': 2}}\)"):
            open_corpus(tmp_path / "b.parquet", on_error="skip")

    @pytest.mark.parametrize("on_error", ["fail", "skip"])
    def test_of_nulls_only_are_rows_without_text(self, tmp_path: Path, on_error: str) -> None:
        write(tmp_path / "a.parquet", {"text": ["one", None]})
        write(tmp_path / "b.parquet", {"text": pa.nulls(3)})
        corpus = open_corpus(tmp_path, on_error=on_error)
        assert read(corpus) == ["one"]
        assert account(corpus).skipped == {"null": 4}

    def test_with_the_column_twice(self, tmp_path: Path) -> None:
        table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(DataError, match=r"a\.parquet: column: 2 are named 'text'"):
            open_corpus(tmp_path)


class TestColumns:
    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
    def test_of_strings(self, tmp_path: Path, kind: pa.DataType) -> None:
        path = write(tmp_path / "a.parquet", {"text": pa.array(["é", None, "b"], kind)})
        assert read(open_corpus(path)) == ["é", "b"]

    @pytest.mark.parametrize("stored", [True, False])
    def test_of_dictionaries(self, tmp_path: Path, stored: bool) -> None:
        values = pa.array(["x", "y", None, "x"] * 500).dictionary_encode()
        path = write(tmp_path / "a.parquet", {"text": values}, store_schema=stored)
        assert read(open_corpus(path)) == ["x", "y", "x"] * 500
        assert account(open_corpus(path)).skipped == {"null": 500}

    def test_inside_others(self, tmp_path: Path) -> None:
        rows = [{"text": "one", "n": 1}, None, {"text": None, "n": 2}, {"text": "two", "n": 3}]
        chats = [[{"says": "Hi."}, {"says": None}, {"says": "You!"}], [], None, [{"says": "é"}]]
        path = write(tmp_path / "a.parquet", {"meta": rows, "chat": chats, "meta.n": list("abcd")})
        corpus = open_corpus(path, column="meta.text")
        assert read(corpus) == ["one", "two"]
        assert account(corpus).skipped == {"null": 2}
        corpus = open_corpus(path, column="chat.says")
        assert read(corpus) == ["Hi.\nYou!", "é"]
        assert account(corpus).skipped == {"null": 2}
        assert read(open_corpus(path, column="meta.n")) == ["a", "b", "c", "d"]
        for column, why in (("meta.body", "no 'meta.body' here"), ("meta", "got struct")):
            with pytest.raises(DataError, match=why):
                open_corpus(path, column=column)

    def test_rows_are_named_across_steps_and_row_groups(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parquet, "_STEP_ROWS", 3)
        monkeypatch.setattr(parquet, "_BLOCK_BYTES", 20)
        data = [b"fine"] * 50
        data[17] = data[49] = b"\xff"
        column = pa.array(data, pa.binary()).view(pa.string())
        path = write(tmp_path / "a.parquet", {"text": column}, row_group_size=10)
        corpus = open_corpus(path, on_error="skip", unit_bytes=1)
        assert len(corpus.units) == 5
        assert len(read(corpus)) == 48
        places = account(corpus).places
        assert ["row 18:" in places[0], "row 50:" in places[1]] == [True, True]


@pytest.mark.parametrize("dictionary", [True, False])
def test_rows_that_are_too_long(tmp_path: Path, dictionary: bool) -> None:
    texts = ["a", "x" * 300, None, "b", "x" * 300]
    path = write(tmp_path / "a.parquet", {"text": texts}, use_dictionary=dictionary)
    with pytest.raises(DataError, match="row 2: too long: more than 200 bytes"):
        read(open_corpus(path, max_document_bytes=200))
    corpus = open_corpus(path, max_document_bytes=200, on_error="skip")
    assert read(corpus) == ["a", "b"]
    assert account(corpus).skipped == {"too long": 2, "null": 1}


def test_a_row_group_whose_mean_is_too_long_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["x" * 5000]})
    monkeypatch.setattr(parquet, "_arrays", lambda *arguments: pytest.fail("unpacked"))
    corpus = open_corpus(path, max_document_bytes=2000, on_error="skip")
    assert account(corpus).skipped == {"too long": 1}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every array that was decoded."""
    sizes: list[int] = []
    real = parquet._arrays

    def arrays(*arguments: Any) -> Any:
        for array in real(*arguments):
            sizes.append(array.nbytes)
            yield array

    monkeypatch.setattr(parquet, "_arrays", arrays)
    return sizes


class TestFewValuesThatMakeMuchText:
    def test_stay_a_dictionary(self, tmp_path: Path, decoded: list[int]) -> None:
        path = write(tmp_path / "a.parquet", {"text": ["x" * 1_000_000] * 400})
        assert path.stat().st_size < 50_000
        assert account(open_corpus(path)).bytes == 400_000_000
        assert max(decoded) < 2_000_000

    def test_are_decoded_few_at_a_time_where_others_follow(
        self, tmp_path: Path, decoded: list[int]
    ) -> None:
        texts = ["x" * 1_000_000] * 300 + [f"{i}" + "y" * 100_000 for i in range(40)]
        path = write(tmp_path / "a.parquet", {"text": texts}, write_batch_size=50)
        assert account(open_corpus(path)).bytes == sum(map(len, texts))
        assert max(decoded) < 66 << 20

    @pytest.mark.parametrize("dictionary", [True, False])
    def test_in_lists(self, tmp_path: Path, decoded: list[int], dictionary: bool) -> None:
        says = ["x" * 50_000, None, "y", "z" * 7000]
        chats = [[{"says": says[(i + j) % 4], "by": "me"} for j in range(i % 7)] for i in range(99)]
        chats += [None, [], [None], [{"says": "x" * 50_000}] * 5000]
        path = write(tmp_path / "a.parquet", {"chat": chats}, use_dictionary=dictionary)
        expected = ["\n".join(s["says"] for s in c if s["says"]) for c in chats[:99]]
        corpus = open_corpus(path, column="chat.says", on_error="skip")
        assert read(corpus) == [text for text in expected if text]
        nulls = expected.count("") + 3
        assert account(corpus).skipped == {"null": nulls, "too long": 1}
        if dictionary:
            assert max(decoded) < 1_000_000


def test_other_columns_and_other_members_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = [[{"n": 1, "says": "Hi.", "tags": {"a": "b"}}], [{"n": 2, "says": "You!"}]]
    columns = {
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        "fixed": pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)),
        "empty": pa.array([None, None], pa.struct([("none", pa.struct([("x", pa.null())]))])),
        "chat": lists,
    }
    path = write(tmp_path / "a.parquet", columns)
    seen = []
    real = parquet._arrays

    def arrays(*arguments: Any) -> Any:
        for array in real(*arguments):
            seen.append(array.type)
            yield array

    monkeypatch.setattr(parquet, "_arrays", arrays)
    assert read(open_corpus(path, column="chat.says")) == ["Hi.", "You!"]
    assert [[field.name for field in kind.value_type] for kind in seen] == [["says"]]


def test_a_page_that_would_be_unpacked_whole_to_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_PAGE_BYTES", 50_000)
    texts = [f"{i}" + "x" * 990 for i in range(100)]
    path = write(tmp_path / "a.parquet", {"text": texts}, use_dictionary=False, row_group_size=70)
    limit = {"max_document_bytes": 2000}
    with pytest.raises(DataError, match=r"row 1: large page: row group 0 has a page that is unpa"):
        read(open_corpus(path, **limit))
    corpus = open_corpus(path, on_error="skip", **limit)
    assert read(corpus) == texts[70:]
    assert account(corpus).skipped == {"large page": 70}
    with pytest.raises(DataError, match=r"raise max_document_bytes to (\d+)") as raised:
        read(open_corpus(path, **limit))
    enough = int(str(raised.value).split("raise max_document_bytes to ")[1].split()[0])
    assert read(open_corpus(path, max_document_bytes=enough)) == texts
    with pytest.raises(DataError, match="large page"):
        read(open_corpus(path, max_document_bytes=enough - 1))


def test_a_damaged_file(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.parquet", {"text": ["one", "two"]})
    cut = tmp_path / "b.parquet"
    cut.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"b\.parquet: not a readable parquet file"):
        open_corpus([whole, cut])
    corpus = open_corpus([whole, cut], on_error="skip")
    assert read(corpus) == ["one", "two"]
    assert corpus.unreadable.skipped == {"unreadable file": 1}


def test_a_damaged_row_group(tmp_path: Path) -> None:
    texts = [f"{i} " + "abcdefgh" * 40 for i in range(8)]
    path = tmp_path / "a.parquet"
    write(path, {"text": texts}, row_group_size=4, compression="gzip")
    data = bytearray(path.read_bytes())
    data[30:60] = b"\x00" * 30
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="row 1: unreadable row group"):
        read(open_corpus(path))
    corpus = open_corpus(path, on_error="skip")
    assert read(corpus) == texts[4:]
    assert account(corpus).skipped == {"unreadable row group": 4}


def test_invalid_utf8(tmp_path: Path) -> None:
    data = pa.array([b"ok", b"\xff", None, b"fine"], pa.binary()).view(pa.string())
    path = write(tmp_path / "a.parquet", {"text": data})
    with pytest.raises(DataError, match="row 2: invalid UTF-8"):
        read(open_corpus(path))
    corpus = open_corpus(path, on_error="skip")
    assert read(corpus) == ["ok", "fine"]
    assert account(corpus).skipped == {"invalid UTF-8": 1, "null": 1}
