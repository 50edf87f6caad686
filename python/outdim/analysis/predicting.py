"""Steps in which a language model predicts tokens of a text: the next ones, or masked ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from outdim.analysis.documents import Documents
from outdim.analysis.heads import LanguageModel, MaskedLanguageModel, WithHead
from outdim.analysis.inputs import Inputs
from outdim.analysis.reading import Reading
from outdim.analysis.step import Json, TextStep
from outdim.corpus import Accounting
from outdim.errors import ArgumentError, DataError
from outdim.tokens import Piece
from outdim.tokens.targets import (
    Item,
    TargetBatch,
    each_masked,
    masked,
    next_tokens,
    target_batches,
)
from outdim.tokens.tokenizer import special_ids

Task = Literal["lm", "mlm"]
Masking = Literal["random", "within_word_l2r"]

_MASK_SHARE = 0.15  # as BERT was trained (Devlin et al. 2019)


@dataclass(frozen=True, kw_only=True)
class MaskingOptions:
    """What a masked language model predicts.

    Args:
        masking: random masks a share of the tokens as BERT was trained; within_word_l2r masks every
            token once, with the later ones of its word (pseudo-perplexity; Kauf and Ivanova 2023):
            a forward for each token.
        mask_share: How many of the tokens are to be predicted, with random masking; none takes
            0.15.
    """

    masking: Masking = "random"
    mask_share: float | None = None


class Predicting(TextStep):
    """A step that reads text with the tokens that a model has to predict in it."""

    task: ClassVar[str]
    head: ClassVar[type[WithHead]]

    def items(self, piece: Piece, documents: Documents) -> Iterable[Item]:
        """A piece with what is to be predicted in it."""
        raise NotImplementedError

    def documents(self) -> Documents:
        """Notes what the documents of a unit are."""
        seed = self.recorded.get("seed", 0)  # a screening by next tokens draws nothing
        return Documents(self.inputs, seed, words=False)

    def batches(
        self, reading: Reading, unit: Mapping[str, Any], account: Accounting, documents: Documents
    ) -> Iterator[TargetBatch]:
        """The batches of a unit of text."""
        pieces = documents.noting(reading.pieces(unit, account, documents.watch))
        items = (item for piece in pieces for item in self.items(piece, documents))
        for batch in target_batches(items, self.inputs.options["token_budget"], **reading.padding):
            self.inputs.resources.check_stop()
            yield batch


class NextTokens(Predicting):
    """A causal language model."""

    task = "lm"
    head = LanguageModel

    def items(self, piece: Piece, documents: Documents) -> Iterable[Item]:
        """Every token but the first of a piece."""
        return [next_tokens(piece)]


class MaskedTokens(Predicting):
    """A masked language model."""

    task = "mlm"
    head = MaskedLanguageModel

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> Json:
        """The tokenizer has a mask."""
        recorded = super().resolve(options, inputs)
        if recorded["masking"] not in get_args(Masking):
            raise ArgumentError(
                f"masking: expected {' or '.join(get_args(Masking))}, got {recorded['masking']!r}."
            )
        if recorded["masking"] != "random" and recorded["mask_share"] is not None:
            raise ArgumentError("mask-share: it goes with random masking alone; leave it out.")
        if recorded["mask_share"] is None:
            recorded["mask_share"] = _MASK_SHARE
        if not 0 < recorded["mask_share"] <= 1:
            raise ArgumentError(
                f"mask-share: expected more than 0 and at most 1, got {recorded['mask_share']}."
            )
        if inputs.tokenizer.mask_token_id is None:
            raise DataError(
                "tokenizer: expected one with a mask token, as masked language models have; for a "
                "causal model there is `outdim evaluate lm`."
            )
        return recorded

    def documents(self) -> Documents:
        """With their words, where these are masked whole."""
        words = self.recorded["masking"] == "within_word_l2r"
        return Documents(self.inputs, self.recorded["seed"], words=words)

    @cached_property
    def _replacements(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        special = special_ids(self.inputs.tokenizer)
        return np.setdiff1d(np.arange(self.inputs.architecture.vocab_size), list(special))

    def items(self, piece: Piece, documents: Documents) -> Iterable[Item]:
        """Random tokens, or each token once."""
        mask = self.inputs.tokenizer.mask_token_id
        if self.recorded["masking"] == "random":
            key, share = documents.keys[piece.document], self.recorded["mask_share"]
            return [masked(piece, key, share, mask, self._replacements)]
        return each_masked(piece, documents.words_of(piece), mask)
