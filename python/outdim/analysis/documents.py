"""What is noted of the documents of a text while they are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import xxhash

from outdim.analysis.inputs import Inputs
from outdim.tokens import Piece
from outdim.tokens.tokenizer import backend, template


class Documents:
    """What is noted of the documents of a unit while they are read, by their number.

    Attributes:
        keys: 64 bits of the text and the seed, by which its masks are drawn.
        bytes: UTF-8.
        tokens: Without those of the template.
        texts: Themselves, where they are kept.
        before: Tokens of the template before a text.
    """

    def __init__(
        self, inputs: Inputs, seed: int, *, words: bool = False, texts: bool = False
    ) -> None:
        self._seed = seed
        self._inner = backend(inputs.tokenizer)
        self._template = tuple(map(len, template(self._inner)))
        self.before = self._template[0]
        self.texts: list[str] | None = [] if texts else None
        self._words: list[list[int | None]] | None = [] if words else None
        self.keys: list[int] = []
        self.bytes: list[int] = []
        self.tokens: dict[int, int] = {}

    def watch(self, texts: Iterable[str]) -> Iterator[str]:
        """Hand documents on, noting what they are."""
        for text in texts:
            encoded = text.encode()
            self.keys.append(xxhash.xxh64_intdigest(encoded, self._seed))
            self.bytes.append(len(encoded))
            if self._words is not None:
                self._words.append(self._inner.encode(text, add_special_tokens=False).word_ids)
            if self.texts is not None:
                self.texts.append(text)
            yield text

    def noting(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Hand pieces on, adding up their tokens."""
        for piece in pieces:
            own = len(piece.ids) - sum(self._template)
            self.tokens[piece.document] = self.tokens.get(piece.document, 0) + own
            yield piece

    def share(self, unit: Mapping[str, Any], tokens: int) -> float:
        """Which share of a unit so many tokens are, as far as what was read of it tells."""
        read, whole = sum(self.bytes), unit.get("size_bytes") or 0
        expected = sum(self.tokens.values()) * max(1.0, whole / read if read else 1.0)
        return min(1.0, tokens / expected) if expected else 1.0

    def words_of(self, piece: Piece) -> list[int | None]:
        """Which word of its document each token of a piece belongs to."""
        assert self._words is not None
        before, after = self._template
        own = len(piece.ids) - before - after
        words = self._words[piece.document][piece.offset : piece.offset + own]
        return [*[None] * before, *words, *[None] * after]
