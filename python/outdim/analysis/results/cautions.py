"""Cautions that several results have, in one wording."""

from __future__ import annotations

from collections.abc import Iterable

from outdim.stats import MomentsResult
from outdim.stats.jackknife import MIN_BLOCKS
from outdim.text import counted

FEW_DOCUMENTS = 30


class Doubt(str):
    """A caution that takes the headline back: it may not be read without."""

    __slots__ = ()


def nonfinite_values(moments: Iterable[MomentsResult], effect: str) -> list[str]:
    """How many values are NaN or infinite, and what that does; nothing where all are finite."""
    bad = sum(int(one.nonfinite.sum()) for one in moments)
    if not bad:
        return []
    return [Doubt(f"{counted(bad, 'value')} of the hidden states are NaN or infinite: {effect}.")]


def no_interval(blocks: int) -> str:
    """Why a value that rests on so many blocks of documents has no interval, "" where it has."""
    if blocks >= MIN_BLOCKS:
        return ""
    return f"in {counted(blocks, 'block')} of documents, an interval needs {MIN_BLOCKS}"


def few_blocks(blocks: int) -> list[str]:
    """That documents fill too few of the blocks that a jackknife leaves out for an interval."""
    if blocks >= MIN_BLOCKS:
        return []
    return [
        Doubt(
            f"Documents fill {counted(blocks, 'block')} only, too few for intervals: "
            f"{MIN_BLOCKS} are needed."
        )
    ]


def few_documents(documents: int) -> list[str]:
    """That intervals rest on few documents."""
    if documents >= FEW_DOCUMENTS:
        return []
    return [
        Doubt(
            f"The intervals rest on {documents} documents and may be too narrow: "
            f"{FEW_DOCUMENTS} or more would be better."
        )
    ]
