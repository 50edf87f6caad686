"""Documents cut into pieces for a model: template, text, template."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from outdim.errors import ArgumentError, DataError
from outdim.tokens.encode import Encoder, Unencodable
from outdim.tokens.tokenizer import special_ids, template, vocabulary_size

#: Disjoint groups of tokens: group g of `Piece.group` and `Batch.group` is ``GROUPS[g - 1]``; 0 is
#: padding and what was excluded. ``first`` is an ordinary token at the first position of its
#: sequence, where decoders put their attention sink.
GROUPS = ("text", "special", "first")
_TEXT, _SPECIAL, _FIRST = 1, 2, 3


@dataclass(frozen=True)
class Piece:
    """At most ``max_length`` ids of one document: template, text, template.

    Attributes:
        ids: int64 [S].
        group: uint8 [S], see `GROUPS`: special are the ids of the template and the special tokens
            that stand in the text; 0 is what was excluded.
        document: Number of the document in the order read.
        offset: Which of its tokens is the first here.
        key: Of the document, see `document_key`: what it is, wherever it stands.
    """

    ids: NDArray[np.int64]
    group: NDArray[np.uint8]
    document: int
    offset: int
    key: int


def document_key(text: str) -> int:
    """63 bits of a text: the same from any cut of a corpus, and of equal documents.

    Example:
        >>> document_key("one") == document_key("one") != document_key("two")
        True
    """
    return xxhash.xxh64_intdigest(text.encode("utf-8", "surrogatepass")) >> 1


class PieceEncoder:
    """Tokenizes documents and cuts each into pieces: template, text, template.

    The text ids of the pieces of a document are, put together, exactly those of ``tokenizer(text)``
    without truncation. A document without any token gives no piece. Memory is bounded as `Encoder`
    says.

    Args:
        tokenizer: What `load_tokenizer` gives; read once, so that an object serves many texts.
        max_length: Ids of a piece at most, the template's among them.
        exclude: Ids that the model reads like any others, but that are in no group.
        vocab_size: Of the model, if it may be smaller than the tokenizer's.

    Raises:
        ArgumentError: ``max_length`` leaves no room for text, or an excluded id is none of the
            tokenizer's.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        *,
        exclude: Sequence[int] = (),
        vocab_size: int | None = None,
    ) -> None:
        self._encoder = Encoder(tokenizer)
        self._vocab_size = vocab_size
        prefix, suffix = (np.array(ids, np.int64) for ids in template(self._encoder.inner))
        self._room = max_length - len(prefix) - len(suffix)
        if self._room < 1:
            raise ArgumentError(
                f"max_length: expected at least {max_length - self._room + 1}, got {max_length}"
            )
        self._group = _group_of_ids(tokenizer, exclude)
        of_template = np.where(self._group > 0, _SPECIAL, 0).astype(np.uint8)
        self._prefix, self._suffix = prefix, suffix
        self._prefix_group, self._suffix_group = of_template[prefix], of_template[suffix]

    def __call__(
        self, texts: Iterable[str], skip: Callable[[str], None] | None = None
    ) -> Iterator[Piece]:
        """Yield the pieces of each document in order.

        Args:
            texts: Documents.
            skip: Called with the reason for each document that cannot be encoded, which then gives
                no piece; None raises.

        Raises:
            DataError: The tokenizer fails on a document, or gives an id that the model lacks.
        """
        texts, again = tee(texts)  # the encoder reads ahead of what it yields
        encoded = zip(self._encoder(texts, self._vocab_size), again, strict=True)
        for document, (text_ids, text) in enumerate(encoded):
            if isinstance(text_ids, Unencodable):
                if skip is None:
                    raise DataError(f"tokenizer: document {document + 1}, {text_ids}")
                skip(f"document {document + 1}, {text_ids}")
                continue
            key = document_key(text)
            for offset in range(0, len(text_ids), self._room):
                ids, group = self._framed(text_ids[offset : offset + self._room])
                yield Piece(ids, group, document, offset, key)

    def _framed(self, text_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Ids in the template, and the group of each."""
        ids = np.concatenate([self._prefix, text_ids, self._suffix])
        group = np.concatenate([self._prefix_group, self._group[text_ids], self._suffix_group])
        if group[0] == _TEXT:
            group[0] = _FIRST
        return ids, group


def encode_pieces(
    texts: Iterable[str],
    tokenizer: Any,
    max_length: int,
    *,
    exclude: Sequence[int] = (),
    vocab_size: int | None = None,
    skip: Callable[[str], None] | None = None,
) -> Iterator[Piece]:
    """Cut documents into pieces by a `PieceEncoder` of these arguments."""
    encode = PieceEncoder(tokenizer, max_length, exclude=exclude, vocab_size=vocab_size)
    return encode(texts, skip)


def _group_of_ids(tokenizer: Any, exclude: Sequence[int]) -> NDArray[np.uint8]:
    """The group of each id, [V]."""
    groups = np.full(vocabulary_size(tokenizer), _TEXT, np.uint8)
    groups[list(special_ids(tokenizer))] = _SPECIAL
    if outside := [i for i in exclude if not 0 <= i < len(groups)]:
        raise ArgumentError(f"exclude: expected ids from 0 to {len(groups) - 1}, got {outside}")
    groups[list(exclude)] = 0
    return groups
