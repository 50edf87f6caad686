"""Pieces with what a language model has to predict in them: the next tokens, or masked ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from outdim.stats.splitmix import GAMMA, splitmix64
from outdim.tokens.batches import Batch, batch_of, sent, side_by_side
from outdim.tokens.pieces import GROUPS, Piece

_PREDICTED = [1 + GROUPS.index(group) for group in ("text", "first")]
_STREAMS = 3  # numbers that a position draws
_MASKED, _EXCHANGED = 0.8, 0.1  # of the chosen tokens (Devlin et al. 2019)


@dataclass(frozen=True)
class Item(Piece):
    """A piece, with the token that is to be predicted from each position.

    Attributes:
        labels: int64 [S], -1 where nothing is.
        ahead: How many positions further the predicted token stands.
    """

    labels: NDArray[np.int64]
    ahead: int = 0


def next_tokens(piece: Piece) -> Item:
    """Every token of the text is predicted from the one before it, where there is one."""
    labels = np.full(len(piece.ids), -1, np.int64)
    labels[:-1] = np.where(np.isin(piece.group[1:], _PREDICTED), piece.ids[1:], -1)
    return Item(**vars(piece), labels=labels, ahead=1)


def seen(piece: Piece) -> Item:
    """Every token of the text is to be given back, none of them masked."""
    labels = np.where(np.isin(piece.group, _PREDICTED), piece.ids, -1)
    return Item(**vars(piece), labels=labels)


def masked(
    piece: Piece, key: int, share: float, mask_id: int, replacements: NDArray[np.int64]
) -> Item:
    """A random share of the tokens is to be predicted, as BERT was trained (Devlin et al. 2019).

    Of these 80 % are replaced by the mask, 10 % by a random token, 10 % stay. The choice is a
    function of ``key`` and the position in the document alone: the random numbers are those of
    splitmix64 (Steele et al. 2014) with this state, three a position, whoever draws them and when.

    Args:
        piece: At its ``offset`` in the document.
        key: Of the document and the seed, 64 bits.
        share: Of the tokens.
        mask_id: The mask.
        replacements: What random tokens are drawn from.
    """
    position = np.arange(len(piece.ids)) + piece.offset
    chosen = np.isin(piece.group, _PREDICTED) & (_uniform(key, 0, position) < share)
    kind = _uniform(key, 1, position)
    other = replacements[(_uniform(key, 2, position) * len(replacements)).astype(np.int64)]
    ids = np.where(chosen & (kind < _MASKED), mask_id, piece.ids)
    exchanged = chosen & (kind >= _MASKED) & (kind < _MASKED + _EXCHANGED)
    ids = np.where(exchanged, other, ids)
    labels = np.where(chosen, piece.ids, -1)
    return Item(**{**vars(piece), "ids": ids}, labels=labels)


def each_masked(piece: Piece, words: Sequence[int | None], mask_id: int) -> Iterator[Item]:
    """Every token is predicted once, with the later tokens of its word masked as well.

    Pseudo-log-likelihood ``within_word_l2r`` (Kauf and Ivanova 2023): where only the token itself
    is masked, the rest of a word gives it away, and rare words of many tokens score too well.

    Args:
        piece: With its text tokens.
        words: Which word each token of the piece belongs to, [S]; None for none.
        mask_id: The mask.
    """
    numbers = np.array([-1 if word is None else word for word in words])
    for t in np.flatnonzero(np.isin(piece.group, _PREDICTED)).tolist():
        hidden = (numbers == numbers[t]) & (numbers[t] >= 0)
        hidden[: t + 1] = False
        hidden[t] = True
        labels = np.full(len(piece.ids), -1, np.int64)
        labels[t] = piece.ids[t]
        yield Item(**{**vars(piece), "ids": np.where(hidden, mask_id, piece.ids)}, labels=labels)


def _uniform(key: int, stream: int, position: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers in [0, 1): outputs ``_STREAMS * position + stream`` of splitmix64 from ``key`` on."""
    state = np.uint64(key) + (position * _STREAMS + stream).astype(np.uint64) * GAMMA
    return np.asarray((splitmix64(state) >> np.uint64(11)) * 2.0**-53)


@dataclass(frozen=True)
class TargetBatch:
    """Items side by side.

    Attributes:
        batch: What the model reads.
        labels: int64 [B, S], -1 where nothing is predicted.
        first: int64 [B]: the place in its document, the template counted as before every piece, of
            the token that is predicted from the first position.
    """

    batch: Batch
    labels: torch.Tensor
    first: torch.Tensor

    @property
    def input_ids(self) -> torch.Tensor:
        """Ids [B, S]."""
        return self.batch.input_ids

    def to(self, device: torch.device | str) -> TargetBatch:
        """The same batch on a device."""
        return TargetBatch(
            self.batch.to(device), sent(self.labels, device), sent(self.first, device)
        )

    def halves(self) -> tuple[TargetBatch, TargetBatch]:
        """The first and the second half of the items."""
        first, second = self.batch.halves()
        middle = len(first.input_ids)
        return (
            TargetBatch(first, self.labels[:middle], self.first[:middle]),
            TargetBatch(second, self.labels[middle:], self.first[middle:]),
        )


def target_batches(
    items: Iterable[Item],
    token_budget: int,
    *,
    pad: bool = True,
    multiple: int = 1,
    pad_id: int = 0,
) -> Iterator[TargetBatch]:
    """Put items of similar length together; arguments as those of `outdim.tokens.batches`."""
    for group in side_by_side(items, token_budget, pad=pad, multiple=multiple):
        batch = batch_of(group, pad_id, multiple)
        labels = np.full(batch.input_ids.shape, -1, np.int64)
        for row, item in enumerate(group):
            labels[row, : len(item.labels)] = item.labels
        places = torch.tensor([item.offset + item.ahead for item in group])
        yield TargetBatch(batch, torch.from_numpy(labels), places)
