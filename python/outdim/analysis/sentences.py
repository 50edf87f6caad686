"""A few short sentences of which whole maps are made."""

from __future__ import annotations

from collections.abc import Sequence

from outdim.errors import ArgumentError

#: More would not be read: sentences, and tokens of each.
MOST_SENTENCES, MOST_TOKENS = 4, 32


def check_sentences(sentences: Sequence[str] | None) -> None:
    """Raise ArgumentError for more than will be read."""
    if len(sentences or ()) > MOST_SENTENCES:
        raise ArgumentError(
            f"sentences: expected {MOST_SENTENCES} at most, got {len(sentences or ())}."
        )
