"""The text of a study, for a twin of its model that has learned nothing."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from outdim.analysis.inputs import Inputs

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus


class TwinInputs(Inputs):
    """What an observer of a twin with random weights reads: all but the model is ``original``'s.

    Args:
        original: Of the study.
        seed: Of the weights, which are drawn when the model is first used: merging needs none.
    """

    def __init__(self, original: Inputs, seed: int) -> None:
        super().__init__(original.options, resources=original.resources)
        self._original, self._seed = original, seed

    @property
    def device(self) -> torch.device:
        """Where the model of the study is."""
        return self._original.device

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus."""
        return self._original.corpus

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer."""
        return self._original.tokenizer

    @cached_property
    def model(self) -> PreTrainedModel:
        """The twin."""
        from outdim.models.twin import random_twin

        return random_twin(self._original.model, self._seed)
