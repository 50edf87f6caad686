"""Pseudo-log-likelihood: what a masked language model gives a text, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.models import Predictor
from outdim.models.losses import scores
from outdim.tokens import GROUPS, Piece
from outdim.tokens.targets import each_masked, target_batches


@dataclass(frozen=True)
class Scored:
    """A sequence and which of its tokens are asked for.

    Attributes:
        ids: Token ids, special ones among them.
        words: Number of the word of each token; None for those of no word.
        targets: Positions of the tokens that are asked for.
    """

    ids: Sequence[int]
    words: Sequence[int | None]
    targets: Sequence[int]

    def piece(self, number: int) -> Piece:
        """The sequence, of whose tokens only the targets are text.

        Raises:
            ArgumentError: A target is no position of the sequence.
        """
        if bad := [t for t in self.targets if not 0 <= t < len(self.ids)]:
            raise ArgumentError(
                f"targets: expected positions 0 to {len(self.ids) - 1}, got {bad[0]}"
            )
        group = np.zeros(len(self.ids), np.uint8)
        group[list(self.targets)] = 1 + GROUPS.index("text")
        return Piece(np.asarray(self.ids, np.int64), group, number, offset=0, key=number)


class Likelihoods(NamedTuple):
    """Of N sequences.

    Attributes:
        log_p: Sum of log p over the targets of each, float64 [N].
        greedy: Whether every target is the likeliest token at its place, bool [N].
    """

    log_p: Tensor
    greedy: Tensor


@torch.inference_mode()
def pseudo_log_likelihood(
    predictor: Predictor,
    sequences: Sequence[Scored],
    *,
    mask_id: int,
    pad_id: int = 0,
    token_budget: int = 4096,
    device: torch.device | str = "cpu",
    progress: Callable[[int], object] = lambda targets: None,
) -> Likelihoods:
    """Score every target with itself and the later tokens of its word masked.

    The form ``within_word_l2r`` of Kauf and Ivanova 2023 (arXiv 2305.10588). The original form
    (Salazar et al. 2020) masks the token alone, and inflates words of several tokens, whose other
    tokens give it away. A forward row for each target; logits are never in memory as a whole.

    Args:
        predictor: Of a masked language model.
        sequences: N of them.
        mask_id: Id of the mask.
        pad_id: Id of padding.
        token_budget: Tokens of a batch, padding included.
        device: Where the model is.
        progress: Called with the number of targets of each batch that is done.

    Raises:
        ArgumentError: A target is no position of its sequence.
    """
    pieces = [sequence.piece(number) for number, sequence in enumerate(sequences)]
    items = (
        item
        for piece, sequence in zip(pieces, sequences, strict=True)
        for item in each_masked(piece, sequence.words, mask_id)
    )
    log_p, missed = torch.zeros(2, len(pieces), dtype=torch.float64)
    for batch in target_batches(items, token_budget, pad_id=pad_id):
        batch = batch.to(device)
        chosen = batch.labels >= 0
        targets = batch.labels[chosen]
        states = predictor.states(batch.input_ids, batch.batch.attention_mask)[chosen]
        (found,) = scores(predictor.logits, [states], targets, predictor.vocab_size)
        rows = batch.batch.documents[:, None].expand_as(chosen)[chosen].cpu()
        log_p.index_add_(0, rows, -found.loss.cpu())
        missed.index_add_(0, rows, (found.predicted != targets).double().cpu())
        progress(len(targets))
    return Likelihoods(log_p, missed == 0)
