"""Documents cut into pieces and batches for a model, nothing lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from outdim.errors import ArgumentError
from outdim.tokens.tokenizer import backend, special_ids, template, vocabulary_size

_ENCODE_BATCH = 256  # documents
_MAX_WASTE = 0.05


@dataclass(frozen=True)
class Piece:
    """At most ``max_length`` ids of one document: template, text, template.

    ``ids`` int64 [S]; ``special`` bool [S]: ids of the template and special tokens that stand in
    the text; ``document``: number of the document in the order read; ``offset``: which of its
    tokens is the first here.
    """

    ids: NDArray[np.int64]
    special: NDArray[np.bool_]
    document: int
    offset: int


def encode_pieces(texts: Iterable[str], tokenizer: Any, max_length: int) -> Iterator[Piece]:
    """Tokenize documents and cut each into pieces of at most ``max_length`` ids, template and all.

    The text ids of the pieces of a document are, put together, exactly those of ``tokenizer(text)``
    without truncation. A document without any token gives no piece.

    Raises:
        ArgumentError: ``max_length`` leaves no room for text.
    """
    inner = backend(tokenizer)
    prefix, suffix = template(inner)
    room = max_length - len(prefix) - len(suffix)
    if room < 1:
        raise ArgumentError(
            f"max_length: expected at least {max_length - room + 1}, got {max_length}"
        )
    special = np.zeros(vocabulary_size(tokenizer), bool)
    special[list(special_ids(tokenizer))] = True
    document = 0
    for group in _groups(texts, _ENCODE_BATCH):
        for encoding in inner.encode_batch_fast(group, add_special_tokens=False):
            text_ids = np.array(encoding.ids, np.int64)
            for offset in range(0, len(text_ids), room):
                part = text_ids[offset : offset + room]
                ids = np.concatenate([np.array(prefix, np.int64), part, np.array(suffix, np.int64)])
                mask = special[ids]
                mask[: len(prefix)] = True
                mask[len(prefix) + len(part) :] = True
                yield Piece(ids, mask, document, offset)
            document += 1


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

    ``input_ids`` int64; ``attention_mask`` int64, 0 where padded; ``special`` bool: template and
    special tokens; ``position`` int64: 0, 1, 2, ... within the piece; ``documents`` int64 [B]:
    which document each piece is of.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    special: torch.Tensor
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
    special = np.zeros(shape, bool)
    for row, piece in enumerate(pieces):
        ids[row, : len(piece.ids)] = piece.ids
        mask[row, : len(piece.ids)] = 1
        special[row, : len(piece.ids)] = piece.special
    position = torch.arange(shape[1]).expand(shape).contiguous()
    documents = torch.tensor([piece.document for piece in pieces])
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        torch.from_numpy(special),
        position,
        documents,
    )
