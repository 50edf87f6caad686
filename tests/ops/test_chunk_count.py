"""ops.chunk_count: distinct chunks and their counts against a plain split of the text."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.oracles import needs_core
from outdim.errors import ArgumentError, BackendError, DtypeError
from outdim.ops import chunk_count
from outdim.ops.chunk_count import ChunkCounter, ChunkRule, ChunkTexts

pytestmark = needs_core

OTHER, SPACE, LETTER, DIGIT, GUARD = range(5)
CLASSES = (
    tuple(
        SPACE
        if chr(b) == " "
        else LETTER
        if chr(b).isalpha()
        else DIGIT
        if chr(b).isdigit()
        else OTHER
        for b in range(128)
    )
    + (OTHER,) * 128
)
CUT = [0] * 16
CUT[LETTER], CUT[DIGIT] = 1 << DIGIT, 1 << LETTER
SPLIT = ChunkRule(byte_class=CLASSES, cut=tuple(CUT), drop=1 << SPACE)
ALONE = ["", "", "", ""]  # separators

DOCUMENTS = [
    "",
    " ",
    "one",
    "two words",
    "a1b22 cc3  a1",
    "x" * 17 + " " + "y" * 5000,
    "naïve café, 12:30",
]


def plain(documents):
    """Chunks of ASCII text as `SPLIT` has them: between spaces, cut between letters and digits."""
    edge = r"(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])"
    return [
        [c for word in text.split(" ") if word for c in re.split(edge, word)] for text in documents
    ]


def texts_of(documents):
    encoded = [text.encode() for text in documents]
    ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
    starts = ends - np.array([len(one) for one in encoded], np.int64)
    return ChunkTexts(np.frombuffer(b"".join(encoded), np.uint8), starts, ends)


def count(documents, threads=2, memory_bytes=1 << 24, counter=None):
    """Counts by chunk; what each chunk's one id is."""
    counter = counter or ChunkCounter(SPLIT, threads, memory_bytes)
    total, texts = Counter(), texts_of(documents)
    folds = 0
    while True:
        whole = counter.add(texts)
        names = learn(counter)
        counts = np.zeros(len(names), np.int64)
        assert counter.fold(counts) == counts.sum()
        total.update(dict(zip(names, counts.tolist(), strict=True)))
        if whole:
            return total, folds
        counter.clear()
        folds += 1


def learn(counter):
    """Give chunk i the id i; the chunks."""
    data, starts, of_joint = counter.fresh(ALONE, LETTER)
    assert sum(of_joint) == len(starts) - 1
    n = len(starts) - 1
    counter.learn(np.arange(n, dtype=np.int32), np.arange(n + 1))
    return [data[starts[i] : starts[i + 1]].decode() for i in range(n)]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_chunks_are_those_of_a_plain_split(threads):
    found, _ = count(DOCUMENTS * 40, threads)
    assert found == Counter(chunk for row in plain(DOCUMENTS * 40) for chunk in row)


@settings(max_examples=60)
@given(st.lists(st.text("ab1 2~é", max_size=60), max_size=12))
def test_any_text(documents):
    found, _ = count(documents)
    assert found == Counter(chunk for row in plain(documents) for chunk in row)


def test_a_full_memory_stops_and_goes_on_where_it_was():
    documents = [f"w{i} x{i % 7} {i * i}" for i in range(60_000)]
    found, folds = count(documents, memory_bytes=1 << 20)
    assert folds > 0
    assert found == Counter(chunk for row in plain(documents) for chunk in row)


def test_ids_are_kept_and_counts_are_not():
    counter = ChunkCounter(SPLIT, 1, 1 << 24)
    counter.add(texts_of(["a b a"]))
    assert len(counter) == 2
    names = learn(counter)
    first, second = np.zeros(2, np.int64), np.zeros(2, np.int64)
    assert counter.fold(first) == 3
    counter.add(texts_of(["a"]))
    assert learn(counter) == []  # known already
    assert counter.fold(second) == 1
    assert first[names.index("a")], second[names.index("a")] == (2, 1)
    assert counter.memory_bytes > 0
    counter.clear()
    assert len(counter) == 0


def test_chunks_with_several_ids_and_with_none():
    counter = ChunkCounter(SPLIT, 1, 1 << 24)
    counter.add(texts_of(["aaa b aaa cc"]))
    _, starts, _ = counter.fresh(ALONE, LETTER)
    ids = [[0] * (starts[i + 1] - starts[i] - 1) for i in range(3)]  # one fewer than letters
    counter.learn(
        np.array([i for row in ids for i in row], np.int32),
        np.concatenate([[0], np.cumsum([len(row) for row in ids])]),
    )
    counts = np.zeros(1, np.int64)
    assert counter.fold(counts) == 4
    assert counts.tolist() == [2 * 2 + 0 + 1]


