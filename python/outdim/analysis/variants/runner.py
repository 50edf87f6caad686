"""Batches through every variant of a model, side by side, with the layers below once for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from outdim.analysis.fitting import Fitting, autocast, side_by_side
from outdim.analysis.heads import WithHead
from outdim.analysis.inputs import Inputs
from outdim.analysis.reading import Reading
from outdim.models import Ablation, Predictor, architecture, check_eval_mode
from outdim.models.last_states import LastStates
from outdim.models.losses import Scores, scores
from outdim.models.prefix import PrefixForward
from outdim.tokens.targets import TargetBatch

T = TypeVar("T")

_STATE_BYTES = 1 << 28  # of the states of so many variants as are scored at once


def predictor_of(inputs: Inputs, head: type[WithHead]) -> Any:
    """The model with its head as a `Predictor`, opened once; of `NoHead` `LastStates`."""
    kind = Predictor if head.head else LastStates
    return inputs.keep(f"predictor {head.head}", lambda: kind(inputs.model_with(head.head)))


class Rows(NamedTuple):
    """The R tokens that a batch predicts, int64 [R] each.

    Attributes:
        documents: By number, as the items have it.
        places: In the document, see `outdim.tokens.targets.TargetBatch.first`.
        targets: The true ids.
        sequences: Of the batch.
    """

    documents: Tensor
    places: Tensor
    targets: Tensor
    sequences: Tensor


class Predicted(NamedTuple, Generic[T]):
    """What a batch gives: its rows, and what was measured of each of the M variants."""

    rows: Rows
    found: Sequence[T]


#: What is measured of the states [R, D] of variants, the intact model first, each by itself or
#: beside the intact one.
Measure = Callable[[Predictor, Sequence[Tensor], Rows], list[T]]


def scored(
    predictor: Predictor, states: Sequence[Tensor], rows: Rows, *, brief: bool = False
) -> list[Scores]:
    """Measure what predictions are worth; ``brief`` as in `outdim.models.losses.scores`."""
    return scores(predictor.logits, states, rows.targets, predictor.vocab_size, brief=brief)


class Closed(Protocol[T]):
    """What measures some variants without running them, as `outdim.models.last_layer`."""

    def takes(self, ablation: Ablation) -> bool:
        """Whether this is one of them."""

    def scores(
        self, hidden: Tensor, targets: Tensor, intact: T, ablations: Sequence[Ablation]
    ) -> list[T]:
        """Measure them from the hidden states [R, D] of the last layer."""


class Runner(Generic[T]):
    """Runs variants over the same batches; layers below their first edit run once for all.

    Args:
        inputs: Where model and text are.
        head: What the model predicts with.
        measure: Of the states of every variant.
        at_once: How many variants share a forward; None takes as many as make a batch of
            the token budget, on CPUs no more than it takes to use them.
        closed: What measures some of them otherwise.
    """

    def __init__(
        self,
        inputs: Inputs,
        head: type[WithHead],
        measure: Measure[T],
        at_once: int | None = 1,
        closed: Closed[T] | None = None,
    ) -> None:
        self._model = inputs.model_with(head.head)
        check_eval_mode(self._model)
        self.predictor = predictor_of(inputs, head)
        found = architecture(self._model)
        self._layers = found.layers
        self._forward = PrefixForward(self._model, found, self.predictor.states)
        self._at_once, self._measure, self._closed = at_once, measure, closed
        self._budget: int = inputs.options["token_budget"]
        self._autocast = inputs.options["autocast"]
        self._fitting = Fitting()
        self.reading = Reading(inputs)
        self._inputs = inputs

    @cached_property
    def log_counts(self) -> Tensor:
        """By id log(1 + count), [V]; ids that the tokenizer does not know were never counted."""
        found = torch.zeros(self.predictor.vocab_size, dtype=torch.float64)
        counts = torch.from_numpy(self._inputs.frequencies.log1p())[: len(found)]
        found[: len(counts)] = counts
        return found

    @property
    def note(self) -> str:
        """Why every variant runs all of the model; "" where it does not."""
        return self._forward.note

    def run(
        self,
        batch: TargetBatch,
        ablations: Sequence[Ablation],
        take: Callable[[Predicted[T]], None],
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        """Measure the intact model and the ablated ones on a batch, in parts if it does not fit.

        Meanwhile ``tell`` is called for each of them, and may raise.
        """
        held: list[Predicted[T]] = []

        def commit() -> None:
            for predicted in held:
                take(predicted)
            held.clear()

        self._fitting.run(
            batch,
            lambda part: held.extend(self._predict(part, ablations, tell)),
            commit,
            discard=held.clear,
        )

    def _predict(
        self, batch: TargetBatch, ablations: Sequence[Ablation], tell: Callable[[], None]
    ) -> Iterator[Predicted[T]]:
        """What a batch gives; nothing where there is nothing to predict."""
        batch = batch.to(self._model.device)
        chosen = batch.labels >= 0
        if not chosen.any():
            return
        documents = batch.batch.documents[:, None].expand_as(chosen)
        places = batch.first[:, None] + batch.batch.position
        rows = Rows(documents[chosen], places[chosen], batch.labels[chosen], chosen.nonzero()[:, 0])
        ids, mask = batch.input_ids, batch.batch.attention_mask
        with torch.inference_mode(), autocast(self._autocast, self._model.device):
            closed = self._in_closed_form(ablations)
            last = [self._layers] if closed else []
            intact = self._forward.keep(ids, mask, ablations, last)[chosen]
            run = [one for number, one in enumerate(ablations) if number not in closed]
            at_once = self._at_once or side_by_side(ids.numel(), self._budget, ids.device)
            states = partial(self._states, at_once=at_once, tell=tell)
            found = self._run(run, states, intact, chosen, rows)
            if self._closed is not None and closed:
                hidden = self._forward.hidden(self._layers)[chosen]
                some = [ablations[number] for number in closed]
                scores = self._closed.scores(hidden, rows.targets, found[0], some)
                for number, one in zip(closed, scores, strict=True):
                    found.insert(1 + number, one)
        yield Predicted(rows, found)

    def _in_closed_form(self, ablations: Sequence[Ablation]) -> list[int]:
        """The numbers of those that need not be run."""
        if self._closed is None or self._autocast or self._forward.note:
            return []
        return [number for number, one in enumerate(ablations) if self._closed.takes(one)]

    def _run(
        self,
        ablations: Sequence[Ablation],
        states: Callable[[Sequence[Ablation]], Iterator[Tensor]],
        intact: Tensor,
        chosen: Tensor,
        rows: Rows,
    ) -> list[T]:
        """Measure the intact model and ablated ones on the batch that is kept."""
        found = [] if ablations else self._measure(self.predictor, [intact], rows)
        held = max(1, _STATE_BYTES // (intact.numel() * intact.element_size()))
        for start in range(0, len(ablations), held):
            some = ablations[start : start + held]
            own = [h[chosen] for h in states(some)]
            measured = self._measure(self.predictor, [intact, *own], rows)
            found += measured[1:] if start else measured
        return found

    def _states(
        self, ablations: Sequence[Ablation], at_once: int, tell: Callable[[], None]
    ) -> Iterator[Tensor]:
        for states in self._forward.variants(ablations, at_once):
            tell()
            yield states
