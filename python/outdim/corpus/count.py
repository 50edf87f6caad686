"""Token counts of a corpus: exactly those of ``tokenizer(text)``, by id."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outdim.corpus.documents import Corpus, open_corpus
from outdim.corpus.frequency import TokenFrequencies
from outdim.corpus.prefetch import prefetch
from outdim.corpus.texts import Accounting, Texts
from outdim.corpus.tokens import backend, template, vocabulary_size
from outdim.corpus.units import Unit
from outdim.errors import ArgumentError, DataError

_GROUP_BYTES = 1 << 20


@dataclass(frozen=True)
class UnitCounts:
    """What counting some units gives; add states of disjoint units with ``+``, in any order.

    ``counts`` int64 [V]; ``documents`` int64 [V] or None: in how many documents an id occurs;
    ``accounting``.
    """

    counts: NDArray[np.int64]
    documents: NDArray[np.int64] | None
    accounting: Accounting

    def __add__(self, other: UnitCounts) -> UnitCounts:
        documents = None
        if self.documents is not None and other.documents is not None:
            documents = self.documents + other.documents
        return UnitCounts(self.counts + other.counts, documents, self.accounting + other.accounting)


@dataclass(frozen=True)
class CountingMethod:
    """How tokens are counted ("chunks" or "encode"), and why so."""

    name: str
    why: str


def choose_method(corpus: Corpus, tokenizer: Any, method: str = "auto") -> CountingMethod:
    """Decide how the tokens of a corpus are counted."""
    if method not in ("auto", "chunks", "encode"):
        raise ArgumentError(f"method: expected 'auto', 'chunks' or 'encode', got {method!r}")
    return CountingMethod(
        "encode", "asked for" if method == "encode" else "every document is encoded"
    )


class TokenCounter:
    """Counts work units with one tokenizer by one method."""

    def __init__(self, tokenizer: Any, method: CountingMethod, *, documents: bool = False):
        self.method = method
        self.vocab_size = vocabulary_size(tokenizer)
        self._inner = backend(tokenizer)
        self._template = template(self._inner)
        self._documents = documents

    def count(self, corpus: Corpus, units: Iterable[Unit]) -> UnitCounts:
        """Count units of a corpus: the same result whatever was counted before."""
        account = Accounting()
        counts = np.zeros(self.vocab_size, np.int64)
        documents = np.zeros(self.vocab_size, np.int64) if self._documents else None
        for unit in units:
            for block in prefetch(corpus.blocks(unit, account)):
                self._encode(block, counts, documents)
        account.tokens = int(counts.sum())
        account.special = account.documents * sum(map(len, self._template))
        return UnitCounts(counts, documents, account)

    def _encode(
        self, block: Texts, counts: NDArray[np.int64], documents: NDArray[np.int64] | None
    ) -> None:
        for texts in _groups(block):
            rows = [np.array(row.ids, np.int64) for row in self._inner.encode_batch_fast(texts)]
            counts += np.bincount(np.concatenate(rows), minlength=self.vocab_size)
            if documents is not None:
                distinct = np.concatenate([np.unique(row) for row in rows])
                documents += np.bincount(distinct, minlength=self.vocab_size)


def _groups(block: Texts) -> Iterator[list[str]]:
    """The documents of a block in lists of about a megabyte."""
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


def count_tokens(
    source: Corpus | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    tokenizer: Any,
    *,
    method: str = "auto",
    documents: bool = False,
    **corpus_options: Any,
) -> TokenFrequencies:
    """Count the tokens of a corpus by id, exactly as ``tokenizer(text)`` without truncation would give them.

    Args:
        source: an open :class:`Corpus`, or what :func:`open_corpus` takes.
        tokenizer: a fast Hugging Face tokenizer (:func:`load_tokenizer`).
        method: "auto", "chunks" or "encode".
        documents: also count in how many documents each id occurs.
        corpus_options: passed to :func:`open_corpus` when ``source`` is not an open corpus.

    Raises:
        DataError: there is no document in the corpus, or it cannot be read.

    >>> freq = count_tokens("python-docs", load_tokenizer("bert-base-uncased"))  # doctest: +SKIP
    >>> freq.top(1)  # doctest: +SKIP
    [(1012, '.', 23049)]
    """
    corpus = source if isinstance(source, Corpus) else open_corpus(source, **corpus_options)
    chosen = choose_method(corpus, tokenizer, method)
    counted = TokenCounter(tokenizer, chosen, documents=documents).count(corpus, corpus.units)
    accounting = counted.accounting + corpus.unreadable
    if not accounting.documents:
        raise DataError(
            f"source: {corpus.source}: no documents (left out: {dict(accounting.skipped)})"
        )
    info = {"method": chosen.name, "why": chosen.why, "accounting": accounting.as_dict()}
    return TokenFrequencies.for_tokenizer(tokenizer, counted.counts, counted.documents, info)
