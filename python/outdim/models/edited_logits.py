"""Logits less known vectors, a part of the vocabulary at a time, and what they score.

See `outdim.models.last_layer`, whose notation this takes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from outdim.models.losses import Scores
from outdim.models.predictor import Predictor

_LARGE = 128.0  # of a logit: float32 rounds it by 8e-6


class Edits(NamedTuple):
    """What M ablations take out.

    Attributes:
        dims: All of the dimensions, [U].
        of: By ablation, which of these it has.
        kept: 1 for a dimension that is left and 0 for one that is not, [D, M].
        rescale: Whether the norm is another without them.
    """

    dims: Tensor
    of: list[Tensor]
    kept: Tensor
    rescale: bool


class Tokens(NamedTuple):
    """R tokens.

    Attributes:
        source: What the output layer takes, without beta where that is not rescaled, [R, D].
        factor: By what the edit of each dimension is multiplied, [R, U].
        ratio: By what all is multiplied then, [M, R].
    """

    source: Tensor
    factor: Tensor
    ratio: Tensor


class Outputs(NamedTuple):
    """C entries of the vocabulary from ``start`` on.

    Attributes:
        weight: [C, D].
        before, after: What is added before and after all is multiplied by the ratio, [C].
        edits: The vectors e, [U, C].
    """

    start: int
    weight: Tensor
    before: Tensor
    after: Tensor
    edits: Tensor


class Block:
    """Sums of R tokens over the part of the vocabulary that was seen, [M, R] in float64."""

    def __init__(self, tokens: Tokens, targets: Tensor, predicted: Tensor) -> None:
        self._tokens, self._named = tokens, torch.stack([targets, predicted], 1)
        none = torch.zeros_like(tokens.ratio)
        self._top, self._normaliser = none - torch.inf, none - torch.inf  # log sum exp(l)
        self._cross = none  # sum exp(l0 - largest of l0) l
        self._true = none + torch.nan  # the logits of the targets
        self._likeliest = torch.full_like(none, -1, dtype=torch.int64)
        zero = tokens.ratio.new_zeros(len(targets))
        # Of the intact model: the largest l0, sum exp(l0 - that), and the same times l0.
        self._largest, self._total, self._self = zero - torch.inf, zero, zero

    def take(self, outputs: Outputs, edits: Edits, predictor: Predictor) -> None:
        """Take a part of the vocabulary."""
        tokens, after = self._tokens, outputs.after
        z = torch.addmm(outputs.before, tokens.source, outputs.weight.T)
        weights = self._take_intact(predictor.finish(z + after))
        column = self._named - outputs.start
        here = (column >= 0) & (column < len(after))
        column = torch.where(here, column, 0)
        wide = (z, tokens.factor, outputs.edits, tokens.ratio, after, weights)
        narrow = [one.float() for one in wide]
        moved = bool(after.any())
        found, likeliest = [], []
        for k, (of, large) in enumerate(zip(edits.of, self._large(z, outputs, edits), strict=True)):
            base, factor, edit, ratio, added, own = wide if large else narrow
            logits = torch.addmm(base, factor[:, of], edit[of])
            if edits.rescale:
                logits.mul_(ratio[k, :, None])
            if moved:
                logits.add_(added)
            logits = predictor.finish(logits)
            top, named = logits.amax(1), logits.gather(1, column)
            likeliest.append(_likeliest(logits, (here & (named == top[:, None])).any(1)))
            logits.sub_(top[:, None])
            cross = (logits * own).sum(1)
            found.append((top, cross, logits.exp_().sum(1), named[:, 0]))
        top, cross, total, true = (
            torch.stack([one.double() for one in each]) for each in zip(*found, strict=True)
        )
        self._normaliser = torch.logaddexp(self._normaliser, top + total.log())
        self._cross = self._cross + cross + top * weights.sum(1)
        self._true = torch.where(here[:, 0], true, self._true)
        self._take_likeliest(top, torch.stack(likeliest), outputs.start)

    def _take_likeliest(self, top: Tensor, column: Tensor, start: int) -> None:
        """Of equally likely tokens the first, as in `outdim.models.losses`."""
        better = (top > self._top) | top.isnan()
        chosen = torch.where(column < 0, -1, column + start)
        self._likeliest = torch.where(better, chosen, self._likeliest)
        self._top = torch.maximum(self._top, top)

    def _take_intact(self, logits: Tensor) -> Tensor:
        """exp(l0 - largest) [R, C] in float64, after rescaling the sums to the largest so far."""
        largest = torch.maximum(self._largest, logits.amax(1))
        rescale = (self._largest - largest).exp()
        weights = (logits - largest[:, None]).exp()
        self._total = self._total * rescale + weights.sum(1)
        self._self = self._self * rescale + (weights * logits).sum(1)
        self._cross = self._cross * rescale
        self._largest = largest
        return weights

    def _large(self, z: Tensor, outputs: Outputs, edits: Edits) -> list[bool]:
        """By ablation, whether a logit before a soft cap may be too large for float32."""
        tokens, taken = self._tokens, 1 - edits.kept[edits.dims]
        change = (tokens.factor.abs() * outputs.edits.abs().amax(1)) @ taken
        size = tokens.ratio * (z.abs().amax(1) + change.T)
        return (size.amax(1) + outputs.after.abs().amax() > _LARGE).tolist()

    def scores(self) -> list[Scores]:
        """By ablation."""
        of_intact = self._largest + self._total.log()
        kl = (self._self - self._cross) / self._total - of_intact + self._normaliser
        unknown = torch.full_like(of_intact, torch.nan)
        rows = zip(self._normaliser - self._true, kl.clamp(min=0), self._likeliest, strict=True)
        return [Scores(loss, unknown, kl, unknown, likeliest) for loss, kl, likeliest in rows]


def _likeliest(logits: Tensor, rows: Tensor) -> Tensor:
    """Column of the largest logit, the first of several, in some rows; -1 in the others.

    On CPUs it takes 13 times as long to find as the logit itself, so that only rows are looked at
    where it may be that of a token that is asked for.
    """
    found = torch.full((len(logits),), -1, device=logits.device)
    some = rows.nonzero()[:, 0]
    if len(some):
        found[some] = logits.index_select(0, some).max(1).indices  # argmax takes longer
    return found