def test_documents_in_which_an_id_occurs():
    documents = [*DOCUMENTS, "one one", "two"]
    counter = ChunkCounter(SPLIT, 3, 1 << 24)
    assert counter.add(texts_of(documents))
    names = learn(counter)
    found = np.zeros(len(names), np.int64)
    counter.count_documents(texts_of(documents), found)
    wanted = Counter(chunk for row in plain(documents) for chunk in set(row))
    assert dict(zip(names, found.tolist(), strict=True)) == wanted


def test_separators_stand_behind_the_chunks_of_their_joint():
    rule = ChunkRule(byte_class=CLASSES, drop=1 << SPACE, word=1 << LETTER)
    counter = ChunkCounter(rule, 1, 1 << 24)
    counter.add(texts_of(["word 12 ~ other"]))
    data, starts, of_joint = counter.fresh(["+", "|", "/", ""], DIGIT)
    chunks = [data[starts[i] : starts[i + 1]] for i in range(len(starts) - 1)]
    assert of_joint[0] == 2
    assert set(chunks[:2]) == {b"word+", b"other+"}
    assert set(chunks) == {b"word+", b"other+", b"12|", b"~|"}


class TestRefusals:
    """Nothing is written where a pointer would go astray."""

    def test_texts(self):
        data, two = np.zeros(4, np.uint8), np.array([0, 2])
        with pytest.raises(DtypeError, match="data: expected an array of uint8, got int64"):
            ChunkTexts(two, two, two)
        with pytest.raises(DtypeError, match="starts: expected an array of int64, got list"):
            ChunkTexts(data, [0], two)
        with pytest.raises(ArgumentError, match="ends: expected 2 like starts, got 1"):
            ChunkTexts(data, two, two[:1])
        for starts, ends in (([0], [5]), ([-1], [2]), ([3], [2])):
            with pytest.raises(ArgumentError, match="0 <= start <= end <= 4"):
                ChunkTexts(data, np.array(starts), np.array(ends))

    def test_starts_of_the_caller_stay(self):
        starts = np.array([0])
        texts = ChunkTexts(np.frombuffer(b"abc", np.uint8), starts, np.array([3]))
        ChunkCounter(SPLIT, 1, 1 << 24).add(texts)
        assert starts.tolist() == [0]
        assert texts.starts.tolist() == [3]

    def test_rules(self):
        with pytest.raises(ArgumentError, match="byte_class: expected 256 numbers below 16"):
            ChunkRule(byte_class=(16,) * 256)
        with pytest.raises(ArgumentError, match="cut: expected 16 numbers"):
            ChunkRule(byte_class=CLASSES, cut=(0,))
        with pytest.raises(ArgumentError, match="threads: expected at least 1, got 0"):
            ChunkCounter(SPLIT, 0, 1 << 20)

    def test_ids(self):
        counter = ChunkCounter(SPLIT, 1, 1 << 24)
        counter.add(texts_of(["a b"]))
        with pytest.raises(ArgumentError, match="separators: expected 4, got 1"):
            counter.fresh([""], LETTER)
        counter.fresh(ALONE, LETTER)
        three = np.arange(3)
        with pytest.raises(DtypeError, match="ids: expected an array of int32"):
            counter.learn(three, three)
        with pytest.raises(ArgumentError, match="offsets: expected 3, one more than chunks"):
            counter.learn(np.zeros(1, np.int32), np.arange(2))
        for offsets in ([0, 2, 3], [1, 1, 2], [0, 3, 2]):
            with pytest.raises(ArgumentError, match="offsets: expected to go from 0 up to 2"):
                counter.learn(np.zeros(2, np.int32), np.array(offsets))
        with pytest.raises(ArgumentError, match="ids: expected 0 or more, got -1"):
            counter.learn(np.array([0, -1], np.int32), three)
        counter.learn(np.array([0, 7], np.int32), three)
        for method, arguments in (
            (counter.fold, ()),
            (counter.count_documents, (texts_of(["a"]),)),
        ):
            with pytest.raises(ArgumentError, match="expected at least 8, one for every id"):
                method(*arguments, np.zeros(7, np.int64))
            with pytest.raises(ArgumentError, match="contiguous array that can be written"):
                method(*arguments, np.zeros(16, np.int64)[::2])
        assert counter.fold(np.zeros(8, np.int64)) == 2  # nothing was lost

    def test_chunks_without_ids(self):
        counter = ChunkCounter(SPLIT, 1, 1 << 24)
        counter.add(texts_of(["a b"]))
        with pytest.raises(RuntimeError, match="a chunk has no ids yet"):
            counter.fold(np.zeros(9, np.int64))

    def test_without_the_compiled_module(self, monkeypatch):
        monkeypatch.setattr(chunk_count, "core", lambda: None)
        with pytest.raises(BackendError, match=r"needs the compiled module.*method=\"encode\""):
            ChunkCounter(SPLIT, 1, 1 << 20)
