"""Documents cut into pieces and batches for a model, nothing lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from outdim.errors import ArgumentError
from outdim.tokens.tokenizer import backend, special_ids, template, vocabulary_size

#: Disjoint groups of tokens: group g of `Piece.group` and `Batch.group` is ``GROUPS[g - 1]``; 0 is
#: padding and what was excluded. ``first`` is an ordinary token at the first position of its
#: sequence, where decoders put their attention sink.
GROUPS = ("text", "special", "first")
_TEXT, _SPECIAL, _FIRST = 1, 2, 3

_ENCODE_BATCH = 256  # documents
_MAX_WASTE = 0.05


@dataclass(frozen=True)
class Piece:
    """At most ``max_length`` ids of one document: template, text, template.

    Attributes:
        ids: int64 [S].
        group: uint8 [S], see `GROUPS`: special are the ids of the template and the special tokens
            that stand in the text; 0 is what was excluded.
        document: Number of the document in the order read.
        offset: Which of its tokens is the first here.
    """

    ids: NDArray[np.int64]
    group: NDArray[np.uint8]
    document: int
    offset: int


def encode_pieces(
    texts: Iterable[str], tokenizer: Any, max_length: int, *, exclude: Sequence[int] = ()
) -> Iterator[Piece]:
    """Tokenize documents and cut each into pieces of at most ``max_length`` ids, template and all.

    The text ids of the pieces of a document are, put together, exactly those of ``tokenizer(text)``
    without truncation. A document without any token gives no piece.

    Args:
        texts: Documents.
        tokenizer: What `load_tokenizer` gives.
        max_length: Ids of a piece at most, the template's among them.
        exclude: Ids that the model reads like any others, but that are in no group.

    Raises:
        ArgumentError: ``max_length`` leaves no room for text, or an excluded id is none of the
            tokenizer's.
    """
    inner = backend(tokenizer)
    prefix, suffix = (np.array(ids, np.int64) for ids in template(inner))
    room = max_length - len(prefix) - len(suffix)
    if room < 1:
        raise ArgumentError(
            f"max_length: expected at least {max_length - room + 1}, got {max_length}"
        )
    groups = _group_of_ids(tokenizer, exclude)
    of_template = np.where(groups > 0, _SPECIAL, 0).astype(np.uint8)
    document = 0
    for texts_at_once in _groups(texts, _ENCODE_BATCH):
        for encoding in inner.encode_batch_fast(texts_at_once, add_special_tokens=False):
            text_ids = np.array(encoding.ids, np.int64)
            for offset in range(0, len(text_ids), room):
                part = text_ids[offset : offset + room]
                ids = np.concatenate([prefix, part, suffix])
                group = np.concatenate([of_template[prefix], groups[part], of_template[suffix]])
                if group[0] == _TEXT:
                    group[0] = _FIRST
                yield Piece(ids, group, document, offset)
            document += 1


def _group_of_ids(tokenizer: Any, exclude: Sequence[int]) -> NDArray[np.uint8]:
    """The group of each id, [V]."""
    groups = np.full(vocabulary_size(tokenizer), _TEXT, np.uint8)
    groups[list(special_ids(tokenizer))] = _SPECIAL
    if outside := [i for i in exclude if not 0 <= i < len(groups)]:
        raise ArgumentError(f"exclude: expected ids from 0 to {len(groups) - 1}, got {outside}")
    groups[list(exclude)] = 0
    return groups


def _groups(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


@dataclass(frozen=True)
class Batch:
    """Pieces side by side, padded at the right to the longest: all tensors are [B, S].

    Attributes:
        input_ids: int64.
        attention_mask: int64, 0 where padded.
        group: uint8, see `GROUPS`; 0 where padded or excluded.
        position: int64: 0, 1, 2, ... within the piece.
        documents: int64 [B]: which document each piece is of.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    group: torch.Tensor
    position: torch.Tensor
    documents: torch.Tensor

    @property
    def tokens(self) -> int:
        """Ids that are not padding."""
        return int(self.attention_mask.sum())

    @property
    def padded(self) -> int:
        """Padding ids."""
        return self.input_ids.numel() - self.tokens

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))

    def halves(self) -> tuple[Batch, Batch]:
        """The first and the second half of the pieces."""
        middle = len(self.input_ids) // 2
        parts = (slice(None, middle), slice(middle, None))
        first, second = (
            Batch(*(getattr(self, field.name)[part] for field in fields(self))) for part in parts
        )
        return first, second


def batches(
    pieces: Iterable[Piece], token_budget: int, window: int = 4096, *, pad_id: int = 0
) -> Iterator[Batch]:
    """Put pieces of similar length together in batches of at most ``token_budget`` ids, padded.

    Within every ``window`` pieces the longest come first; a batch is closed before its padding
    would exceed 5 %. A piece longer than the budget is a batch of its own. Every piece comes
    exactly once.
    """
    if token_budget < 1:
        raise ArgumentError(f"token_budget: expected at least 1, got {token_budget}")
    if window < 1:
        raise ArgumentError(f"window: expected at least 1, got {window}")
    for group in _groups(pieces, window):
        group.sort(key=lambda piece: -len(piece.ids))
        held: list[Piece] = []
        used = 0
        for piece in group:
            if held:
                cells = (len(held) + 1) * len(held[0].ids)
                if cells > token_budget or cells - used - len(piece.ids) > _MAX_WASTE * cells:
                    yield _batch(held, pad_id)
                    held, used = [], 0
            held.append(piece)
            used += len(piece.ids)
        yield _batch(held, pad_id)


def _batch(pieces: list[Piece], pad_id: int) -> Batch:
    shape = (len(pieces), len(pieces[0].ids))
    ids = np.full(shape, pad_id, np.int64)
    mask = np.zeros(shape, np.int64)
    group = np.zeros(shape, np.uint8)
    for row, piece in enumerate(pieces):
        ids[row, : len(piece.ids)] = piece.ids
        mask[row, : len(piece.ids)] = 1
        group[row, : len(piece.ids)] = piece.group
    position = torch.arange(shape[1]).expand(shape).contiguous()
    documents = torch.tensor([piece.document for piece in pieces])
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        torch.from_numpy(group),
        position,
        documents,
    )
