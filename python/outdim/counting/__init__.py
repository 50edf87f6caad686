"""Exact token counts of a corpus, by distinct chunks of its text or by encoding all of it."""

from outdim.counting.count import count_tokens
from outdim.counting.counter import CountingMethod, TokenCounter, UnitCounts
from outdim.counting.method import choose_method

__all__ = [
    "CountingMethod",
    "TokenCounter",
    "UnitCounts",
    "choose_method",
    "count_tokens",
]
