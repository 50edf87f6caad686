"""Documents to token ids, whatever their length, in bounded memory."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outdim.errors import DataError
from outdim.hub import foreign_errors
from outdim.tokens.boundaries import chunk_rule
from outdim.tokens.chunk_rule import DROP, HAN, SOLID, WIDE, Rule
from outdim.tokens.normalizers import RefusedError
from outdim.tokens.tokenizer import backend

# The tokenizers library takes 60 to 180 bytes a byte of text while it encodes (measured, 0.23).
_CALL_CHARS = 1 << 20  # of the documents, or parts of one, in one call
_PART_CHARS = 1 << 16  # to which long documents are cut
_LONGEST_PART_BYTES = 8 << 20  # without a place to cut: 1.5 GB while it is encoded

# What is solid beside ASCII where the normalizer keeps it so; docs/counting.md has the argument.
_WIDE = (
    "\u00a1-\u00ac\u00ae-\u167f\u1681-\u180d\u180f-\u1fff\u2010-\u2027\u2030-\u205e"
    "\u2070-\u2580\u2582-\u2fff\u3001-\ufefe\uff00-\ufffc\U00010000-\U0010ffff"
)


Ids = NDArray[np.int64]


class EncodingError(DataError):
    """The tokenizer cannot encode some text."""


def encode_batch(inner: Any, texts: list[str]) -> list[Ids]:
    """The ids of each text without the template, by a ``tokenizers.Tokenizer``.

    Raises:
        EncodingError: It fails on one of them, or one is so long that it would take over 1.5 GB.
    """
    if longest := max((size for text in texts if (size := _long_bytes(text))), default=0):
        raise EncodingError(
            f"{longest} bytes in a row have no place at which this tokenizer's text can be cut, "
            f"expected at most {_LONGEST_PART_BYTES}: split the document"
        )
    with foreign_errors("the tokenizer fails on it", kind=EncodingError):
        rows = inner.encode_batch_fast(texts, add_special_tokens=False)
    return [np.array(row.ids, np.int64) for row in rows]


def _long_bytes(text: str) -> int:
    """Bytes of a text that is too long, else 0."""
    size = len(text.encode()) if 4 * len(text) > _LONGEST_PART_BYTES else 0
    return size if size > _LONGEST_PART_BYTES else 0


@dataclass(frozen=True)
class Unencodable:
    """A document that the tokenizer cannot encode, and why."""

    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.text[:40]!r}: {self.reason}"


class Encoder:
    """Encodes documents without the template: exactly the ids of ``tokenizer(text)``.

    A long document is encoded in parts, where the tokenizer is of a kind that allows it: the cuts
    are those of `chunk_rule`, at which no token can reach over. While it works, it takes up to 180
    bytes a byte of what is encoded at once, and that is 1 MiB or, if it is longer, one part: a
    stretch of text without such a place, or a document where the tokenizer has none. A part of over
    8 MiB (1.5 GB) is refused.

    Args:
        tokenizer: What `load_tokenizer` gives.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.inner = backend(tokenizer)
        self._cut: re.Pattern[str] | None = None
        self._strip = False
        self._whole: tuple[str, ...] = ()
        try:
            rule = chunk_rule(tokenizer)
        except RefusedError:
            return
        self._cut, self._strip, self._whole = (
            _places(rule, self.inner),
            rule.prepends,
            rule.literals,
        )

    def __call__(
        self, texts: Iterable[str], vocab_size: int | None = None
    ) -> Iterator[Ids | Unencodable]:
        """Yield the ids of each document in order, or why it has none.

        One that has an id of ``vocab_size`` or more cannot be encoded for a model of that size.
        """
        for group in _groups(texts):
            for text, ids in zip(group, self._encode(group), strict=True):
                if vocab_size is None or isinstance(ids, Unencodable):
                    yield ids
                else:
                    yield self._checked(text, ids, vocab_size)

    def _checked(self, text: str, ids: Ids, vocab_size: int) -> Ids | Unencodable:
        largest = int(ids.max(initial=0))
        if largest < vocab_size:
            return ids
        return Unencodable(
            text,
            f"it has the id {largest} ({self.inner.id_to_token(largest)!r}), the model's "
            f"vocabulary ends at {vocab_size - 1}",
        )

    def _encode(self, texts: list[str]) -> Iterator[Ids | Unencodable]:
        if len(texts[0]) > _PART_CHARS:
            yield self._encode_long(texts[0])
            return
        try:
            yield from encode_batch(self.inner, texts)
        except EncodingError as error:
            if len(texts) == 1:
                yield Unencodable(texts[0], str(error))
                return
            for text in texts:  # which of them is it?
                yield from self._encode([text])

    def _encode_long(self, text: str) -> Ids | Unencodable:
        ids = array("q")  # it grows in place: parts and their concatenation would stand twice
        try:
            for group in _groups(self._parts(text)):
                for part in encode_batch(self.inner, group):
                    ids.frombytes(part.tobytes())
        except EncodingError as error:
            return Unencodable(text, str(error))
        return np.frombuffer(ids, np.int64)

    def _parts(self, text: str) -> Iterator[str]:
        """Cut a text into parts whose ids, one after the other, are its own."""
        if self._cut is None or any(literal in text for literal in self._whole):
            yield text
            return
        start = 0
        while match := self._cut.search(text, start + _PART_CHARS // 2):
            yield text[start : match.start()]
            start = match.start() + self._strip  # the normalizer puts the space there again
        yield text[start:]


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    """Documents to be encoded at once: a long one alone."""
    held: list[str] = []
    size = 0
    for text in texts:
        if held and (len(text) > _PART_CHARS or size + len(text) > _CALL_CHARS):
            yield held
            held, size = [], 0
        held.append(text)
        size += len(text)
        if len(text) > _PART_CHARS:
            yield held
            held, size = [], 0
    if held:
        yield held


def _places(rule: Rule, inner: Any) -> re.Pattern[str]:
    """A pattern that matches the empty string where the rule cuts: at blanks, and ideographs.

    The finer cuts are left out: they would have to keep clear of added tokens.
    """
    of_class: dict[int, str] = defaultdict(str)
    for code, one in enumerate(rule.classes[:128]):
        of_class[one] += re.escape(chr(code))
    if not rule.dropped:
        solid = "".join(of_class[one] for one in sorted(SOLID)) + (_WIDE if rule.wide else "")
        return re.compile(f"(?<=[{solid}])(?= [{solid}])")
    places = f"(?=[{of_class[DROP]}])"
    added = "".join(token.content for token in inner.get_added_tokens_decoder().values())
    if (WIDE, HAN) in rule.cuts and added.isascii():
        places += "|(?=[\u5000-\u9fff])"
    return re.compile(places)
