"""Documents that are in memory, as a corpus."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from outdim.corpus.corpus import Corpus, open_corpus
from outdim.corpus.reading import ReadOptions
from outdim.corpus.texts import Accounting, Texts, admit
from outdim.corpus.unit import Unit
from outdim.errors import ArgumentError, DataError

_SOURCE = "texts in memory"


class GivenTexts(Corpus):
    """Documents that somebody has in memory: one unit, of no files.

    Raises:
        ArgumentError: Not every document is a string.
        DataError: There is none.

    Example:
        >>> corpus = GivenTexts(["A document.", "", "Another."])
        >>> list(corpus.read(corpus.units[0], Accounting()))
        ['A document.', 'Another.']
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = list(texts)
        if other := [text for text in self._texts if not isinstance(text, str)]:
            raise ArgumentError(f"texts: expected strings, got {type(other[0]).__name__}.")
        if not self._texts:
            raise DataError("texts: expected at least one document, got none.")
        self.source = _SOURCE
        self.options = ReadOptions()
        self.unreadable = Accounting()
        size = sum(len(text.encode()) for text in self._texts)
        self.units = (Unit(0, "memory", _SOURCE, 0, len(self._texts), size),)

    def files(self, known: Iterable[Any] = ()) -> list[dict[str, Any]]:
        """None."""
        return []

    def blocks(self, unit: Unit, account: Accounting) -> Iterator[Texts]:
        """The documents, entered in ``account``."""
        yield admit(Texts.of(self._texts[unit.start : unit.stop]), 0, account)


def corpus_of(texts: str | Path | Sequence[str] | Corpus) -> Corpus:
    """The corpus of documents, or of where they are.

    Args:
        texts: Documents; a path, glob or dataset id; or an open corpus.

    Raises:
        ArgumentError: Names of files in the place of documents.
        DataError: There is none, or they cannot be read.
    """
    if isinstance(texts, Corpus):
        return texts
    if isinstance(texts, str | Path):
        return open_corpus(texts)
    given = list(texts)
    if given and all(
        isinstance(t, Path) or (isinstance(t, str) and os.path.isfile(t)) for t in given
    ):
        raise ArgumentError(
            "texts: expected documents, got names of files; pass outdim.open_corpus(files)."
        )
    return GivenTexts(given)
