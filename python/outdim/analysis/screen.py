"""Screen: every dimension of every layer scored by one backward pass (`outdim.models.screening`).

A screening ranks, it measures no damage: `outdim sweep --verify` measures what it puts first and a
random sample of the rest, and says whether to believe it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from outdim.analysis.fitting import Fitting, autocast
from outdim.analysis.heads import LanguageModel, MaskedLanguageModel
from outdim.analysis.input_options import MODEL_ON_TEXT
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import MaskedTokens, MaskingOptions, NextTokens, Predicting
from outdim.analysis.reading import Reading
from outdim.analysis.step import Progress, Result, add_accounts
from outdim.analysis.table import Statistic, TidyRows, define
from outdim.analysis.variants.runner import predictor_of
from outdim.corpus import Accounting
from outdim.models.screening import Screener, Screening
from outdim.text import counted
from outdim.tokens.targets import TargetBatch

_TOKENS = 1024  # of a backward pass: it holds some 40 D floats a token and layer
_NAMED = 6
_TOPIC = "Screening by gradients"

ABSOLUTE, SQUARED, SIGNED, MAGNITUDE = define(
    Statistic("screen_absolute", "mean of |h dL/dh|", unit="nats", low=0, topic=_TOPIC),
    Statistic("screen_squared", "mean of (h dL/dh)²", unit="nats²", low=0, topic=_TOPIC),
    Statistic("screen_signed", "mean of -h dL/dh", unit="nats", topic=_TOPIC),
    Statistic("screen_magnitude", "mean of |h|", low=0, topic=_TOPIC),
)
_SCORES = {
    "absolute": ABSOLUTE, "squared": SQUARED, "signed": SIGNED, "magnitude": MAGNITUDE
}  # fmt: skip
#: By which candidates are ranked; the signed one cancels.
Score = Literal["absolute", "squared", "magnitude"]
LEADING: Score = "absolute"


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


@dataclass(frozen=True, eq=False)
class Screened(Result):
    """Scores of every layer and dimension.

    Attributes:
        screening: The sums.
        points: Names of the layers.
    """

    screening: Screening
    points: tuple[str, ...]

    def ranked(self, score: Score = LEADING, *, by_layer: bool) -> list[tuple[int | None, int]]:
        """Layer (None for all at once) and dimension of every candidate, the highest score first.

        Args:
            score: By which.
            by_layer: Whether each layer alone is a candidate.
        """
        found = self.screening
        if not by_layer:
            return [(None, int(d)) for d in _falling(found.overall(score))]
        width = found.scores[score].shape[1]
        order = _falling(found.scores[score].ravel())
        return [(found.layers[int(i) // width], int(i) % width) for i in order]

    def score(self, score: Score, layer: int | None, dim: int) -> float:
        """One score of a candidate, a token."""
        found = self.screening
        if layer is None:
            return float(found.overall(score)[dim]) / found.tokens
        return float(found.scores[score][found.layers.index(layer), dim]) / found.tokens

    def tables(self) -> dict[str, pa.Table]:
        """Tidy rows: scores a token of every point and dimension."""
        rows, found = TidyRows(), self.screening
        for name, statistic in _SCORES.items():
            for values, point, layer in zip(
                found.scores[name], self.points, found.layers, strict=True
            ):
                rows.add(
                    statistic.name, values / found.tokens, point=point, layer=layer, n=found.tokens
                )
        return {"stats": rows.table()}

    def headline(self) -> list[str]:
        """What the scores put first."""
        found = self.screening
        dims = ", ".join(str(dim) for _, dim in self.ranked(by_layer=False)[:_NAMED])
        layer, dim = self.ranked(by_layer=True)[0]
        return [
            f"By |h dL/dh| over {counted(found.tokens, 'token')}, dimensions {dims} rank first in "
            f"the sum over layers; of one layer alone, {dim} after layer {layer}."
        ]

    def cautions(self) -> Sequence[str]:
        """What the scores do not say."""
        return [
            "Scores rank dimensions, to first order; they do not say what an ablation does: "
            "outdim sweep --verify measures those that come first, and a random sample of the rest."
        ]

    def account(self) -> dict[str, Any]:
        """What was read."""
        found = self.screening
        return {
            "screening": {
                "tokens": found.tokens,
                "predicted": found.targets,
                "loss": found.loss / found.targets,
            }
        }


def _falling(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.argsort(-scores, kind="stable")


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
