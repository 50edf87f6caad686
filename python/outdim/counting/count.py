"""Token counts of a corpus: exactly those of ``tokenizer(text)``, by id."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from outdim.corpus.corpus import Corpus, open_corpus
from outdim.counting.method import choose_counter
from outdim.errors import DataError
from outdim.tokens.frequencies import TokenFrequencies


def count_tokens(
    source: Corpus | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    tokenizer: Any,
    *,
    method: str = "auto",
    documents: bool = False,
    memory_bytes: int = 1 << 30,
    workers: int | None = None,
    **corpus_options: Any,
) -> TokenFrequencies:
    """Count the tokens of a corpus by id, exactly those of ``tokenizer(text)`` without truncation.

    Args:
        source: An open `Corpus`, or what `open_corpus` takes.
        tokenizer: A fast Hugging Face tokenizer (`load_tokenizer`).
        method: "chunks" counts distinct chunks of text first and tokenizes each once, tens of times
            as fast for text that repeats its words; "encode" encodes every document; "auto" takes
            chunks where that is proved exact for the tokenizer and a sample of the corpus agrees.
        documents: Also count in how many documents each id occurs (see `TokenCounter`).
        memory_bytes: Bound of the table of chunks.
        workers: Threads; None takes all cores.
        corpus_options: Passed to `open_corpus` when ``source`` is not an open corpus.

    Returns:
        The frequencies; ``info`` says by which method and why, and holds the accounting.

    Raises:
        ArgumentError: "chunks" was asked for and is not exact here.
        DataError: There is no document in the corpus, or it cannot be read.

    Example:
        >>> tokenizer = load_tokenizer("bert-base-uncased")  # doctest: +SKIP
        >>> count_tokens("python-docs", tokenizer).top(1)  # doctest: +SKIP
        [(1012, '.', 28267)]
    """
    corpus = source if isinstance(source, Corpus) else open_corpus(source, **corpus_options)
    counter = choose_counter(
        corpus, tokenizer, method, documents=documents, memory_bytes=memory_bytes, workers=workers
    )
    counted = counter.count(corpus, corpus.units)
    accounting = counted.accounting + corpus.unreadable
    if not accounting.documents:
        left_out = dict(accounting.skipped)
        raise DataError(f"source: {corpus.source}: no documents (left out: {left_out})")
    chosen = counter.method
    info = {"method": chosen.name, "why": chosen.why, "accounting": accounting.as_dict()}
    return TokenFrequencies.for_tokenizer(tokenizer, counted.counts, counted.documents, info)
