"""Counting by chunks: each distinct chunk is tokenized once, by the model's own tokenizer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outdim.corpus.texts import Texts
from outdim.ops.chunk_count import ChunkCounter, ChunkTexts
from outdim.tokens.chunk_rule import DIGIT, Rule
from outdim.tokens.encode import EncodingError, encode_batch

_SEPARATORS = ("\u2021", "\u00b6", "\u00a7", "~", "|", "#", ".", ",", "a")  # rare ones first
_DIGITS = "7193"
_JOINED = 512  # chunks in one text: tokenizing them one by one takes three times as long
_TEXTS = 64  # texts in one call of the tokenizer
_DOCUMENT_BYTES = 1 << 20

Ids = NDArray[np.int64]
_Way = NDArray[np.bool_] | int | None
"""How joined chunks are told apart: ids that begin a word, a separator's id; None: not joined."""


class ChunkTable:
    """Distinct chunks with their counts and token ids, see `outdim.ops.chunk_count`.

    Chunks and ids are kept from unit to unit until the memory is used; then counts are folded into
    token counts and everything is forgotten.

    Args:
        inner: The ``tokenizers.Tokenizer``.
        rule: By which text is cut.
        vocab_size: V.
        memory_bytes: Bound of the table.
        threads: That count.
    """

    def __init__(self, inner: Any, rule: Rule, vocab_size: int, memory_bytes: int, threads: int):
        self._counter = ChunkCounter(rule.of_bytes(), threads, memory_bytes)
        self._inner = inner
        self._bare = bool(rule.words and rule.words.bare)
        self._lower = bool(rule.words and rule.words.lower and self._bare)
        self._of_words = _bare(self._inner) if self._bare else self._inner
        self._word_starts = _word_starts(self._inner, rule, vocab_size)
        self._skip = int(rule.prepends)  # leading spaces that are not given to the tokenizer
        after = " " if rule.dropped else ""
        self._space = self._separator([f" {mark}{after}" for mark in _SEPARATORS])
        fine = any(DIGIT in pair for pair in rule.cuts)
        self._digit = self._separator(list(_DIGITS) if fine else [])

    @property
    def distinct(self) -> int:
        """Distinct chunks at hand."""
        return len(self._counter)

    @property
    def memory_bytes(self) -> int:
        """Bytes that chunks, counts and ids take."""
        return self._counter.memory_bytes

    def add(self, block: Texts, counts: Ids) -> bool:
        """Count the chunks of a block; False when memory ran full and some went to ``counts``."""
        kept = True
        texts = _texts(block)
        while not self._counter.add(texts):
            self.fold(counts)
            self._counter.clear()
            kept = False
        return kept

    def add_documents(self, block: Texts, counts: Ids, documents: Ids) -> Iterator[Texts]:
        """Count chunks, and documents by id; yields those whose documents it could not count."""
        for part in _parts(block):
            if self.add(part, counts):
                self._learn()
                self._counter.count_documents(_texts(part), documents)
            else:
                yield part

    def fold(self, counts: Ids) -> int:
        """Add the tokens of all chunks counted since the last time; returns how many these were."""
        self._learn()
        return self._counter.fold(counts)

    def forget(self) -> None:
        """Forget all chunks, with their counts and ids."""
        self._counter.clear()

    def _separator(self, candidates: list[str]) -> tuple[str, int] | None:
        """A text that is one id by itself."""
        for text in candidates:
            try:
                (ids,) = self._encode([text])
            except EncodingError:
                continue
            if len(ids) == 1:
                return text, int(ids[0])
        return None

    def _encode(self, texts: list[str], words: bool = False) -> list[Ids]:
        if words and self._lower:
            texts = [text.lower() for text in texts]
        if self._skip:
            texts = [text.removeprefix(" ") for text in texts]
        inner = self._of_words if words else self._inner
        return encode_batch(inner, texts)

    def _learn(self) -> None:
        """Tokenize the chunks that have no ids yet."""
        separators = [" " if self._bare else "", "", "", ""]
        separators[1], separators[2] = (one[0] if one else "" for one in (self._space, self._digit))
        data, starts, of_joint = self._counter.fresh(separators, DIGIT)
        if len(starts) == 1:
            return
        found: list[tuple[Ids, Ids]] = []
        first = 0
        ways = (self._word_starts, _mark_of(self._space), _mark_of(self._digit), None)
        for separator, way, n in zip(separators, ways, of_joint, strict=True):
            chunks = _Chunks(data, starts[first : first + n + 1], len(separator.encode()))
            found.extend(self._tokenize(chunks, way))
            first += n
        flat = np.concatenate([ids for ids, _ in found]).astype(np.int32)
        offsets = np.zeros(len(starts), np.int64)
        np.cumsum(np.concatenate([sizes for _, sizes in found]), out=offsets[1:])
        self._counter.learn(flat, offsets)

    def _tokenize(self, chunks: _Chunks, way: _Way) -> Iterator[tuple[Ids, Ids]]:
        """Ids of chunks one after the other, and how many each has."""
        step = 1 if way is None else _JOINED
        for start in range(0, len(chunks), _TEXTS * _JOINED):
            stop = min(start + _TEXTS * _JOINED, len(chunks))
            groups = [range(at, min(at + step, stop)) for at in range(start, stop, step)]
            texts = [chunks.text(group, way is not None) for group in groups]
            rows = self._encode(texts, words=way is self._word_starts)
            if way is None:
                yield np.concatenate(rows), np.array([len(row) for row in rows], np.int64)
                continue
            for group, row in zip(groups, rows, strict=True):
                yield self._parted(chunks, group, row, way)

    def _parted(
        self, chunks: _Chunks, group: range, row: Ids, way: NDArray[np.bool_] | int
    ) -> tuple[Ids, Ids]:
        """Take the ids of joined chunks apart, where words begin or at the separators."""
        if isinstance(way, int):
            at = np.flatnonzero(row == way)
            if len(at) == len(group):
                return np.delete(row, at), np.diff(at, prepend=-1) - 1
        else:
            at = np.flatnonzero(way[row])
            if len(at) == len(group):
                return row, np.diff(at, append=len(row))
        # Some chunk has the separator's id in it, or begins otherwise: one by one, then.
        rows = self._encode([chunks.text(range(i, i + 1), False) for i in group])
        return np.concatenate(rows), np.array([len(one) for one in rows], np.int64)


