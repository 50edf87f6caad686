"""Screen: every dimension of every layer scored by one backward pass (`outdim.models.screening`).

A screening ranks, it measures no damage: `outdim sweep --verify` measures what it puts first and a
random sample of the rest, and says whether to believe it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeVar

import torch
from torch import nn

from outdim.analysis.fitting import Fitting, Halving, autocast
from outdim.analysis.heads import LanguageModel, MaskedLanguageModel
from outdim.analysis.input_options import MODEL_ON_TEXT, args_of
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import MaskedTokens, MaskingOptions, NextTokens, Predicting
from outdim.analysis.reading import Reading
from outdim.analysis.results.screened import Screened
from outdim.analysis.step import Json, Progress, Step, add_accounts
from outdim.analysis.variants.runner import predictor_of
from outdim.corpus import Accounting
from outdim.models.screening import Screener, Screening
from outdim.tokens.targets import TargetBatch

_TOKENS = 1024  # of a backward pass: it holds some 40 D floats a token and layer

B = TypeVar("B", bound=Halving)


@dataclass(frozen=True, kw_only=True)
class ScreenOptions:
    """What is scored: every dimension after every block."""


@dataclass(frozen=True, kw_only=True)
class ScreenMaskedOptions(MaskingOptions, ScreenOptions):  # noqa: D101 - also what is said of masks
    __doc__ = f"""{ScreenOptions.__doc__}

    Args:
        seed: Of masks.
{args_of(MaskingOptions).lstrip(chr(10))}"""

    seed: int = 0


class ScreenStep(Step):
    """Sums of scores, by layer and dimension."""

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        super().__init__(recorded, inputs)
        self._tensors: dict[str, torch.Tensor] = {}

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> Json:
        """The points that are scored."""
        points = inputs.architecture.select(None)[1:]
        return {**super().resolve(options, inputs), "points": [point.name for point in points]}

    def score(
        self, model: nn.Module, batches: Iterable[B], add: Callable[[Screener, B], None]
    ) -> Self:
        """Add the scores of batches, in parts that a backward pass has room for."""
        fitting = self.inputs.keep("screen fitting", Fitting)
        screener = Screener(model)
        for batch in batches:
            for part in _parts(batch):
                fitting.run(part, partial(add, screener), lambda: None, discard=lambda: None)
        return self.merge(screener.state_dict())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """``sums`` [4, L, D] and ``totals`` [3], see `outdim.models.screening`."""
        return dict(self._tensors)

    def merge(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Add the sums of what else was read."""
        before = self._tensors
        self._tensors = {k: before[k] + one if before else one for k, one in tensors.items()}
        return self

    def result(self) -> Screened:
        """The scores.

        Raises:
            DataError: Nothing was predicted in all that was read.
        """
        points = tuple(self.recorded["points"])
        found = Screening.of(range(1, 1 + len(points)), self._tensors)
        return Screened(found, points)


def _parts(batch: B) -> Iterator[B]:
    """A batch in parts that a backward pass has room for."""
    if batch.input_ids.numel() <= _TOKENS or len(batch.input_ids) == 1:
        yield batch
        return
    for half in batch.halves():
        yield from _parts(half)


class ScreenText(ScreenStep, Predicting):
    """By the loss of the tokens of a text."""

    Options = ScreenOptions

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> Json:
        """The model predicts what is asked for."""
        predictor_of(inputs, cls.head)  # says what the model lacks
        return super().resolve(options, inputs)

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Take one unit of text."""
        inputs, account, documents = self.inputs, Accounting(), self.documents()
        model, predictor = inputs.model_with(self.head.head), predictor_of(inputs, self.head)
        reading = inputs.keep("screen reading", lambda: Reading(inputs))

        def read() -> Iterator[TargetBatch]:
            for batch in self.batches(reading, unit, account, documents):
                yield batch
                progress(batch.batch.tokens)

        def add(screener: Screener, batch: TargetBatch) -> None:
            given = batch.to(model.device)
            with autocast(inputs.options["autocast"], model.device):
                screener.add_tokens(
                    predictor, given.input_ids, given.batch.attention_mask, given.labels
                )

        self.score(model, read(), add)
        more = {"excluded": dict(account.skipped), "places": account.places}
        self.account = add_accounts(self.account, more)
        return self


class ScreenLm(ScreenText, NextTokens):
    """By the loss of the next tokens."""

    name = "screen-lm"
    reads = (*MODEL_ON_TEXT, LanguageModel)


class ScreenMlm(ScreenText, MaskedTokens):
    """By the loss of masked tokens."""

    name = "screen-mlm"
    Options = ScreenMaskedOptions
    reads = (*MODEL_ON_TEXT, MaskedLanguageModel)
