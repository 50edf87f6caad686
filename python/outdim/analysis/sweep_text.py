"""``outdim sweep lm`` and ``mlm``: by what a language model predicts in a text."""

from __future__ import annotations

from typing import Any, ClassVar

from outdim.analysis.heads import LanguageModel, MaskedLanguageModel
from outdim.analysis.input_options import MODEL_ON_TEXT
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import MaskedTokens, NextTokens
from outdim.analysis.step import Json
from outdim.analysis.sweeps.options import SweepMaskedOptions, SweepOptions
from outdim.analysis.sweeps.ranked_text import ranked_on
from outdim.analysis.sweeps.step import SweepStep
from outdim.analysis.variants.on_text import OnText


class SweepText(SweepStep, OnText):
    """A block of the variants of a grid, with a unit of text."""

    Options: ClassVar[type] = SweepOptions

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> Json:
        """The grid of variants, and whether they were ranked on this text."""
        grid = options.grid(inputs).as_dict()
        texts = [one["sha256"] for one in inputs.files] if options.ranking else []
        ranked = ranked_on(options.ranking, options.dims, texts)
        return {**super().resolve(options, inputs), "grid": grid, "ranked": ranked}


class SweepLm(SweepText, NextTokens):
    """A causal language model."""

    name = "sweep-lm"
    needs = ("screen-lm",)
    reads = (*MODEL_ON_TEXT, LanguageModel)


class SweepMlm(SweepText, MaskedTokens):
    """A masked language model."""

    name = "sweep-mlm"
    needs = ("screen-mlm",)
    Options = SweepMaskedOptions
    reads = (*MODEL_ON_TEXT, MaskedLanguageModel)
