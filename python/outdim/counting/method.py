"""Which way of counting is used, and why: chunks only where they are exact."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from outdim.corpus.corpus import Corpus
from outdim.corpus.texts import Accounting, Texts
from outdim.counting.counter import CountingMethod, TokenCounter
from outdim.errors import ArgumentError, DataError
from outdim.hub import foreign_errors
from outdim.tokens.boundaries import chunk_rule
from outdim.tokens.normalizers import RefusedError

_SAMPLE_UNITS = 4
_SAMPLE_BYTES = 64 << 10  # of each unit
_LONG_CHUNK_BYTES = 48


def choose_method(corpus: Corpus, tokenizer: Any, method: str = "auto") -> CountingMethod:
    """Decide how the tokens of a corpus are counted.

    Chunks need the compiled module, a tokenizer whose boundaries are known (`chunk_rule`),
    and a sample of the corpus whose counts agree with ``tokenizer(text)``; "auto" also wants
    chunks short enough to repeat.

    Args:
        corpus: Of which a sample is counted in both ways.
        tokenizer: A fast tokenizer.
        method: "auto", "chunks" or "encode".

    Raises:
        ArgumentError: ``method`` is unknown, or "chunks" is not exact here.
    """
    return choose_counter(corpus, tokenizer, method).method


def choose_counter(
    corpus: Corpus, tokenizer: Any, method: str = "auto", **options: Any
) -> TokenCounter:
    """The counter of the chosen method.

    Args:
        corpus: As of `choose_method`.
        tokenizer: A fast tokenizer.
        method: "auto", "chunks" or "encode".
        options: Of `TokenCounter`.

    Raises:
        ArgumentError: ``method`` is unknown, or "chunks" is not exact here.
    """
    if method not in ("auto", "chunks", "encode"):
        raise ArgumentError(f"method: expected 'auto', 'chunks' or 'encode', got {method!r}")
    why = "asked for"
    if method != "encode":
        try:
            return _exact_counter(corpus, tokenizer, method == "auto", options)
        except RefusedError as error:
            if method == "chunks":
                raise ArgumentError(f"method: 'chunks' cannot be used here: {error}") from error
            why = f"chunks cannot be used: {error}"
    return TokenCounter(tokenizer, CountingMethod("encode", why), **options)


def _exact_counter(
    corpus: Corpus, tokenizer: Any, only_if_short: bool, options: dict[str, Any]
) -> TokenCounter:
    """A counter by chunks that agreed with plain encoding on a sample."""
    if importlib.util.find_spec("outdim._core") is None:
        raise RefusedError("the compiled module is missing (`outdim doctor` says what to do)")
    rule = chunk_rule(tokenizer)
    counter = TokenCounter(tokenizer, CountingMethod("chunks", rule.why), rule=rule, **options)
    texts = _sample(corpus)
    try:
        counts, chunks = counter.count_texts(Texts.of(texts))
        encoded = _plainly_encoded(tokenizer, texts)
    except DataError as error:
        raise RefusedError(f"a sampled document cannot be encoded: {error}") from error
    size = sum(len(text.encode()) for text in texts)
    expected = np.zeros_like(counts)
    for row in encoded:
        expected += np.bincount(row, minlength=len(counts))
    if not np.array_equal(counts, expected):
        wrong = int(np.count_nonzero(counts != expected))
        raise RefusedError(f"on a sample of {len(texts)} documents {wrong} ids differ in count")
    if only_if_short and size > _LONG_CHUNK_BYTES * max(chunks, 1):
        raise RefusedError(
            f"chunks of this text are {size // max(chunks, 1)} bytes long: few repeat"
        )
    why = f"{rule.why}; {len(texts)} sampled documents agree with plain encoding"
    counter.method = CountingMethod("chunks", why)
    return counter


def _plainly_encoded(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    with foreign_errors("the tokenizer fails"):
        encoded = tokenizer(texts, truncation=False, padding=False, verbose=False)
    rows: list[list[int]] = encoded["input_ids"]
    return rows


def _sample(corpus: Corpus) -> list[str]:
    """Take the first documents of some units, each at most as long as the sample of a unit."""
    step = max(len(corpus.units) // _SAMPLE_UNITS, 1)
    texts: list[str] = []
    for unit in corpus.units[::step][:_SAMPLE_UNITS]:
        size = 0
        for block in corpus.blocks(unit, Accounting()):
            for text in block.strings():
                if size >= _SAMPLE_BYTES:
                    break
                texts.append(text[:_SAMPLE_BYTES])
                size += len(text)
            if size >= _SAMPLE_BYTES:
                break
    return texts
