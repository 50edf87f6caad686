"""Predictions without dimensions of the last layer, from its hidden states alone.

Between the last layer of a decoder and its logits stand a norm and the output layer W [V, D], so
that taking dimensions S out changes the logits of a token by vectors that are known in advance:

    x = (h - m) / s,  y = gamma x + beta,  l = W y + b          (RMSNorm: m = 0)

    readers   gamma_d = beta_d = 0:   l' = l - sum_S y_d W_d
    state     h_d = 0:                l' = r (z + sum_S (h_d / s) e_d) + c

with c = W beta + b, z = l - c, r = s / s', s' the deviation without h_S, and e_d = -gamma_d W_d;
for LayerNorm, whose mean moves as well, e_d = sum_j gamma_j W_j / D - gamma_d W_d. So a variant
costs R x V for R tokens, where the output layer would cost R x D x V. Products are taken once, in
float64; what follows in float32 where no logit can be above 128 (an error of 1e-5 at most), else in
float64 too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outdim.models.ablation import Ablation
from outdim.models.architecture import Architecture
from outdim.models.edited_logits import Block, Edits, Outputs, Tokens
from outdim.models.losses import Scores, joined
from outdim.models.norms import Norm
from outdim.models.observe import observe
from outdim.models.predictor import Predictor
from outdim.models.trace import alone, dummy_inputs
from outdim.models.unchanged import unchanged

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Rows and columns at a time: on a CPU such a part of the logits, 0.5 MB, and its like stay in the
# cache; smaller parts cost more calls.
_CPU, _CUDA = (64, 2048), (2048, 8192)
# Of the standard deviation of the states: whether they are those of the norm. In half precision
# the model rounds what is exact here.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


class LastLayer:
    """Scores a model without dimensions of its last layer, and runs nothing for it.

    Where a soft cap or a scale follows the output layer (Gemma, Cohere), it is done to each logit.
    What is scored is within 2e-5 nats a token of the model ablated (float32).

    Args:
        model: With a head over the vocabulary.
        predictor: Predictor(model).
        found: architecture(model).

    Attributes:
        note: Why there is no closed form; "" where there is one. Such as that more than a norm
            stands between the last layer and the output layer, as in the masked-LM heads of BERT
            and RoBERTa, or that the model computes in half precision.

    Example:
        >>> from outdim.models import Predictor, architecture
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_layer=2, n_embd=8, n_head=2)).eval()
        >>> last = LastLayer(model, Predictor(model), architecture(model))
        >>> last.takes(Ablation([3], [2])), last.takes(Ablation([3], [1]))
        (True, False)
    """

    def __init__(self, model: PreTrainedModel, predictor: Predictor, found: Architecture) -> None:
        readers = [point for point in found.readers if point.layer == found.layers]
        self._norm: Norm | None = found.modules[readers[0].module] if readers else None
        self._predictor, self._layer = predictor, found.layers
        self.note = _why_not(model, predictor, found, self._norm)

    def takes(self, ablation: Ablation) -> bool:
        """Whether there is a closed form of an ablation that has a meaning for the model."""
        return (
            not self.note
            and ablation.layers == (self._layer,)
            and ablation.mode == "zero"
            and ablation.only is None
            and not ablation.by_layer
            and ablation.at in ("state", "parameters" if self._norm is None else "readers")
        )

    def scores(
        self, hidden: Tensor, targets: Tensor, intact: Scores, ablations: Sequence[Ablation]
    ) -> list[Scores]:
        """Score M ablations that it takes, all of one ``at``.

        Args:
            hidden: What the last block of the intact model gives at R > 0 positions, [R, D].
            targets: The token that each predicts, int64 [R].
            intact: Of the intact model.
            ablations: M of them, at least one.

        Returns:
            As `outdim.models.losses.scores` gives with ``brief``, but that ``predicted`` may be -1
            where it is neither the true token nor that of the intact model.
        """
        rows, columns = _CUDA if hidden.is_cuda else _CPU
        edits = _edits(ablations, hidden, normed=self._norm is not None)
        parts = [slice(i, i + rows) for i in range(0, len(hidden), rows)]
        blocks = [
            Block(self._tokens(hidden[i].double(), edits), targets[i], intact.predicted[i])
            for i in parts
        ]
        for outputs in self._outputs(edits, columns):  # outside: weights in float64 are large
            for block in blocks:
                block.take(outputs, edits, self._predictor)
        every = (block.scores() for block in blocks)
        return [joined(variant) for variant in zip(*every, strict=True)]

    def _tokens(self, h: Tensor, edits: Edits) -> Tokens:
        """What the output layer takes of hidden states [R, D]."""
        norm, ones = self._norm, h.new_ones(edits.kept.shape[1], len(h))
        if norm is None:
            return Tokens(h, h[:, edits.dims], ones)
        mean = torch.zeros_like(h[:, :1]) if norm.rms else h.mean(1, keepdim=True)
        s = ((h - mean).square().mean(1, keepdim=True) + norm.eps).sqrt()
        y = (h - mean) / s
        if norm.gamma is not None:
            y = y * norm.gamma.double()
        if not edits.rescale:
            if norm.beta is not None:
                y = y + norm.beta.double()
            return Tokens(y, y[:, edits.dims], ones)
        # Summed anew: what is left where a massive activation is subtracted would be rounding.
        means = 0 if norm.rms else h @ edits.kept / h.shape[1]
        without = h.square() @ edits.kept / h.shape[1] - means**2
        ratio = s / (without.clamp(min=0) + norm.eps).sqrt()
        return Tokens(y, h[:, edits.dims] / s, ratio.T.contiguous())

    def _outputs(self, edits: Edits, step: int) -> Iterator[Outputs]:
        """Parts of the vocabulary."""
        output, norm = self._predictor.output, self._norm
        assert output is not None
        for start in range(0, self._predictor.vocab_size, step):
            columns = slice(start, min(start + step, self._predictor.vocab_size))
            weight = output.weight[columns].double()
            bias = weight.new_zeros(len(weight))
            if output.bias is not None:
                bias = output.bias[columns].double()
            changes = weight[:, edits.dims]
            if not edits.rescale or norm is None:
                yield Outputs(start, weight, bias, torch.zeros_like(bias), -changes.T.contiguous())
                continue
            if norm.beta is not None:
                bias = bias + weight @ norm.beta.double()
            gamma = weight.new_ones(weight.shape[1]) if norm.gamma is None else norm.gamma.double()
            moving = torch.zeros_like(bias) if norm.rms else weight @ gamma / weight.shape[1]
            changes = moving[:, None] - changes * gamma[edits.dims]
            yield Outputs(start, weight, torch.zeros_like(bias), bias, changes.T.contiguous())


def _edits(ablations: Sequence[Ablation], hidden: Tensor, *, normed: bool) -> Edits:
    sets = [torch.tensor(ablation.one_set, device=hidden.device) for ablation in ablations]
    dims = torch.unique(torch.cat(sets))
    kept = hidden.new_ones(hidden.shape[1], len(sets), dtype=torch.float64)
    for number, one in enumerate(sets):
        kept[one, number] = 0
    of = [torch.searchsorted(dims, one) for one in sets]
    return Edits(dims, of, kept, normed and ablations[0].at == "state")


def _why_not(
    model: PreTrainedModel, predictor: Predictor, found: Architecture, norm: Norm | None
) -> str:
    """Why there is no closed form: the output layer takes something else than the norm gives."""
    if predictor.output is None:
        return predictor.note
    ids, last = dummy_inputs(model)["input_ids"], found.blocks()[-1]
    with torch.no_grad(), alone(model), unchanged(model), observe(model, [last]) as seen:
        states = predictor.states(ids, torch.ones_like(ids))
        hidden = seen[last.name]
        expected = hidden if norm is None else norm.module(hidden)
    if states.dtype not in _TOLERANCE:
        return f"A model in {states.dtype} rounds what is exact in closed form."
    off = (states.double() - expected.double()).abs() if states.shape == expected.shape else None
    if off is None or bool((off > _TOLERANCE[states.dtype] * states.double().std()).any()):
        return (
            f"In {type(model).__name__} more than a norm stands between the last layer and the "
            "output layer (a transform, a projection)."
        )
    return ""
