"""What the logits of several variants of a model are worth, token by token, in bounded memory.

With logits l of a variant and l0 of the intact model, p = softmax(l), p0 = softmax(l0), and the
true token t, per token:

    loss      -log p_t = logsumexp(l) - l_t
    entropy   -sum p log p = logsumexp(l) - sum p l
    kl        sum p0 (log p0 - log p) = sum p0 l0 - logsumexp(l0) - sum p0 l + logsumexp(l)
    top       share of the ten likeliest tokens that intact model and variant have in common

The sums over the vocabulary run over parts of it with a running maximum (Milakov and Gimelshein
2018), in float64, so that neither the size of the parts nor their number changes a result by more
than the rounding of the logits themselves. Of all logits only one part is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

#: From states [R, D] and a part of the vocabulary to logits [R, C].
Logits = Callable[[Tensor, slice], Tensor]

TOP = 10
# Rows and columns at a time. On CPUs a part in float64 should stay in the cache: with SmolLM2's
# output layer (576 x 49,152), three variants and one thread, 128 x 4,096 takes half as long as
# 512 x 16,384, and twice as long as the products alone.
_CPU, _CUDA = (128, 4096), (2048, 8192)


@dataclass(frozen=True, eq=False)
class Scores:
    """Of R tokens and one variant, [R] each: float64, but for ``predicted``.

    Attributes:
        loss, entropy, kl: In nats; NaN where a logit is not finite.
        top: Share of the likeliest tokens in common with the intact model.
        predicted: int64, the likeliest token.
    """

    loss: Tensor
    entropy: Tensor
    kl: Tensor
    top: Tensor
    predicted: Tensor


_FIELDS = tuple(field.name for field in fields(Scores))


def scores(
    logits: Logits,
    states: Sequence[Tensor],
    targets: Tensor,
    vocab_size: int,
    *,
    rows: int | None = None,
    columns: int | None = None,
) -> list[Scores]:
    """Score every variant.

    Args:
        logits: `outdim.models.Predictor.logits`.
        states: Of each variant [R, D], the intact model first.
        targets: The true tokens, int64 [R].
        vocab_size: V.
        rows: Of a part; None takes what suits the device.
        columns: Of a part.
    """
    some_rows, some_columns = _CUDA if targets.is_cuda else _CPU
    step, width = rows or some_rows, columns or some_columns
    blocks = [
        _block(logits, [s[i : i + step] for s in states], targets[i : i + step], vocab_size, width)
        for i in range(0, max(1, len(targets)), step)
    ]
    return [
        Scores(*(torch.cat([getattr(block[v], n) for block in blocks]) for n in _FIELDS))
        for v in range(len(states))
    ]


def _block(
    logits: Logits, states: Sequence[Tensor], targets: Tensor, vocab_size: int, width: int
) -> list[Scores]:
    variants = [_Running(len(targets), targets.device) for _ in states]
    for start in range(0, vocab_size, width):
        part = slice(start, min(start + width, vocab_size))
        intact = logits(states[0], part).double()
        weights, rescale = variants[0].take(intact, start, targets)
        variants[0].cross = variants[0].cross * rescale + (weights * intact).sum(1)
        for state, variant in zip(states[1:], variants[1:], strict=True):
            own = logits(state, part).double()
            variant.take(own, start, targets)
            variant.cross = variant.cross * rescale + (weights * own).sum(1)
    return [variant.scores(variants[0]) for variant in variants]


class _Running:
    """Sums over the part of the vocabulary that was seen, relative to its largest logit."""

    def __init__(self, rows: int, device: torch.device) -> None:
        nothing = torch.zeros(rows, dtype=torch.float64, device=device)
        self.largest = torch.full_like(nothing, -torch.inf)
        self.total = nothing  # sum exp(l - largest)
        self.weighted = nothing  # sum exp(l - largest) l
        self.cross = nothing  # sum exp(l0 - largest of l0) l
        self.true = torch.full_like(nothing, torch.nan)
        self.top = torch.empty(rows, 0, dtype=torch.float64, device=device)
        self.ids = torch.empty(rows, 0, dtype=torch.int64, device=device)

    def take(self, logits: Tensor, start: int, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Take logits [R, C] from the column ``start`` on.

        Returns exp(logits - the largest so far), and by what earlier sums were rescaled.
        """
        largest = torch.maximum(self.largest, logits.amax(1))
        rescale = (self.largest - largest).exp()
        weights = (logits - largest[:, None]).exp()
        self.total = self.total * rescale + weights.sum(1)
        self.weighted = self.weighted * rescale + (weights * logits).sum(1)
        self.largest = largest
        column = targets - start
        here = (column >= 0) & (column < logits.shape[1])
        found = logits.gather(1, torch.where(here, column, 0)[:, None])[:, 0]
        self.true = torch.where(here, found, self.true)
        top, ids = logits.topk(min(TOP, logits.shape[1]), dim=1)
        both, both_ids = torch.cat([self.top, top], 1), torch.cat([self.ids, ids + start], 1)
        self.top, order = both.topk(min(TOP, both.shape[1]), dim=1)
        self.ids = both_ids.gather(1, order)
        return weights, rescale

    def scores(self, intact: _Running) -> Scores:
        """What the sums say, beside those of the intact model."""
        normaliser = self.largest + self.total.log()
        of_intact = intact.largest + intact.total.log()
        kl = (intact.weighted - self.cross) / intact.total - of_intact + normaliser
        common = (self.ids[:, :, None] == intact.ids[:, None, :]).sum((1, 2))
        return Scores(
            loss=normaliser - self.true,
            entropy=normaliser - self.weighted / self.total,
            # Rounding: what is 0 in theory may come out as -1e-16.
            kl=kl.clamp(min=0),
            top=common.double() / self.ids.shape[1],
            predicted=self.ids[:, 0],
        )
