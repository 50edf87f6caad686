"""``outdim greedy lm`` and ``mlm``: by the loss of a language model (`sweeps.greedy_step`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from outdim.analysis.documents import Documents
from outdim.analysis.heads import LanguageModel, MaskedLanguageModel
from outdim.analysis.input_options import MODEL_ON_TEXT
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import MaskedTokens, NextTokens
from outdim.analysis.step import Json
from outdim.analysis.sweeps.greedy_options import GreedyMaskedOptions, GreedyOptions
from outdim.analysis.sweeps.greedy_step import GreedyStep, Losses
from outdim.analysis.sweeps.ranked_text import ranked_on
from outdim.analysis.variants.on_text import OnText
from outdim.errors import DataError
from outdim.files import digest
from outdim.tokens import Piece
from outdim.tokens.targets import Item

_LOSS = 0  # of the sums that are kept


class GreedyText(GreedyStep, OnText):
    """A block of sets, with a unit of text."""

    Options: ClassVar[type] = GreedyOptions

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> Json:
        """What is drawn, and whether candidates were ranked on this text."""
        drawn = cls.drawn(options, inputs)
        texts = [one["sha256"] for one in inputs.files] if options.ranking else []
        ranked = ranked_on(options.ranking, options.dims, texts)
        return {**super().resolve(options, inputs), **drawn, "ranked": ranked}

    @classmethod
    def decided_by(cls, inputs: Inputs) -> str:
        """All of the text, however it is cut."""
        return digest([[file["sha256"] for file in inputs.files], cls.parts(inputs)])

    def items(self, piece: Piece, documents: Documents) -> Iterable[Item]:
        """Of documents of the half that is read; equal texts are in the same half."""
        found = super().items(piece, documents)
        if documents.keys[piece.document] % 2 == self.half:
            return found
        self.others += sum(int((item.labels >= 0).sum()) for item in found)
        return ()

    def losses(self, found: Mapping[str, Tensor]) -> Losses:
        """By document."""
        return Losses(found["sums"][..., _LOSS], found["tokens"], len(found["tokens"]))

    def half_empty(self) -> DataError:
        """The error where there is no token to predict in a half."""
        return DataError(
            f"source: {self.inputs.corpus.source}: a half of the documents, drawn at random, has "
            "no token to predict; give more documents, or another --seed."
        )


class GreedyLm(GreedyText, NextTokens):
    """A causal language model."""

    name = "greedy-lm"
    reads = (*MODEL_ON_TEXT, LanguageModel)


class GreedyMlm(GreedyText, MaskedTokens):
    """A masked language model."""

    name = "greedy-mlm"
    Options = GreedyMaskedOptions
    reads = (*MODEL_ON_TEXT, MaskedLanguageModel)
