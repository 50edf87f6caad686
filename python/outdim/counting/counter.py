"""Counting work units by one of two ways: by distinct chunks, or by encoding every document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outdim.corpus.corpus import Corpus
from outdim.corpus.prefetch import prefetch
from outdim.corpus.texts import Accounting, Texts
from outdim.corpus.unit import Unit
from outdim.errors import ArgumentError, DataError
from outdim.machine import usable_cores
from outdim.tokens.boundaries import chunk_rule
from outdim.tokens.chunk_rule import Rule
from outdim.tokens.encode import Encoder, EncodingError, Unencodable
from outdim.tokens.tokenizer import template, vocabulary_size

_MIN_MEMORY_BYTES = 1 << 20
_HELD_IDS = 1 << 18  # of documents that are added at once


@dataclass(frozen=True)
class CountingMethod:
    """How tokens are counted.

    Attributes:
        name: "chunks" or "encode".
        why: Why so, in words.
    """

    name: str
    why: str


@dataclass(frozen=True)
class UnitCounts:
    """What counting some units gives; add states of disjoint units with ``+``, in any order.

    Attributes:
        counts: int64 [V].
        documents: int64 [V], in how many documents an id occurs; None where that is not counted.
        accounting: What was read and what left out.
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
    `count` returns does not depend on them.

    Args:
        tokenizer: A fast tokenizer.
        method: What `choose_method` decided for the corpus.
        documents: Also count in how many documents each id occurs. By chunks this looks every chunk
            up once more and takes about twice as long; by encoding it costs a sort of each
            document's ids.
        memory_bytes: Bound of the table of chunks.
        workers: Threads; None takes all cores.
        rule: The tokenizer's `chunk_rule`, if it is known already.
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
        self._encoder = Encoder(tokenizer)
        self._template = template(self._encoder.inner)
        self._documents = documents
        self._rule: Rule | None = None
        if method.name == "chunks":
            from outdim.counting.chunks import ChunkTable

            self._rule = rule or chunk_rule(tokenizer)
            threads = workers or usable_cores()
            self._table = ChunkTable(
                self._encoder.inner, self._rule, self.vocab_size, memory_bytes, threads
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
        units = list(units)
        try:
            return self._count(corpus, units, after_block, self._rule)
        except EncodingError:
            # The tokenizer fails on a chunk; encoding tells in which document that is.
            self._table.forget()
            return self._count(corpus, units, after_block, None)

    def _count(
        self,
        corpus: Corpus,
        units: list[Unit],
        after_block: Callable[[], None],
        rule: Rule | None,
    ) -> UnitCounts:
        account = Accounting()
        counted = _Counted(self.vocab_size, self._documents)
        for unit in units:
            failed = _Failed(unit, account, skip=corpus.options.on_error == "skip")
            for block in prefetch(corpus.blocks(unit, account)):
                self._count_block(block, counted, rule, failed)
                after_block()
        if rule is not None:
            self._table.fold(counted.counts)
        self._add_template(counted, account)
        return UnitCounts(counted.counts, counted.documents, account)

    def count_texts(self, block: Texts) -> tuple[NDArray[np.int64], int]:
        """Count documents at hand; returns counts int64 [V] and of how many chunks they are."""
        counted = _Counted(self.vocab_size, documents=False)
        account = Accounting(documents=len(block))
        self._count_block(block, counted, self._rule, _Failed(None, account, skip=False))
        chunks = self._table.fold(counted.counts) if self._rule is not None else len(block)
        self._add_template(counted, account)
        return counted.counts, chunks

    def _add_template(self, counted: _Counted, account: Accounting) -> None:
        for ids in self._template:
            np.add.at(counted.counts, ids, account.documents)
            if counted.documents is not None:
                counted.documents[ids] = account.documents
        account.tokens = int(counted.counts.sum())
        account.special = account.documents * sum(map(len, self._template))

    def _count_block(
        self, block: Texts, counted: _Counted, rule: Rule | None, failed: _Failed
    ) -> None:
        if rule is None:
            self._encode(block, counted, failed)
            return
        if rule.prepends:
            whole = _to_be_encoded(block, rule.literals)
            self._encode(block.take(whole), counted, failed)
            block = block.take(~whole)
        if counted.documents is None:
            self._table.add(block, counted.counts)
            return
        for part in self._table.add_documents(block, counted.counts, counted.documents):
            self._encode(part, _Counted.only_documents(counted), failed)

    def _encode(self, block: Texts, counted: _Counted, failed: _Failed) -> None:
        held: list[NDArray[np.int64]] = []
        size = 0
        for ids in self._encoder(block.strings()):
            if isinstance(ids, Unencodable):
                failed.add(ids)
            elif len(ids):
                held.append(ids)
                size += len(ids)
            failed.number += 1
            if size > _HELD_IDS:
                counted.add(held)
                held, size = [], 0
        counted.add(held)


@dataclass
class _Failed:
    """What becomes of the documents of a unit that cannot be encoded; ``number``: of the next."""

    unit: Unit | None
    account: Accounting
    skip: bool
    number: int = 1

    def add(self, document: Unencodable) -> None:
        """Leave a document out, and take it off the account; or raise an error that names it."""
        where = f"{self.unit.path}: " if self.unit else ""
        place = f"{where}document {self.number}, {document}"
        if not self.skip:
            raise DataError(f"tokenizer: {place}")
        self.account.documents -= 1
        self.account.characters -= len(document.text)
        self.account.bytes -= len(document.text.encode())
        self.account.skip("not encodable", place)


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
        """Add the ids of some documents."""
        if not rows:
            return
        size = len(self.counts)
        ids = rows[0] if len(rows) == 1 else np.concatenate(rows)  # one may be very long
        self.counts += np.bincount(ids, minlength=size)
        if self.documents is not None:
            distinct = np.concatenate([np.unique(row) for row in rows])
            self.documents += np.bincount(distinct, minlength=size)


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
