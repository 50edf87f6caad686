"""JSON lines: one grammar whatever stands beside, keys inside objects, rows without the key."""

import json
from pathlib import Path

import pytest
from corpus_helpers import account, read
from hypothesis import given, settings
from hypothesis import strategies as st
from outdim.corpus import Accounting, open_corpus
from outdim.corpus.formats import jsonl
from outdim.corpus.rows import RowError
from outdim.corpus.texts import Texts
from outdim.errors import DataError

GOOD = '{"text": "good"}'
# Each is read by only one of the two readers, or by both in another way.
ODD = {
    "Inf": ('{"text": "odd", "x": Inf}', "odd"),
    "-Inf": ('{"text": "odd", "x": [-Inf, 1]}', "odd"),
    "-NaN": ('{"text": "odd", "x": -NaN}', "odd"),
    "Infinity": ('{"text": "odd", "x": -Infinity}', "odd"),
    "1e999": ('{"text": "odd", "x": 1e999}', "odd"),
    "long integer": ('{"text": "odd", "x": ' + "1" * 5000 + "}", "odd"),
    "deep": ('{"text": "odd", "x": ' + "[" * 5000 + "]" * 5000 + "}", "odd"),
    "as deep as Python": ('{"text": "odd", "x": ' + "[" * 900 + "]" * 900 + "}", "odd"),
    "twice": ('{"text": "first", "text": "odd"}', "odd"),
    "surrogate elsewhere": ('{"text": "odd", "x": "\\ud800"}', "odd"),
    "lower nan": ('{"text": "odd", "x": nan}', None),
    "plus": ('{"text": "odd", "x": +1}', None),
    "two objects": ('{"text": "odd"}{"text": "odd"}', None),
    "comma": ('{"text": "odd",}', None),
    "Inf in a string, and broken": ('{"text": "Inf NaN", "x": }', None),
    "surrogate": ('{"text": "\\ud800"}', None),
}
BESIDE = ['{"text": null}', "", " ", "broken", '{"other": 1}', '{"text": 3}', ' {"text": "good"}']


def texts(path: Path, lines: list[str], unit_bytes: int = 1 << 20) -> list[str]:
    path.write_text("\n".join(lines), encoding="utf-8")
    return read(open_corpus(path, on_error="skip", unit_bytes=unit_bytes))


@pytest.mark.parametrize("odd", ODD)
def test_a_line_does_not_depend_on_its_neighbours(tmp_path: Path, odd: str) -> None:
    line, expected = ODD[odd]
    found = [] if expected is None else [expected]
    path = tmp_path / "a.jsonl"
    assert texts(path, [GOOD, line, GOOD]) == ["good", *found, "good"]
    for beside in [*BESIDE, *(other for other, _ in ODD.values())]:
        assert texts(path, [GOOD, beside]) + found == texts(path, [GOOD, beside, line])
    for unit_bytes in (1, 30, 100):
        assert texts(path, [GOOD, line, GOOD], unit_bytes) == ["good", *found, "good"]


def alone(line: bytes, column: str = "text") -> str | None:
    try:
        return jsonl._document(line, column, 1 << 20)
    except RowError:
        return None


@settings(max_examples=300)
@given(st.data())
def test_what_arrow_reads_in_a_block_is_read_alone(data: st.DataObject) -> None:
    seeds = [
        '{"text":"ab\\u00e9\\n","n":-1.5e+10,"a":[1,{"b":null}],"t":true,"d":{"x":{}}}',
        '{"n":Inf,"text":"x"}',
        '{"n":-Infinity,"text":"x"}',
        '{"n":NaN,"text":"\\ud83d\\ude00"}',
    ]
    line = data.draw(st.sampled_from(seeds))
    characters = st.sampled_from([*'{}[]:,"\\ \t-+.eE01ftnuIN/', "Inf", "NaN", "null", "é", "\0"])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(1, len(line) - 1))
        line = line[:at] + data.draw(characters) + line[at + data.draw(st.integers(0, 1)) :]
    block = jsonl._strings(Texts.of([line]), "text", 1 << 20)
    if block is not None and not block.null_count:
        assert alone(line.encode()) == block[0].as_py()


