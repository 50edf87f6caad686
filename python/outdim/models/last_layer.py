"""Losses without each dimension of the last layer, from its hidden states alone.

Between the last layer of a decoder and its logits stand a norm and the output layer W [V, D], so
that taking one dimension out changes the logits of a token by a vector that is known in advance:

    x = (h - m) / s,  y = gamma x + beta,  l = W y + b          (RMSNorm: m = 0)

    readers   gamma_d = beta_d = 0:   l' = l - y_d W_d
    state     h_d = 0:                l' = r (z + (h_d / s) e_d) + c

with c = W beta + b, z = l - c, r = s / s', s' the deviation without h_d, and e_d = -gamma_d W_d;
for LayerNorm, whose mean moves as well, e_d = sum_j gamma_j W_j / D - gamma_d W_d. So a variant
costs R x V for R tokens, where the output layer would cost R x D x V. Products are taken once, in
float64; what follows in float32 where no logit can be above 128 (an error of 1e-5 at most), else in
float64 too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.models.ablation import Ablation, At
from outdim.models.ablation_sites import sites
from outdim.models.architecture import Architecture, architecture
from outdim.models.norms import Norm
from outdim.models.observe import observe
from outdim.models.predictor import Predictor
from outdim.models.trace import alone, dummy_inputs
from outdim.models.unchanged import unchanged

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# At a time: such a part of the logits, 0.5 MB, stays in the cache; with four times as many, and
# with torch's logsumexp, which looks for its maximum, it takes four times as long a logit.
_ROWS, _COLUMNS = 64, 2048
_LARGE = 128.0  # of a logit: float32 rounds it by 8e-6
_FAR = 60.0  # below the bound exp is still a normal number in float32
# Of the standard deviation of the states: whether they are those of the norm.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class LastLayer:
    """Computes losses without dimensions of the last layer of a model, without running it.

    Where a soft cap or a scale follows the output layer (Gemma, Cohere), it is done to each logit.

    Args:
        model: With a head over the vocabulary.
        at: "state", "readers" or "parameters", see `outdim.ablate`.
        predictor: Predictor(model).
        found: architecture(model).

    Raises:
        ArgumentError: An ``at`` that means nothing for the model, or "denominator"; more than a
            norm stands between the last layer and the output layer, as in the masked-LM heads of
            BERT and RoBERTa: there is no closed form, and the head has to be run.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_layer=2, n_embd=8, n_head=2)).eval()
        >>> hidden, targets = torch.randn(5, 8), torch.arange(5)
        >>> LastLayer(model).losses(hidden, targets, [3, 7]).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        model: PreTrainedModel,
        at: At = "state",
        *,
        predictor: Predictor | None = None,
        found: Architecture | None = None,
    ) -> None:
        found = architecture(model) if found is None else found
        predictor = Predictor(model) if predictor is None else predictor
        if at == "denominator":
            raise ArgumentError(
                "at: expected 'state', 'parameters' or 'readers', got 'denominator'; run the model"
            )
        sites(found, Ablation((0,), (found.layers,), at))  # or it says what has a meaning
        readers = [point for point in found.readers if point.layer == found.layers]
        self._at = at
        self._norm: Norm | None = found.modules[readers[0].module] if readers else None
        self._predictor = predictor
        _check(model, found, predictor, self._norm)

    def losses(self, hidden: Tensor, targets: Tensor, dims: Sequence[int]) -> Tensor:
        """-log p of the true token without each of M dimensions in turn, float64 [R, M].

        Args:
            hidden: What the last block gives at R positions, [R, D].
            targets: The token that each predicts, int64 [R].
            dims: M of them.

        Raises:
            ArgumentError: Shapes that do not fit, dimensions that are not there.
        """
        if hidden.dim() != 2 or targets.shape != hidden.shape[:1]:
            raise ArgumentError(
                f"targets: expected one for each of hidden [R, D], got {tuple(targets.shape)} for "
                f"{tuple(hidden.shape)}"
            )
        if wrong := [dim for dim in dims if not 0 <= dim < hidden.shape[1]]:
            raise ArgumentError(f"dims: expected 0 to {hidden.shape[1] - 1}, got {wrong[0]}")
        of = torch.tensor(list(dims), dtype=torch.int64, device=hidden.device)
        with torch.inference_mode():
            rows = [slice(i, i + _ROWS) for i in range(0, max(1, len(hidden)), _ROWS)]
            tokens = [self._tokens(hidden[some].double(), of) for some in rows]
            total = [torch.full_like(some.factor, -torch.inf) for some in tokens]
            for outputs in self._columns():  # outside, since weights in float64 are large
                edits = outputs.edits(of).T.contiguous()
                for n, some in enumerate(tokens):
                    total[n] = torch.logaddexp(total[n], self._part(some, outputs, edits))
            true = [
                self._true(some, targets[row], of) for some, row in zip(tokens, rows, strict=True)
            ]
            return torch.cat(total) - torch.cat(true)

    def _true(self, tokens: _Tokens, targets: Tensor, dims: Tensor) -> Tensor:
        """The logits of the true tokens [R, M]."""
        true = self._outputs(targets)
        z = (tokens.source * true.weight).sum(1, keepdim=True) + true.start[:, None]
        own = torch.addcmul(z, tokens.factor, true.edits(dims)) * tokens.ratio
        return self._predictor.finish(own + true.end[:, None])

    def _part(self, tokens: _Tokens, outputs: _Outputs, edits: Tensor) -> Tensor:
        """Log sum exp [R, M] over a part of the vocabulary, of edits [M, C]."""
        finish, end = self._predictor.finish, outputs.end
        moved = bool(end.any())
        z = torch.addmm(outputs.start, tokens.source, outputs.weight.T)
        change = tokens.factor.abs() * edits.abs().amax(1)
        size = tokens.ratio * (z.abs().amax(1, keepdim=True) + change) + end.abs().amax()
        # No logit is above it, and the largest not much below: what a maximum is needed for.
        bound = finish(tokens.ratio * (z.amax(1, keepdim=True) + change) + end.amax())
        below = 2 * tokens.ratio * change + end.amax() - end.amin()
        exact = ((size > _LARGE) | (below > _FAR)).any(0).tolist()
        narrow = [v.float() for v in (z, tokens.factor, tokens.ratio, edits, end, bound)]
        found = torch.empty_like(tokens.factor)
        for k, wide in enumerate(exact):
            if wide:
                logits = torch.addcmul(z, tokens.factor[:, k, None], edits[k])
                logits = logits.mul_(tokens.ratio[:, k, None]).add_(end)
                found[:, k] = finish(logits).logsumexp(1)
                continue
            base, factor, ratio, edit, added, most = narrow
            logits = torch.addcmul(base, factor[:, k, None], edit[k])
            if self._rescales:
                logits.mul_(ratio[:, k, None])
            if moved:
                logits.add_(added)
            found[:, k] = finish(logits).sub_(most[:, k, None]).exp_().sum(1).log()
            found[:, k] += most[:, k]
        return found

    @property
    def _rescales(self) -> bool:
        return self._at == "state" and self._norm is not None

    def _tokens(self, h: Tensor, dims: Tensor) -> _Tokens:
        norm = self._norm
        ones = h.new_ones(len(h), len(dims))
        if norm is None:
            return _Tokens(h, h[:, dims], ones)
        mean = torch.zeros_like(h[:, :1]) if norm.rms else h.mean(1, keepdim=True)
        s = ((h - mean).square().mean(1, keepdim=True) + norm.eps).sqrt()
        y = (h - mean) / s
        if norm.gamma is not None:
            y = y * norm.gamma.double()
        if not self._rescales:
            if norm.beta is not None:
                y = y + norm.beta.double()
            return _Tokens(y, y[:, dims], ones)
        return _Tokens(y, h[:, dims] / s, s / _deviations_without(h, dims, norm))

    def _outputs(self, columns: slice | Tensor) -> _Outputs:
        """Of some entries of the vocabulary."""
        output, norm = self._predictor.output, self._norm
        assert output is not None
        weight = output.weight[columns].double()
        nothing = weight.new_zeros(len(weight))
        end = nothing if output.bias is None else output.bias[columns].double()
        if not self._rescales or norm is None:
            return _Outputs(weight, end, nothing, None, nothing)
        if norm.beta is not None:
            end = end + weight @ norm.beta.double()
        gamma = weight.new_ones(weight.shape[1]) if norm.gamma is None else norm.gamma.double()
        mean = nothing if norm.rms else weight @ gamma / weight.shape[1]
        return _Outputs(weight, nothing, end, gamma, mean)

    def _columns(self) -> Iterator[_Outputs]:
        size = self._predictor.vocab_size
        for start in range(0, size, _COLUMNS):
            yield self._outputs(slice(start, min(start + _COLUMNS, size)))


