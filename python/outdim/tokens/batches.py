"""Pieces side by side in batches for a model, nothing lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import TypeVar

import numpy as np
import torch

from outdim.errors import ArgumentError
from outdim.tokens.pieces import Piece

P = TypeVar("P", bound=Piece)

_MAX_WASTE = 0.05


@dataclass(frozen=True)
class Batch:
    """Pieces side by side, padded at the right: all tensors are [B, S].

    Attributes:
        input_ids: int64.
        attention_mask: int64, 0 where padded.
        group: uint8, see `GROUPS`; 0 where padded or excluded.
        position: int64: 0, 1, 2, ... within the piece.
        documents: int64 [B]: which document each piece is of.
        offsets: int64 [B]: which token of its document is the first of each piece.
        keys: int64 [B]: what each of these documents is, see `outdim.tokens.Piece`.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    group: torch.Tensor
    position: torch.Tensor
    documents: torch.Tensor
    offsets: torch.Tensor
    keys: torch.Tensor

    @property
    def tokens(self) -> int:
        """Ids that are not padding."""
        return int(self.attention_mask.sum())

    @property
    def padded(self) -> int:
        """Padding ids."""
        return self.input_ids.numel() - self.tokens

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device; see `sent`."""
        return Batch(*(sent(getattr(self, field.name), device) for field in fields(self)))

    def halves(self) -> tuple[Batch, Batch]:
        """The first and the second half of the pieces."""
        middle = len(self.input_ids) // 2
        parts = (slice(None, middle), slice(middle, None))
        first, second = (
            Batch(*(getattr(self, field.name)[part] for field in fields(self))) for part in parts
        )
        return first, second


def sent(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor of a batch on a device; the host does not wait until it has arrived on a GPU.

    What is queued behind on the same stream, the forward, finds it there.
    """
    if not tensor.is_cpu or torch.device(device).type != "cuda":
        return tensor.to(device)
    # A GPU reads from pinned memory by itself, while the host goes on. Nobody here holds that
    # memory until it was read, and nobody has to: torch's allocator of pinned memory marks the
    # stream of such a copy, and gives the memory to none other before the stream has passed it.
    return tensor.pin_memory().to(device, non_blocking=True)


def batches(
    pieces: Iterable[Piece],
    token_budget: int,
    window: int = 4096,
    *,
    pad: bool = True,
    multiple: int = 1,
    pad_id: int = 0,
) -> Iterator[Batch]:
    """Put pieces of similar length together in batches of at most ``token_budget`` ids, padded.

    Within every ``window`` pieces the longest come first; a batch is closed before its padding
    would exceed 5 %. A piece longer than the budget is a batch of its own. Every piece comes
    exactly once. Padding is at the right, whatever the tokenizer would do: so the positions of the
    text are those without padding, and a causal model never sees it.

    Args:
        pieces: What `encode_pieces` gives.
        token_budget: Ids of a batch at most, padding included.
        window: Pieces that are sorted by length at a time.
        pad: False puts only pieces of one length into a batch: for models in which padding reaches
            the text (`outdim.models.Padding`).
        multiple: The length of every batch is a multiple of it, padded with any amount: for models
            that would pad so themselves.
        pad_id: The id that pads.
    """
    for group in side_by_side(pieces, token_budget, window, pad=pad, multiple=multiple):
        yield batch_of(group, pad_id, multiple)


def side_by_side(
    pieces: Iterable[P],
    token_budget: int,
    window: int = 4096,
    *,
    pad: bool = True,
    multiple: int = 1,
) -> Iterator[list[P]]:
    """The pieces of each of the `batches`, the longest first."""
    for name, value in (("token_budget", token_budget), ("window", window), ("multiple", multiple)):
        if value < 1:
            raise ArgumentError(f"{name}: expected at least 1, got {value}")
    for group in _windows(pieces, window):
        group.sort(key=lambda piece: -len(piece.ids))
        held: list[P] = []
        used = 0
        for piece in group:
            if held:
                cells = (len(held) + 1) * _width(held, multiple)
                waste = cells - used - _width([piece], multiple)
                if cells > token_budget or waste > (_MAX_WASTE * cells if pad else 0):
                    yield held
                    held, used = [], 0
            held.append(piece)
            used += _width([piece], multiple)
        yield held


def _windows(pieces: Iterable[P], size: int) -> Iterator[list[P]]:
    remaining = iter(pieces)
    while window := list(islice(remaining, size)):
        yield window


def _width(pieces: Sequence[Piece], multiple: int) -> int:
    """The length of a batch whose longest piece is the first."""
    return -(-len(pieces[0].ids) // multiple) * multiple


def batch_of(pieces: Sequence[Piece], pad_id: int = 0, multiple: int = 1) -> Batch:
    """One batch of pieces, the longest of which is the first."""
    shape = (len(pieces), _width(pieces, multiple))
    ids = np.full(shape, pad_id, np.int64)
    mask = np.zeros(shape, np.int64)
    group = np.zeros(shape, np.uint8)
    for row, piece in enumerate(pieces):
        ids[row, : len(piece.ids)] = piece.ids
        mask[row, : len(piece.ids)] = 1
        group[row, : len(piece.ids)] = piece.group
    position = torch.arange(shape[1]).expand(shape).contiguous()
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        torch.from_numpy(group),
        position,
        *(
            torch.tensor([getattr(piece, name) for piece in pieces])
            for name in ("document", "offset", "key")
        ),
    )