def _texts(block: Texts) -> ChunkTexts:
    return ChunkTexts(block.data, block.starts, block.ends)


def _mark_of(separator: tuple[str, int] | None) -> int | None:
    return separator[1] if separator else None


def _word_starts(inner: Any, rule: Rule, vocab_size: int) -> NDArray[np.bool_]:
    """Which ids begin a word."""
    starts = np.zeros(vocab_size, bool)
    if rule.words is not None:
        for token, i in inner.get_vocab().items():
            starts[i] = token.startswith(rule.words.prefix) == rule.words.begins
    return starts


def _bare(inner: Any) -> Any:
    """The same model behind nothing but a split at spaces."""
    from tokenizers import Tokenizer

    spec = json.loads(inner.to_str())
    spec.update(normalizer=None, pre_tokenizer={"type": "WhitespaceSplit"}, added_tokens=[])
    return Tokenizer.from_str(json.dumps(spec))


class _Chunks:
    """Chunks in one buffer, each followed by a separator."""

    def __init__(self, data: bytes, starts: Ids, separator_bytes: int):
        self._data = data
        self._starts = starts
        self._separator_bytes = separator_bytes

    def __len__(self) -> int:
        return len(self._starts) - 1

    def text(self, group: range, joined: bool) -> str:
        """The text of some chunks, with separators or (for a single one) without."""
        stop = self._starts[group.stop] - (0 if joined else self._separator_bytes)
        return self._data[self._starts[group.start] : stop].decode()


def _parts(block: Texts) -> Iterator[Texts]:
    """A block in parts of about a megabyte, so that a part rarely fills the table."""
    marks = np.cumsum(block.lengths()) // _DOCUMENT_BYTES
    bounds = [0, *(np.flatnonzero(np.diff(marks)) + 1).tolist(), len(block)]
    for start, stop in itertools.pairwise(bounds):
        if stop > start:
            yield Texts(block.data, block.starts[start:stop], block.ends[start:stop])
