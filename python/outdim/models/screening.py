"""Screening: which dimensions of which layers a loss depends on, by one backward pass for all.

With the hidden state h [N, D] after a layer and g = dL/dh, per layer and dimension:

    absolute    sum |h g|
    squared     sum (h g)^2
    signed      -sum h g, to first order what the loss rises by when h is set to 0
    magnitude   sum |h|, which needs no gradient

over tokens, in float64. What is to first order is not what an ablation does: gradients at the
intact model do not see saturated attention, and where some tokens gain what others lose the signed
sum cancels (AtP*, Kramar et al. 2024, arXiv 2403.00745, names both): on SmolLM2 it ranks the
second-worst dimension last of 576. Absolute and squared do not cancel; no sum is an estimate of the
damage, and what they rank has to be verified (`outdim.stats.verification`).

Integrated gradients were tried and lost. Those of one dimension take a forward and a backward pass
a step, where its damage itself takes one forward. With one path for all, on which every dimension
shrinks, 4 steps put two of SmolLM2's six worst dimensions at places 386 and 397 of 576: far from
the intact model, gradients speak of another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from outdim.errors import ArgumentError, DataError
from outdim.models.architecture import Architecture, architecture, check_eval_mode, check_model
from outdim.models.loss_sum import loss_sum
from outdim.models.points import Point
from outdim.models.predictor import Predictor
from outdim.models.watch import Watch, by_module, frames_of

#: The rows of the sums.
SCORES = ("absolute", "squared", "signed", "magnitude")


@dataclass(frozen=True, eq=False)
class Screening:
    """Sums over all tokens that were read, not over those that were predicted alone.

    Attributes:
        layers: 0 for the embeddings, i + 1 for the output of block i; L of them.
        scores: By the names of `SCORES`, float64 [L, D].
        loss: Sum of what was differentiated.
        targets: How many tokens were predicted.
        tokens: How many were read.
    """

    layers: tuple[int, ...]
    scores: Mapping[str, NDArray[np.float64]]
    loss: float
    targets: int
    tokens: int

    @classmethod
    def of(cls, layers: Sequence[int], state: Mapping[str, Tensor]) -> Self:
        """What a state of `Screener` says, without the model.

        Args:
            layers: Those of the screener.
            state: `Screener.state_dict`, or several of them added up.

        Raises:
            DataError: Nothing was added.
        """
        loss, targets, tokens = state["totals"].tolist()
        if not tokens:
            raise DataError("screening: no batch with a token to predict was added")
        scores = dict(zip(SCORES, state["sums"].clone().numpy(), strict=True))
        return cls(tuple(layers), scores, loss, int(targets), int(tokens))

    def overall(self, name: str) -> NDArray[np.float64]:
        """For edits of all these layers at once: the sum of a score over them, [D]."""
        found: NDArray[np.float64] = self.scores[name].sum(0)
        return found


class Screener:
    """Adds up the scores of a model over batches.

    Costs a forward and a backward pass without gradients of weights: on SmolLM2 2.6 forwards in
    all. The activations of all layers are in memory, there 18 D floats a token and layer, 1.3 MB a
    token. No parameter is written, and nothing is left on the model.

    Args:
        model: In eval mode.
        layers: Which ones, see `Screening`; None: all blocks.
        found: architecture(model).

    Raises:
        ArgumentError: The model is in training mode; layers that it does not have.
        DataError: Its hidden states cannot be named.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_layer=2, n_embd=8, n_head=2)).eval()
        >>> ids, screener = torch.tensor([[1, 2, 3]]), Screener(model)
        >>> labels = torch.tensor([[2, 3, -1]])
        >>> screener.add_tokens(Predictor(model), ids, torch.ones_like(ids), labels)
        >>> found = screener.result()
        >>> found.scores["absolute"].shape, found.targets, found.tokens
        ((2, 8), 2, 3)
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[int] | None = None,
        found: Architecture | None = None,
    ) -> None:
        check_model(model)
        check_eval_mode(model)
        found = architecture(model) if found is None else found
        points = found.select(None)
        self.layers = tuple(range(1, len(points)) if layers is None else layers)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ArgumentError(f"layers: expected at least one, each once, got {self.layers}")
        if outside := [layer for layer in self.layers if not 0 <= layer < len(points)]:
            raise ArgumentError(
                f"layers: expected 0 (the embeddings) to {len(points) - 1}, got {outside[0]}"
            )
        self._model = model
        self._points = [points[layer] for layer in self.layers]
        self._sums = torch.zeros(len(SCORES), len(self.layers), found.hidden_size).double()
        self._totals = torch.zeros(3, dtype=torch.float64)

    def add_tokens(
        self, predictor: Predictor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> None:
        """Add a batch [B, S] by the loss of the tokens that are to be predicted.

        Args:
            predictor: `Predictor(model)`.
            input_ids: int64.
            attention_mask: 0 where padded; that is selected out.
            labels: int64, the token to predict from each position, -1 where there is none; see
                `outdim.tokens.targets`.
        """
        with torch.inference_mode(False):  # copies of what comes from within can be differentiated
            input_ids, attention_mask, labels = (
                one.clone() for one in (input_ids, attention_mask, labels)
            )
            chosen = labels >= 0
            targets = labels[chosen]
        if not len(targets):
            return

        def loss() -> Tensor:
            states = predictor.states(input_ids, attention_mask)
            return loss_sum(predictor.logits, states[chosen], targets, predictor.vocab_size)

        self.add(loss, attention_mask, targets=len(targets))

    def add(self, loss: Callable[[], Tensor], attention_mask: Tensor, *, targets: int = 0) -> None:
        """Add a batch by any loss; a batch that fails adds nothing.

        Args:
            loss: Runs the model once and gives a scalar: a sum over the batch, not a mean, so that
                the batches add up.
            attention_mask: [B, S], 0 where padded.
            targets: How many predictions it sums.

        Raises:
            ArgumentError: The loss is no scalar, or does not depend on hidden states.
            DataError: It is not finite, or a gradient; hidden states are longer than the mask.
        """
        # Within inference mode nothing has a gradient.
        with torch.inference_mode(False), torch.enable_grad(), _frozen(self._model):
            batch = _Batch(self._points, attention_mask.clone().bool(), self._sums.shape[1:])
            with batch.on(self._model):
                value = loss()
            if value.numel() != 1 or not value.requires_grad:
                raise ArgumentError(
                    "loss: expected a scalar that depends on the hidden states of the model, got "
                    f"{tuple(value.shape)}{'' if value.requires_grad else ' without a gradient'}"
                )
            if not bool(value.isfinite()):
                raise DataError(
                    f"loss: expected a finite number, got {float(value.detach())}: nothing can be "
                    "said of this batch; a model in float16 may need float32"
                )
            value.backward()  # type: ignore[no-untyped-call]
        if not bool(batch.sums.isfinite().all()):
            raise DataError(
                "screening: hidden states or their gradients are not finite in this batch, so that "
                "dimensions cannot be ranked by it; run the model in float32 or bfloat16, without "
                "autocast to float16"
            )
        tokens = int(attention_mask.bool().sum())
        totals = torch.tensor([float(value.detach()), targets, tokens], dtype=torch.float64)
        self.merge({"sums": batch.sums.cpu(), "totals": totals})

    def state_dict(self) -> dict[str, Tensor]:
        """``sums`` [4, L, D] in the order of `SCORES`, ``totals`` [3]: loss, targets, tokens."""
        return {"sums": self._sums, "totals": self._totals}

    def merge(self, state: Mapping[str, Tensor]) -> Self:
        """Add the sums of other batches."""
        self._sums = self._sums + state["sums"]
        self._totals = self._totals + state["totals"]
        return self

    def result(self) -> Screening:
        """The scores of all that was added; see `Screening.of`."""
        return Screening.of(self.layers, self.state_dict())


class _Batch:
    """The scores of one batch, taken layer by layer as the gradients come."""

    def __init__(self, points: Sequence[Point], mask: Tensor, shape: Sequence[int]) -> None:
        self._points, self._mask = points, mask
        self._row = {point.name: row for row, point in enumerate(points)}
        # Not in the closure of a tensor's hook: that would be a circle, and the graph stay.
        self._held: dict[str, Tensor] = {}
        self.sums = torch.zeros(len(SCORES), *shape, dtype=torch.float64, device=mask.device)

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Note the hidden states of a forward, and what their gradients will be."""
        watch = Watch(self._points)
        with ExitStack() as stack:
            for frame in frames_of(model, self._points):
                stack.callback(watch.frame(frame))
            for group in by_module(self._points):
                module = model.get_submodule(group[0].module)
                stack.callback(watch.edit(module, group, self._note).remove)
            yield
        watch.check(ran=True)

    def _note(self, point: Point, hidden: Tensor) -> Tensor:
        if not hidden.requires_grad:  # the first of them: layers below need no graph
            hidden = hidden.detach().requires_grad_()
        self._held[point.name] = hidden
        hidden.register_hook(partial(self._take, point))  # type: ignore[no-untyped-call]
        self._add(point, "magnitude", self._rows(point, hidden.detach()).abs())
        return hidden

    def _take(self, point: Point, gradient: Tensor) -> None:
        h = self._rows(point, self._held.pop(point.name).detach())
        product = h * self._rows(point, gradient)
        self._add(point, "signed", -product)
        self._add(point, "absolute", product.abs())
        self._add(point, "squared", product.square_())

    def _rows(self, point: Point, values: Tensor) -> Tensor:
        """Those of the tokens that are no padding, float64 [N, D]."""
        values = values if point.batch_first else values.transpose(0, 1)
        if values.shape[:2] != self._mask.shape:
            raise DataError(
                f"attention_mask: expected {tuple(values.shape[:2])} as the hidden states of "
                f"{point.name}, got {tuple(self._mask.shape)}; where a model pads inside, pad to "
                "the length it wants before"
            )
        return values[self._mask].double()

    def _add(self, point: Point, name: str, values: Tensor) -> None:
        total = values.sum(0).to(self.sums.device)
        self.sums[SCORES.index(name), self._row[point.name]] += total


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradients of weights: half of a backward pass is for them."""
    learning: list[Any] = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for weight in learning:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)
