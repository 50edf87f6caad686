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

Where hundreds of variants are compared, entropy and top can be left out, and terms taken in float32
and added up in float64 (``brief``): 2e-6 nats at most from the same in float64 (the rounding of exp
and of products, which the sums do not add to).
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

    @property
    def brief(self) -> bool:
        """Whether entropy and top were left out."""
        return self.top.numel() > 0 and bool(self.top.isnan().all())


def joined(parts: Sequence[Scores]) -> Scores:
    """The tokens of several, one after the other."""
    names = (field.name for field in fields(Scores))
    return Scores(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def scores(
    logits: Logits,
    states: Sequence[Tensor],
    targets: Tensor,
    vocab_size: int,
    *,
    brief: bool = False,
    rows: int | None = None,
    columns: int | None = None,
) -> list[Scores]:
    """Score every variant.

    Args:
        logits: `outdim.models.Predictor.logits`.
        states: Of each variant [R, D], the intact model first.
        targets: The true tokens, int64 [R].
        vocab_size: V.
        brief: Without entropy and top, which are NaN, and in float32 term by term.
        rows: Of a part; None takes what suits the device.
        columns: Of a part.
    """
    some_rows, some_columns = _CUDA if targets.is_cuda else _CPU
    step, width = rows or some_rows, columns or some_columns
    parts = [slice(i, i + step) for i in range(0, max(1, len(targets)), step)]
    blocks = [
        _block(logits, [s[part] for s in states], targets[part], vocab_size, width, brief)
        for part in parts
    ]
    return [joined(variant) for variant in zip(*blocks, strict=True)]


def _block(
    logits: Logits,
    states: Sequence[Tensor],
    targets: Tensor,
    vocab_size: int,
    width: int,
    brief: bool,
) -> list[Scores]:
    variants = [_Running(len(targets), targets.device, brief) for _ in states]
    for start in range(0, vocab_size, width):
        part = slice(start, min(start + width, vocab_size))
        for state, variant in zip(states, variants, strict=True):
            own = logits(state, part)
            own = own if brief else own.double()
            weights, rescale = variant.take(own, start, targets)
            if variant is variants[0]:
                of_intact, rescale_intact = weights, rescale
            variant.cross = variant.cross * rescale_intact + _total(of_intact * own)
    return [variant.scores(variants[0]) for variant in variants]


def _total(terms: Tensor) -> Tensor:
    return terms.sum(1, dtype=torch.float64)


def likeliest(
    logits: Logits,
    states: Sequence[Tensor],
    vocab_size: int,
    *,
    rows: int | None = None,
    columns: int | None = None,
) -> list[Tensor]:
    """The likeliest token of every row and variant, int64 [R]; -1 where a logit is NaN or +inf.

    Of tokens that are equally likely the first is taken. Arguments are those of `scores`.
    """
    some_rows, some_columns = _CUDA if states[0].is_cuda else _CPU
    step, width = rows or some_rows, columns or some_columns
    return [
        torch.cat(
            [
                _likeliest(logits, own[i : i + step], vocab_size, width)
                for i in range(0, max(1, len(own)), step)
            ]
        )
        for own in states
    ]


def _likeliest(logits: Logits, states: Tensor, vocab_size: int, width: int) -> Tensor:
    largest = torch.full((len(states),), -torch.inf, device=states.device, dtype=torch.float64)
    found = torch.full((len(states),), -1, device=states.device)
    for start in range(0, vocab_size, width):
        value, index = logits(states, slice(start, min(start + width, vocab_size))).max(1)
        better = (value > largest) | value.isnan()
        largest = torch.where(better, value.double(), largest)
        found = torch.where(better, index + start, found)
    return torch.where(largest.isfinite(), found, -1)


class _Running:
    """Sums over the part of the vocabulary that was seen, relative to its largest logit."""

    def __init__(self, rows: int, device: torch.device, brief: bool) -> None:
        self._brief = brief
        nothing = torch.zeros(rows, dtype=torch.float64, device=device)
        self.largest = torch.full_like(nothing, -torch.inf)
        self.total = nothing  # sum exp(l - largest)
        self.weighted = nothing  # sum exp(l - largest) l
        self.cross = nothing  # sum exp(l0 - largest of l0) l
        self.true = torch.full_like(nothing, torch.nan)
        self.predicted = torch.full((rows,), -1, device=device)
        self.top = torch.empty(rows, 0, dtype=torch.float64, device=device)
        self.ids = torch.empty(rows, 0, dtype=torch.int64, device=device)

    def take(self, logits: Tensor, start: int, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Take logits [R, C] from the column ``start`` on.

        Returns exp(logits - the largest so far), and by what earlier sums were rescaled.
        """
        # Of tokens that are equally likely, which bfloat16 has many of, the first is predicted;
        # `topk` gives them in any order.
        value, index = logits.max(1)
        largest = torch.maximum(self.largest, value.double())
        better = (value > self.largest) | value.isnan()
        self.predicted = torch.where(better, index + start, self.predicted)
        rescale = (self.largest - largest).exp()
        weights = (logits - largest[:, None].to(logits.dtype)).exp_()
        self.total = self.total * rescale + _total(weights)
        if not self._brief:
            self.weighted = self.weighted * rescale + _total(weights * logits)
        self.largest = largest
        column = targets - start
        here = (column >= 0) & (column < logits.shape[1])
        found = logits.gather(1, torch.where(here, column, 0)[:, None])[:, 0]
        self.true = torch.where(here, found.double(), self.true)
        if not self._brief:
            self._take_top(logits, start)
        return weights, rescale

    def _take_top(self, logits: Tensor, start: int) -> None:
        top, ids = logits.topk(min(TOP, logits.shape[1]), dim=1)
        both = torch.cat([self.top, top.double()], 1)
        both_ids = torch.cat([self.ids, ids + start], 1)
        self.top, order = both.topk(min(TOP, both.shape[1]), dim=1)
        self.ids = both_ids.gather(1, order)

    def scores(self, intact: _Running) -> Scores:
        """What the sums say, beside those of the intact model."""
        normaliser = self.largest + self.total.log()
        of_intact = intact.largest + intact.total.log()
        # That of the intact model with itself is its sum of p l.
        kl = (intact.cross - self.cross) / intact.total - of_intact + normaliser
        common = (self.ids[:, :, None] == intact.ids[:, None, :]).sum((1, 2)).double()
        unknown = torch.full_like(normaliser, torch.nan)
        return Scores(
            loss=normaliser - self.true,
            entropy=unknown if self._brief else normaliser - self.weighted / self.total,
            # Rounding: what is 0 in theory may come out as -1e-16.
            kl=kl.clamp(min=0),
            top=unknown if self._brief else common / self.ids.shape[1],
            predicted=self.predicted,
        )
