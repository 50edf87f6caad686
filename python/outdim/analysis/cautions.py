"""Cautions that several results have, in one wording."""

from __future__ import annotations

from collections.abc import Iterable

from outdim.stats import MomentsResult
from outdim.text import counted


def nonfinite_values(moments: Iterable[MomentsResult], effect: str) -> list[str]:
    """How many values are NaN or infinite, and what that does; nothing where all are finite."""
    bad = sum(int(one.nonfinite.sum()) for one in moments)
    if not bad:
        return []
    return [f"{counted(bad, 'value')} of the hidden states are NaN or infinite: {effect}."]