class TestInside:
    ROWS = (
        {"meta": {"text": "one", "n": 1}, "id": 1},
        {"meta": {"text": "two"}},
    )

    @pytest.mark.parametrize("beside", [[], [{"meta": None}], [{"meta": {"text": None}}]])
    def test_objects(self, tmp_path: Path, beside: list[dict[str, object]]) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join(map(json.dumps, [*self.ROWS, *beside])))
        corpus = open_corpus(path, column="meta.text")
        assert read(corpus) == ["one", "two"]
        assert account(corpus).skipped == ({"null": 1} if beside else {})

    def test_a_key_with_a_dot_comes_before_the_path(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        rows = [{"meta.text": "key"}, {"meta.text": "key", "meta": {"text": "no"}}, *self.ROWS]
        path.write_text("\n".join(map(json.dumps, rows)))
        assert read(open_corpus(path, column="meta.text")) == ["key", "key", "one", "two"]
        path.write_text("\n".join(map(json.dumps, [*rows, {"meta": None}])))
        assert read(open_corpus(path, column="meta.text")) == ["key", "key", "one", "two"]

    def test_messages_of_a_chat_are_one_document(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        chat = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}]
        path.write_text("\n".join(map(json.dumps, [{"messages": chat}, {"messages": []}])))
        corpus = open_corpus(path, column="messages.content")
        assert read(corpus) == ["Hi.\nHello!"]
        assert account(corpus).skipped == {"null": 1}
        with pytest.raises(
            DataError, match=r"in it there are: 'messages.role', 'messages.content'"
        ):
            read(open_corpus(path, column="messages"))


class TestRowsWithoutTheKey:
    def test_the_first_counts_like_any_other(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text('{"_meta": 1}\n{"text": "one"}\n{"_meta": 2}\n{"text": "two"}\n')
        with pytest.raises(DataError, match=r"column: no 'text' here; there are: '_meta'"):
            open_corpus(path)
        corpus = open_corpus(path, on_error="skip")
        assert read(corpus) == ["one", "two"]
        assert account(corpus).skipped == {"no column": 2}

    def test_one_file_of_many(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
        (tmp_path / "b.jsonl").write_text('{"caption": "x"}\n{"caption": "y"}\n')
        corpus = open_corpus(tmp_path, on_error="skip")
        assert read(corpus) == ["one"]
        assert account(corpus).skipped == {"no column": 2}


@pytest.mark.parametrize("unit_bytes", [1, 100, 1 << 20])
def test_rows_that_are_too_long(tmp_path: Path, unit_bytes: int) -> None:
    path = tmp_path / "a.jsonl"
    long = json.dumps({"text": "x" * 300})
    path.write_text("\n".join([GOOD, long, GOOD, long]))
    with pytest.raises(DataError, match="line 2: too long: more than 200 bytes"):
        read(open_corpus(path, max_document_bytes=200))
    corpus = open_corpus(path, max_document_bytes=200, on_error="skip", unit_bytes=unit_bytes)
    assert read(corpus) == ["good", "good"]
    assert account(corpus).skipped == {"too long": 2}


def test_large_lines_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "größer"}\n{"text": null}\n{"text": "ende"}\n{"text": }\n')
    expected = read(open_corpus(path, on_error="skip"))
    counted = account(open_corpus(path, on_error="skip"))
    monkeypatch.setattr(jsonl, "_FOR_ARROW_ONLY", 4)
    assert read(open_corpus(path, on_error="skip")) == expected == ["größer", "ende"]
    again = account(open_corpus(path, on_error="skip"))
    assert again.skipped == counted.skipped == {"null": 1, "broken line": 1}


def test_a_place_is_asked_for_only_while_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To number lines takes reading the file again: once a bad line that is the square of its size.
    monkeypatch.setattr("outdim.corpus.lines._lines_before", lambda unit: pytest.fail("read again"))
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([GOOD, "broken"] * 1000))
    corpus = open_corpus(path, on_error="skip", unit_bytes=5000)
    total = Accounting()
    for unit in corpus.units[1:]:
        list(corpus.read(unit, total))
    assert total.skipped["broken line"] > 500
    assert len(total.places) == 20
    start = int(total.places[0].split("byte ")[1].split(":")[0])
    assert path.read_bytes()[start:].startswith(b"broken\n")
