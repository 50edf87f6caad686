"""A few short sentences of which whole maps are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outdim.errors import ArgumentError

#: More would not be read: sentences, and tokens of each.
MOST_SENTENCES, MOST_TOKENS = 4, 32


def check_sentences(sentences: Sequence[str] | None, tokenizer: Any) -> None:
    """Raise ArgumentError for more than will be read, and for one without a token."""
    given = sentences or ()
    if len(given) > MOST_SENTENCES:
        raise ArgumentError(f"sentences: expected {MOST_SENTENCES} at most, got {len(given)}.")
    for sentence, ids in zip(given, ids_of(given, tokenizer), strict=True):
        if not ids:
            raise ArgumentError(f"sentences: expected text, got {sentence!r}, which has no token.")


def ids_of(sentences: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The tokens of each, cut at `MOST_TOKENS`."""
    return [
        tokenizer(sentence, truncation=True, max_length=MOST_TOKENS).input_ids
        for sentence in sentences
    ]
