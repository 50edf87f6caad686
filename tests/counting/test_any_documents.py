"""Fuzzed files: no crash, no lost row, and the documents that the plain way gives."""

import json

import pytest
from corpus_helpers import account, read
from hypothesis import given, settings
from hypothesis import strategies as st
from outdim.corpus import open_corpus
from outdim.errors import DataError


@settings(max_examples=200)
@given(
    data=st.lists(
        st.sampled_from(
            [
                b"a",
                b"\xc3\xa9",
                b"\n",
                b"\n",
                b"\r\n",
                b"\r",
                b" ",
                b"\x00",
                b"\xff",
                b"\xef\xbb\xbf",
            ]
        ),
        max_size=40,
    ).map(b"".join),
    unit_bytes=st.integers(1, 50),
)
def test_any_bytes_as_txt(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, unit_bytes: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(data)
    expected, left_out = [], 0
    for i, line in enumerate(data.split(b"\n")):
        line = line.removesuffix(b"\r")
        if i == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            left_out += 1
            continue
        if line.strip(b" \t\n\v\f\r"):
            expected.append(text)
    if not data:
        with pytest.raises(DataError, match="nothing to read"):
            open_corpus(path)
        return
    corpus = open_corpus(path, on_error="skip", unit_bytes=unit_bytes)
    assert read(corpus) == expected
    found = account(corpus)
    assert found.skipped["invalid UTF-8"] == left_out
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    assert found.documents + found.skipped.total() == lines


@settings(max_examples=50)
@given(
    rows=st.lists(
        st.one_of(
            st.binary(max_size=12).filter(lambda row: b"\n" not in row),
            st.builds(lambda text: json.dumps({"text": text}).encode(), st.text(max_size=9)),
            st.sampled_from(
                [
                    b'{"text": "\\ud800"}',
                    b'{"text": null}',
                    b'{"text": 3}',
                    b"{}",
                    b"[]",
                    b"nan",
                    b"[" * 3000,
                ]
            ),
        ),
        min_size=1,
        max_size=12,
    ),
    unit_bytes=st.integers(9, 60),
)
def test_any_rows_as_jsonl(
    tmp_path_factory: pytest.TempPathFactory, rows: list[bytes], unit_bytes: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(b'{"text": "first"}\n' + b"\n".join(rows) + b"\n")
    corpus = open_corpus(path, on_error="skip", unit_bytes=unit_bytes)
    found = account(corpus)
    assert found.documents + found.skipped.total() == len(rows) + 1
    assert len(read(corpus)) == found.documents
    assert all(text.encode() for text in read(corpus))


@settings(max_examples=100)
@given(
    rows=st.lists(
        st.one_of(
            st.builds(
                lambda text, ascii_only: json.dumps(
                    {"a": [1, {}], "text": text}, ensure_ascii=ascii_only
                ),
                st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
                st.booleans(),
            ),
            st.sampled_from(
                [
                    *[
                        '{"text":"x"}{"text":"y"}',
                        '{"text":',
                        '"x"}',
                        '{"m":{}',
                        '{"text":"x"} ',
                        " ",
                        "",
                    ],
                    *[
                        '{"text":"x","text":"y"}',
                        '{"text":"a\tb"}',
                        '{"text":"x","n":NaN}',
                        "{}",
                        '{"m":{}}',
                    ],
                    *[
                        '{"text":"\\u0000"}',
                        '{"text":"x","n":1e999}',
                        '{"te\\u0078t":"x"}',
                        '{"text":null}',
                    ],
                    *[
                        '{"text":"\\ud83d\\ude00"}',
                        '{"text":"x",}',
                        "{'text':'x'}",
                        '{"text":"x"}}',
                    ],
                ]
            ),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_blocks_of_json_are_what_their_lines_are(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "block.jsonl"
    path.write_text("\n".join(['{"text":"first"}', *rows]), encoding="utf-8")
    corpus = open_corpus(path, on_error="skip")
    texts, found = read(corpus), account(corpus)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("outdim.corpus.formats.jsonl._strings", lambda lines, column, longest: None)
        assert read(corpus) == texts
        assert account(corpus) == found
