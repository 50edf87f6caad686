"""Documents that are in memory, as a corpus."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from outdim.corpus import formats
from outdim.corpus.corpus import Corpus, listed, open_corpus
from outdim.corpus.reading import ReadOptions
from outdim.corpus.texts import Accounting, Texts, admit
from outdim.corpus.unit import Unit
from outdim.errors import ArgumentError, DataError

_SOURCE = "texts in memory"
_EXPECTED = "a list of documents; a path, glob or dataset id; or an open corpus"


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
        self._texts = listed("texts", texts, "a list of documents, which are strings")
        if other := [text for text in self._texts if not isinstance(text, str)]:
            row = "; of a dataset pass the column of text" if isinstance(other[0], Mapping) else ""
            raise ArgumentError(f"texts: expected strings, got {type(other[0]).__name__}{row}.")
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
        ArgumentError: Names of files in the place of documents, a document in the place of a list,
            or what is neither.
        DataError: There is none, or they cannot be read.
    """
    if isinstance(texts, Corpus):
        return texts
    if isinstance(texts, str) and not _names_something(texts):
        raise ArgumentError(
            f"texts: expected {_EXPECTED}, got a string that names no file, {texts[:40]!r}; of one "
            "document pass a list, [text]."
        )
    if isinstance(texts, str | Path):
        return open_corpus(texts)
    given = listed("texts", texts, _EXPECTED)
    if given and all(
        isinstance(t, Path) or (isinstance(t, str) and os.path.isfile(t)) for t in given
    ):
        raise ArgumentError(
            "texts: expected documents, got names of files; pass outdim.open_corpus(files)."
        )
    return GivenTexts(given)


def _names_something(source: str) -> bool:
    """Whether it reads as a path, a glob or an id."""
    return bool(
        ("\0" not in source and (os.path.lexists(source) or glob.has_magic(source)))
        or formats.of_file(source)
        or formats.of_source(source)
    )
