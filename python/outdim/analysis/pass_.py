"""One pass over text that serves many observers in one forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from outdim.analysis.fitting import Fitting, autocast
from outdim.analysis.inputs import Inputs
from outdim.analysis.reading import Reading
from outdim.analysis.step import Observer, Progress, add_accounts
from outdim.corpus import Accounting
from outdim.models import (
    Ablation,
    Attention,
    Forward,
    Point,
    apply_ablation,
    check_eval_mode,
    observe,
    observe_attention,
)
from outdim.tokens import Batch, batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from outdim.models import Architecture
    from outdim.ops import MomentsState
    from outdim.ops.checked import CheckedStatistics


#: The number of a document is that within its unit, and so many for every unit before: more than a
#: unit holds.
UNIT_DOCUMENTS = 2_000_000_000


class Pass:
    """Runs batches through the model of ``inputs`` and hands hidden states to observers.

    Each batch is a transaction: what observers took from a forward that failed half-way counts for
    nothing, and the batch is taken in halves (`Fitting`).
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        model = inputs.model
        check_eval_mode(model)
        self._forward = Forward(model)
        self._reading = Reading(inputs)
        self._fitting = Fitting()

    def run(self, steps: Sequence[Observer], unit: Mapping[str, Any], progress: Progress) -> None:
        """Take one unit of text with every step.

        Raises:
            DataError: Broken data and ``on_error`` is ``fail``; a sequence that does not fit.
            Interrupted: The process was asked to stop; the states of the steps are no whole.
        """
        self._run_unit(steps, None, unit, progress)
        for step in steps:
            for ablation, twin in step.twins:
                of_twin = twin.inputs.forward
                of_twin._run_unit([twin], ablation, unit, lambda tokens: None)

    def _run_unit(
        self,
        steps: Sequence[Observer],
        ablation: Ablation | None,
        unit: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        inputs, account = self._inputs, Accounting()
        pieces = (
            replace(piece, document=unit["index"] * UNIT_DOCUMENTS + piece.document)
            for piece in self._reading.pieces(unit, account)
        )
        in_batches = batches(
            pieces,
            inputs.options["token_budget"],
            **self._reading.padding,
        )
        sink = _Sink(steps, inputs.architecture.points)
        padded = 0
        first = next(in_batches, None)
        if first is not None:  # an ablation that no forward sees is an error
            with self._observed(sink, ablation):
                for batch in chain([first], in_batches):
                    inputs.resources.check_stop()
                    self._fitting.run(
                        batch, lambda part: self._attempt(part, sink), sink.commit, sink.discard
                    )
                    padded += batch.padded
                    progress(batch.tokens)
        read = {"padded": padded, "excluded": dict(account.skipped), "places": account.places}
        for step in steps:
            step.account = add_accounts(step.account, read)

    @contextmanager
    def _observed(self, sink: _Sink, ablation: Ablation | None) -> Iterator[None]:
        model, found = self._inputs.model, self._inputs.architecture
        with (
            torch.inference_mode(),
            apply_ablation(model, ablation, found=found),
            sink.attention(model, found),
            observe(model, sink.points, sink, fused=self._inputs.options["fused"]),
        ):
            yield

    def _attempt(self, batch: Batch, sink: _Sink) -> None:
        device = self._inputs.model.device
        batch = batch.to(device)
        sink.begin(batch)
        with autocast(self._inputs.options["autocast"], device):
            self._forward(batch.input_ids, batch.attention_mask)


class _Sink:
    """What `observe` reports to; hands every hidden state to the steps that asked for its point."""

    def __init__(self, steps: Sequence[Observer], points: Mapping[str, Point]) -> None:
        wanted = {name for step in steps for name in step.points}
        self.points = tuple(point for name, point in points.items() if name in wanted)
        self._steps = {
            point.name: [step for step in steps if point.name in step.points]
            for point in self.points
        }
        self._all = tuple(steps)
        # A norm takes the moments of one accumulator.
        self._fused = next((step for step in steps if step.fused is not None), None)
        self._taken: set[str] = set()

    def attention(self, model: PreTrainedModel, found: Architecture) -> AbstractContextManager[Any]:
        """Shows the attention of the model to the steps that ask for it."""
        attending = [step for step in self._all if step.attends]

        def attend(attention: Attention) -> None:
            for step in attending:
                step.attend(attention)

        return observe_attention(model, attend, found=found) if attending else nullcontext()

    def begin(self, batch: Batch) -> None:
        self._taken.clear()
        for step in self._all:
            step.begin(batch)

    def arguments(self, point: Point) -> CheckedStatistics | None:
        """What the fused op takes at a point, None for nothing."""
        if self._fused is None or point.name not in self._fused.points:
            return None
        assert self._fused.fused is not None
        return self._fused.fused.arguments(point.name)

    def absorb(self, point: Point, state: MomentsState) -> None:
        """Take what the fused op gave."""
        assert self._fused is not None
        assert self._fused.fused is not None
        self._fused.fused.absorb(point.name, state)
        self._taken.add(point.name)

    def __call__(self, point: Point, hidden: torch.Tensor) -> None:
        for step in self._steps[point.name]:
            step.observe(point, hidden, taken=step is self._fused and point.name in self._taken)

    def commit(self) -> None:
        for step in self._all:
            step.commit()

    def discard(self) -> None:
        for step in self._all:
            step.discard()
