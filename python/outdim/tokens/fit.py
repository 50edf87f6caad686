"""Whether token frequencies belong to a tokenizer, and what of them does not."""

from __future__ import annotations

from typing import Any

import numpy as np

from outdim.errors import DataError
from outdim.text import counted, listing, percent
from outdim.tokens.frequencies import TokenFrequencies

#: Of published counts, or of their strings: see `check_frequencies`.
MOST_UNJOINED = 0.1
_NAMED = 3


def check_frequencies(frequencies: TokenFrequencies, tokenizer: Any) -> list[str]:
    """Check that every id of the tokenizer has a count, and stands for the same token there.

    Published counts name no ids. A list of the tokenizer at hand joins nearly whole: of those that
    Puccetti et al. 2022 published, 97 % or more of what is counted, and all but 14 strings. One of
    another vocabulary does not: of RoBERTa's lists BERT's tokenizer knows 14 and 17 %, and 9 % of
    the strings; of what BERT's count 65 to 71 % is in RoBERTa's, and 15 % of the strings.

    Args:
        frequencies: The counts.
        tokenizer: That of the model.

    Returns:
        In sentences, what of published counts could not be joined.

    Raises:
        DataError: The frequencies are of another vocabulary.
    """
    coverage = frequencies.coverage(tokenizer)
    if coverage.differing:
        first = coverage.differing[0]
        wrong = (
            f"{len(coverage.differing)} of its {coverage.vocabulary} ids stand for other tokens, "
            f"the first is {first} ({frequencies.tokens[first]!r} in the counts)"
        )
    elif coverage.lost:
        wrong = f"{coverage.lost} tokens were counted at ids that it does not have"
    elif len(frequencies) < coverage.vocabulary:
        wrong = f"it has {coverage.vocabulary} ids, the counts have {len(frequencies)}"
    elif max(unjoined := unjoined_shares(frequencies)) > MOST_UNJOINED:
        wrong = (
            f"{percent(unjoined[0])} of what they count, {percent(unjoined[1])} of their strings, "
            f"belong to no single token id, {_largest(frequencies)}"
        )
    else:
        return unjoined_words(frequencies)
    raise DataError(
        f"counts: they are of another vocabulary than the tokenizer's: {wrong}. Count with the "
        "tokenizer of the model."
    )


def unjoined_shares(frequencies: TokenFrequencies) -> tuple[float, float]:
    """What belongs to no single token id, as a share of what is counted, and of the strings."""
    left = [count for _, count in frequencies.unjoined if count]
    counted_all = frequencies.total_tokens + sum(left)
    strings = int(np.count_nonzero(frequencies.counts)) + len(left)
    return sum(left) / max(1, counted_all), len(left) / max(1, strings)


def unjoined_words(frequencies: TokenFrequencies) -> list[str]:
    """What a reader must know of published counts that did not join wholly."""
    share, _ = unjoined_shares(frequencies)
    if not share:
        return []
    strings = counted(sum(count > 0 for _, count in frequencies.unjoined), "string")
    return [
        f"{percent(share)} of what the published counts count, {strings}, belong to no single "
        f"token id and are counted nowhere, {_largest(frequencies)}."
    ]


def _largest(frequencies: TokenFrequencies) -> str:
    by_count = sorted((p for p in frequencies.unjoined if p[1]), key=lambda p: -p[1])[:_NAMED]
    return f"above all {listing([f'{text[:40]!r} ({count:,})' for text, count in by_count])}"
