"""Parts of speech of the words that a model predicts, each in the place of the true one.

Puccetti et al. 2022 tag every sub-word by itself, where " the" is a blank and "run" is anything.
Here a word is tagged where it stands: the true one in its document, a predicted one in the text
around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from outdim.errors import BackendError, DataError
from outdim.tokens.in_place import InPlace, Placed

Ints = NDArray[np.int64]

#: Universal POS tags, blanks, and tokens that stand for no text.
CLASSES = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN"),
    *("PUNCT", "SCONJ", "SYM", "VERB", "X", "SPACE", "special"),
)
#: Characters of a document that is tagged, spaCy's own limit; longer ones are not.
LONGEST = 1_000_000
_OTHER, _BLANK, _SPECIAL = (CLASSES.index(name) for name in ("X", "SPACE", "special"))
_UNUSED = (
    "parser",
    "ner",
    "lemmatizer",
    "trainable_lemmatizer",
    "senter",
    "textcat",
    "entity_linker",
)
_TEXTS = 4096  # at a time


class Word(NamedTuple):
    """A word of a text, by characters, and its Universal POS tag."""

    start: int
    end: int
    tag: str


class _Tagged(NamedTuple):
    """Words of a document, where they start, and from where to where its tokens stand."""

    words: Sequence[Word]
    starts: Ints
    spans: Sequence[tuple[int, int]]


class Tagger(Protocol):
    """Tags texts."""

    @property
    def about(self) -> Mapping[str, str]:
        """What a plan records of it: its name, and versions."""

    def __call__(self, texts: Iterable[str]) -> Iterator[Sequence[Word]]:
        """The words of each text."""


class SpacyTagger:
    """A pipeline of spaCy.

    Args:
        name: Of an installed pipeline (``en_core_web_sm``), or its directory.

    Raises:
        BackendError: spaCy or the pipeline is not installed.
        DataError: The pipeline gives no parts of speech.
    """

    def __init__(self, name: str) -> None:
        try:
            import spacy
        except ImportError as error:
            raise BackendError(
                "tagger: parts of speech need spaCy; install it with `pip install 'outdim[pos]'`"
            ) from error
        try:
            self._pipeline = spacy.load(name, exclude=list(_UNUSED))
        except OSError as error:
            raise BackendError(
                f"tagger: spaCy has no pipeline {name!r} here; install one with `python -m spacy "
                "download en_core_web_sm`, or name the directory of one"
            ) from error
        if not any(token.pos_ for token in self._pipeline("This is a sentence.")):
            raise DataError(
                f"tagger: the pipeline {name!r} gives no parts of speech; it has the components "
                f"{self._pipeline.pipe_names}, and one that tags is needed, such as tagger with "
                "attribute_ruler, or morphologizer"
            )
        version = str(self._pipeline.meta.get("version", ""))
        self._about = {"name": name, "version": version, "spacy": spacy.__version__}

    @property
    def about(self) -> Mapping[str, str]:
        """Name and version of the pipeline, and version of spaCy."""
        return self._about

    def __call__(self, texts: Iterable[str]) -> Iterator[list[Word]]:
        """The words of each text."""
        for document in self._pipeline.pipe(texts):
            yield [Word(t.idx, t.idx + len(t), t.pos_) for t in document]


class PartsOfSpeech:
    """Gives the parts of speech of true and predicted tokens."""

    def __init__(self, tagger: Tagger, tokenizer: Any) -> None:
        self._tagger, self._place = tagger, InPlace(tokenizer)
        self._tagged: dict[str, _Tagged] = {}  # documents of the last call, which may go on

    def __call__(self, texts: Sequence[str], places: Ints, ids: Ints) -> Ints:
        """Numbers of `CLASSES` of R tokens, true and predicted, [S, R]; -1 for none.

        A prediction that is right has the part of speech of the true token.

        Args:
            texts: Documents.
            places: Of each token its document and which of its tokens it is, [R, 2].
            ids: True and predicted ids, [S, R], -1 for none.
        """
        found = np.full(ids.shape, -1, np.int64)
        spans = self._true(texts, places, found[0])
        self._predicted(texts, places, spans, ids, found)
        return found

    def _true(
        self, texts: Sequence[str], places: Ints, found: Ints
    ) -> list[tuple[int, int] | None]:
        spans: list[tuple[int, int] | None] = [None] * len(places)
        documents = [d for d in np.unique(places[:, 0]) if len(texts[d]) <= LONGEST]
        wanted = dict.fromkeys(texts[d] for d in documents)
        tagged = {text: self._tagged[text] for text in wanted if text in self._tagged}
        new = [text for text in wanted if text not in tagged]
        for text, words in zip(new, self._tagger(new), strict=True):
            starts = np.array([word.start for word in words])
            tagged[text] = _Tagged(words, starts, self._place.spans(text))
        self._tagged = tagged
        for document in documents:
            own = tagged[texts[document]]
            for row in np.flatnonzero(places[:, 0] == document):
                spans[row] = own.spans[places[row, 1]]
                found[row] = _class_at(own.words, own.starts, *own.spans[places[row, 1]])
        return spans

    def _predicted(
        self,
        texts: Sequence[str],
        places: Ints,
        spans: Sequence[tuple[int, int] | None],
        ids: Ints,
        found: Ints,
    ) -> None:
        waiting: dict[Placed, list[tuple[int, int]]] = {}
        for series in range(1, len(ids)):
            for row, token in enumerate(ids[series].tolist()):
                span = spans[row]
                if token < 0 or span is None:
                    continue
                if token == ids[0, row]:
                    found[series, row] = found[0, row]
                elif self._place.is_special(token):
                    found[series, row] = _SPECIAL
                else:
                    placed = self._place.written(texts[places[row, 0]], span, token)
                    waiting.setdefault(placed, []).append((series, row))
        every = list(waiting)
        for start in range(0, len(every), _TEXTS):
            some = every[start : start + _TEXTS]
            tagged = self._tagger(placed.text for placed in some)
            for placed, words in zip(some, tagged, strict=True):
                starts = np.array([word.start for word in words])
                tag = _class_at(words, starts, placed.start, placed.end)
                for series, row in waiting[placed]:
                    found[series, row] = tag


def _class_at(words: Sequence[Word], starts: Ints, start: int, end: int) -> int:
    """The class of the word that most of the characters from start to end belong to."""
    if start == end:
        return _BLANK
    first = max(0, int(np.searchsorted(starts, start, side="right")) - 1)
    best, most = _OTHER, 0
    for word in words[first:]:
        if word.start >= end:
            break
        common = min(word.end, end) - max(word.start, start)
        if common > most:
            best, most = CLASSES.index(word.tag) if word.tag in CLASSES else _OTHER, common
    return best
