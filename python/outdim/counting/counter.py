"""Counting work units by one of two ways: by distinct chunks, or by encoding every document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outdim.corpus.corpus import Corpus
from outdim.corpus.prefetch import prefetch
from outdim.corpus.texts import Accounting, Texts
from outdim.corpus.unit import Unit
from outdim.counting.boundaries import chunk_rule
from outdim.counting.chunk_rule import Rule
from outdim.errors import ArgumentError
from outdim.machine import usable_cores
from outdim.tokens.tokenizer import backend, template, vocabulary_size

_GROUP_BYTES = 1 << 20
_MIN_MEMORY_BYTES = 1 << 20


@dataclass(frozen=True)
class CountingMethod:
    """How tokens are counted ("chunks" or "encode"), and why so."""

    name: str
    why: str


@dataclass(frozen=True)
class UnitCounts:
    """What counting some units gives; add states of disjoint units with ``+``, in any order.

    ``counts`` int64 [V]; ``documents`` int64 [V] or None: in how many documents an id occurs;
    ``accounting``: what was read and what left out.
    """

    counts: NDArray[np.int64]
    documents: NDArray[np.int64] | None
    accounting: Accounting

    def __add__(self, other: UnitCounts) -> UnitCounts:
        documents = None
        if self.documents is not None and other.documents is not None:
            documents = self.documents + other.documents
        return UnitCounts(self.counts + other.counts, documents, self.accounting + other.accounting)


class TokenCounter:
    """Counts work units with one tokenizer by one method.

    Chunks that were tokenized are kept from call to call, up to ``memory_bytes``; what
    :meth:`count` returns does not depend on them.

    Args:
        tokenizer: a fast tokenizer.
        method: what :func:`choose_method` decided for the corpus.
        documents: also count in how many documents each id occurs. By chunks this looks every chunk
            up once more and takes about twice as long; by encoding it costs a sort of each
            document's ids.
        memory_bytes: bound of the table of chunks.
        workers: threads; None takes all cores.
        rule: the tokenizer's :func:`chunk_rule`, if it is known already.
    """

    def __init__(
        self,
        tokenizer: Any,
        method: CountingMethod,
        *,
        documents: bool = False,
        memory_bytes: int = 1 << 30,
        workers: int | None = None,
        rule: Rule | None = None,
    ):
        if memory_bytes < _MIN_MEMORY_BYTES:
            raise ArgumentError(f"memory_bytes: expected at least 1 MiB, got {memory_bytes}")
        self.method = method
        self.vocab_size = vocabulary_size(tokenizer)
        self._inner = backend(tokenizer)
        self._template = template(self._inner)
        self._documents = documents
        self._rule: Rule | None = None
        if method.name == "chunks":
            from outdim.counting.chunks import ChunkTable

            self._rule = rule or chunk_rule(tokenizer)
            threads = workers or usable_cores()
            self._table = ChunkTable(
                self._inner, self._rule, self.vocab_size, memory_bytes, threads
            )

    def count(
        self,
        corpus: Corpus,
        units: Iterable[Unit],
        after_block: Callable[[], None] = lambda: None,
    ) -> UnitCounts:
        """Count units of a corpus: the same result whatever was counted before.

        ``after_block`` is called after every few megabytes, and may raise to give up.
        """
        account = Accounting()
        counted = _Counted(self.vocab_size, self._documents)
        for unit in units:
            for block in prefetch(corpus.blocks(unit, account)):
                self._count_block(block, counted)
                after_block()
        if self._rule is not None:
            self._table.fold(counted.counts)
        self._add_template(counted, account)
        return UnitCounts(counted.counts, counted.documents, account)

    def count_texts(self, block: Texts) -> tuple[NDArray[np.int64], int]:
        """Count documents at hand; returns counts int64 [V] and of how many chunks they are."""
        counted = _Counted(self.vocab_size, documents=False)
        self._count_block(block, counted)
        chunks = self._table.fold(counted.counts) if self._rule is not None else len(block)
        self._add_template(counted, Accounting(documents=len(block)))
        return counted.counts, chunks

    def _add_template(self, counted: _Counted, account: Accounting) -> None:
        for ids in self._template:
            np.add.at(counted.counts, ids, account.documents)
            if counted.documents is not None:
                counted.documents[ids] = account.documents
        account.tokens = int(counted.counts.sum())
        account.special = account.documents * sum(map(len, self._template))

    def _count_block(self, block: Texts, counted: _Counted) -> None:
        if self._rule is None:
            self._encode(block, counted)
            return
        if self._rule.prepends:
            whole = _to_be_encoded(block, self._rule.literals)
            self._encode(block.take(whole), counted)
            block = block.take(~whole)
        if counted.documents is None:
            self._table.add(block, counted.counts)
            return
        for part in self._table.add_documents(block, counted.counts, counted.documents):
            self._encode(part, _Counted.only_documents(counted))

    def _encode(self, block: Texts, counted: _Counted) -> None:
        for texts in _groups(block):
            encodings = self._inner.encode_batch_fast(texts, add_special_tokens=False)
            counted.add([np.array(row.ids, np.int64) for row in encodings])


class _Counted:
    """Counts of the text, without the template."""

    def __init__(self, vocab_size: int, documents: bool):
        self.counts = np.zeros(vocab_size, np.int64)
        self.documents = np.zeros(vocab_size, np.int64) if documents else None

    @classmethod
    def only_documents(cls, other: _Counted) -> _Counted:
        """Counts nowhere, documents in the other's."""
        found = cls(len(other.counts), False)
        found.documents = other.documents
        return found

    def add(self, rows: list[NDArray[np.int64]]) -> None:
        size = len(self.counts)
        self.counts += np.bincount(np.concatenate(rows), minlength=size)
        if self.documents is not None:
            distinct = np.concatenate([np.unique(row) for row in rows])
            self.documents += np.bincount(distinct, minlength=size)


def _groups(block: Texts) -> Iterator[list[str]]:
    """Yield the documents of a block in lists of about a megabyte."""
    texts: list[str] = []
    size = 0
    for text in block.strings():
        texts.append(text)
        size += len(text)
        if size >= _GROUP_BYTES:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


def _to_be_encoded(block: Texts, literals: Sequence[str]) -> NDArray[np.bool_]:
    """Tell which documents begin with a space or hold a literal."""
    whole: NDArray[np.bool_] = block.lengths() > 0
    whole[whole] = block.data[block.starts[whole]] == 0x20
    data = block.data.tobytes()
    for literal in literals:
        sought = literal.encode()
        at = data.find(sought)
        while at >= 0:
            document = int(np.searchsorted(block.starts, at, side="right")) - 1
            if document >= 0:
                whole[document] = True
            at = data.find(sought, at + 1)
    return whole
