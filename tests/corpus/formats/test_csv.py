"""Tables as text: quotes, line ends within, broken records, and what a quote left open costs."""

import csv
import gzip
import io
from pathlib import Path

import pytest
from corpus_helpers import account, read
from hypothesis import given, settings
from hypothesis import strategies as st
from outdim.corpus import open_corpus
from outdim.errors import DataError

TEXTS = [
    "plain",
    'with "quotes"',
    "with, comma",
    "two\nlines",
    "größer 第三 👍",
    "CR LF\r\nkept",
    " ",
]


def table(rows: list[list[str]], delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue().encode()


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz"])
def test_reads_what_was_written(tmp_path: Path, ending: str) -> None:
    rows = [["id", "text"], *([str(i), text] for i, text in enumerate(TEXTS * 3))]
    data = table(rows, "\t" if ending == "tsv" else ",")
    path = tmp_path / f"a.{ending}"
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    corpus = open_corpus(path, unit_bytes=10)  # a file is one unit all the same
    assert read(corpus) == [text for text in TEXTS if text.strip()] * 3
    assert account(corpus).skipped == {"blank": 3}


@settings(max_examples=100)
@given(
    st.lists(
        st.text(st.sampled_from("a é\"\n\r,\t;'\\👍"), max_size=8).filter(
            lambda text: text.strip()
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_text(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(table([["text", "n"], *([text, "1"] for text in texts)]))
    assert read(open_corpus(path)) == texts


def test_byte_order_mark_blank_lines_and_no_line_end(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext,id\r\none,1\r\n\r\ntwo,2")
    assert read(open_corpus(path)) == ["one", "two"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("3", "broken line: expected 2 fields, got 1"),
        ("3,b,c", "broken line: expected 2 fields, got 3"),
        ('3,"b"c', "broken line: not valid CSV"),
        ("3,\udcff", "invalid UTF-8: the field is not UTF-8 text"),
        ("3," + "x" * 200, "too long: more than 100 bytes"),
        ('3,"' + "x\n" * 100 + '"', "too long: more than 100 bytes"),
        ('3,"never closed', "broken line: not valid CSV"),
    ],
)
def test_a_broken_record_is_named_or_skipped(tmp_path: Path, row: str, reason: str) -> None:
    path = tmp_path / "a.csv"
    lines = f'id,text\n1,"one\ntwo"\n{row}\n4,last\n5,"really, last"\n'
    path.write_bytes(lines.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as raised:
        read(open_corpus(path, max_document_bytes=100))
    assert f"a.csv: line 4: {reason}" in str(raised.value)
    corpus = open_corpus(path, max_document_bytes=100, on_error="skip")
    assert read(corpus) == ["one\ntwo", "last", "really, last"]
    assert f"a.csv: line 4: {reason}" in account(corpus).places[0]


def test_a_quote_that_stays_open_takes_its_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,text\n" + '1,"open\n' + "".join(f"{i},line {i}\n" for i in range(5000)))
    corpus = open_corpus(path, on_error="skip")
    assert read(corpus) == [f"line {i}" for i in range(5000)]
    assert account(corpus).skipped == {"broken line": 1}


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ("id,body", "column: no 'text' here; there are: 'id', 'body'"),
        ("text,text", "column: 2 are named 'text'"),
        ('"text', "not valid CSV"),
    ],
)
def test_names(tmp_path: Path, names: str, reason: str) -> None:
    (tmp_path / "a.csv").write_text(f"{names}\n1,a\n")
    (tmp_path / "b.csv").write_text("text\nread\n")
    with pytest.raises(DataError, match=reason):
        open_corpus(tmp_path)
    corpus = open_corpus(tmp_path, on_error="skip")
    assert read(corpus) == ["read"]
    assert corpus.unreadable.skipped.total() == 1