class _Tokens(NamedTuple):
    """R tokens: what the output layer takes, without beta where that is not rescaled, [R, D].

    And for each of M dimensions by what its edit is multiplied, and what all is then, [R, M].
    """

    source: Tensor
    factor: Tensor
    ratio: Tensor


class _Outputs(NamedTuple):
    """C entries of the vocabulary: weights [C, D], and what is added before and after the ratio.

    gamma: [D] by which weights are scaled in an edit; None for 1.
    mean: What the moving mean adds to an edit, [C].
    """

    weight: Tensor
    start: Tensor
    end: Tensor
    gamma: Tensor | None
    mean: Tensor

    def edits(self, dims: Tensor) -> Tensor:
        """The vectors e [C, M]."""
        scaled = self.weight[:, dims]
        if self.gamma is not None:
            scaled = scaled * self.gamma[dims]
        return self.mean[:, None] - scaled


def _deviations_without(h: Tensor, dims: Tensor, norm: Norm) -> Tensor:
    """The deviation of each token [R, M] where a dimension is 0."""
    size = h.shape[1]
    own = h[:, dims]
    squares = h.square().sum(1, keepdim=True) - own.square()
    mean = torch.zeros_like(own) if norm.rms else (h.sum(1, keepdim=True) - own) / size
    # Of what is all but one dimension rounding may leave less than nothing.
    return ((squares / size - mean.square()).clamp(min=0) + norm.eps).sqrt()


def _check(
    model: PreTrainedModel, found: Architecture, predictor: Predictor, norm: Norm | None
) -> None:
    """Raise where the output layer takes something else than the norm of the last layer."""
    ids = dummy_inputs(model)["input_ids"]
    last = found.blocks()[-1]
    name = type(model).__name__
    if predictor.output is None:
        raise ArgumentError(f"model: {predictor.note} There is no closed form; run the model")
    with torch.no_grad(), alone(model), unchanged(model), observe(model, [last]) as seen:
        states = predictor.states(ids, torch.ones_like(ids))
        hidden = seen[last.name]
        expected = hidden if norm is None else norm.module(hidden)
    tolerance = _TOLERANCE[states.dtype] * float(states.double().std())
    if states.shape != expected.shape or bool(
        ((states.double() - expected.double()).abs() > tolerance).any()
    ):
        raise ArgumentError(
            f"model: in {name} more than a norm stands between the last layer and the output layer "
            "(a transform, a projection), so that there is no closed form; run the head instead"
        )
