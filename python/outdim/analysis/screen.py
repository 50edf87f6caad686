"""Screen: every dimension of every layer scored by one backward pass (`outdim.models.screening`).

A screening ranks, it measures no damage: `outdim sweep --verify` measures what it puts first and a
random sample of the rest, and says whether to believe it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from outdim.analysis.fitting import Fitting, autocast
from outdim.analysis.heads import LanguageModel, MaskedLanguageModel
from outdim.analysis.input_options import MODEL_ON_TEXT
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import MaskedTokens, MaskingOptions, NextTokens, Predicting
from outdim.analysis.reading import Reading
from outdim.analysis.results.screened import Screened
from outdim.analysis.step import Progress, add_accounts
from outdim.analysis.variants.runner import predictor_of
from outdim.corpus import Accounting
from outdim.models.screening import Screener, Screening
from outdim.tokens.targets import TargetBatch

_TOKENS = 1024  # of a backward pass: it holds some 40 D floats a token and layer


@dataclass(frozen=True, kw_only=True)
class ScreenOptions:
    """What is scored: every dimension after every block.

    Args:
        seed: Of masks.
    """

    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ScreenMaskedOptions(MaskingOptions, ScreenOptions):
    """What is scored: every dimension after every block.

    Args:
        masking: random masks a share of the tokens as BERT was trained; within_word_l2r masks every
            token once, with the later ones of its word.
        mask_share: How many of the tokens are to be predicted, with random masking; none takes
            0.15.
        seed: Of masks.
    """


class _Screen(Predicting):
    """Sums of scores, by layer and dimension."""

    Options = ScreenOptions

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        super().__init__(recorded, inputs)
        self._tensors: dict[str, torch.Tensor] = {}

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> dict[str, Any]:
        """The points that are scored."""
        recorded = super().resolve(options, inputs)
        predictor_of(inputs, cls.head)  # says what the model lacks
        points = inputs.architecture.select(None)[1:]
        return {**recorded, "points": [point.name for point in points]}

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Take one unit of text."""
        inputs, account, documents = self.inputs, Accounting(), self.documents()
        model, predictor = inputs.model_with(self.head.head), predictor_of(inputs, self.head)
        reading: Reading = inputs.keep("screen reading", lambda: Reading(inputs))
        fitting: Fitting = inputs.keep("screen fitting", Fitting)
        screener = Screener(model)

        def attempt(batch: TargetBatch) -> None:
            given = batch.to(model.device)
            with autocast(inputs.options["autocast"], model.device):
                screener.add_tokens(
                    predictor, given.input_ids, given.batch.attention_mask, given.labels
                )

        for batch in self.batches(reading, unit, account, documents):
            for part in _parts(batch):
                fitting.run(part, attempt, lambda: None, discard=lambda: None)
            progress(batch.batch.tokens)
        read = {"excluded": dict(account.skipped), "places": account.places}
        self.account = add_accounts(self.account, read)
        return self.merge(screener.state_dict())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """``sums`` [4, L, D] and ``totals`` [3], see `outdim.models.screening`."""
        return dict(self._tensors)

    def merge(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Add the sums of other text."""
        before = self._tensors
        self._tensors = {k: before[k] + one if before else one for k, one in tensors.items()}
        return self

    def result(self) -> Screened:
        """The scores.

        Raises:
            DataError: No token was predicted in all of the text.
        """
        points = tuple(self.recorded["points"])
        found = Screening.of(range(1, 1 + len(points)), self._tensors)
        return Screened(found, points)


def _parts(batch: TargetBatch) -> Iterator[TargetBatch]:
    """A batch in parts that a backward pass has room for."""
    if batch.input_ids.numel() <= _TOKENS or len(batch.input_ids) == 1:
        yield batch
        return
    for half in batch.halves():
        yield from _parts(half)


class ScreenLm(_Screen, NextTokens):
    """By the loss of the next tokens."""

    name = "screen-lm"
    reads = (*MODEL_ON_TEXT, LanguageModel)


class ScreenMlm(_Screen, MaskedTokens):
    """By the loss of masked tokens."""

    name = "screen-mlm"
    Options = ScreenMaskedOptions
    reads = (*MODEL_ON_TEXT, MaskedLanguageModel)
