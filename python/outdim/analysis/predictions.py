"""Which tokens a language model predicts, intact, ablated, and beside random dimensions.

Puccetti et al. 2022, section 5: frequency and part of speech of what is predicted; Macocco et al.
2025: frequency of predictions against that of the corpus, and which dimensions raise the logits of
frequent tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from outdim.analysis.documents import Documents
from outdim.analysis.heads import LanguageModel, MaskedLanguageModel
from outdim.analysis.in_memory import inputs_of, run_variants
from outdim.analysis.input_options import MODEL_ON_TEXT, ForwardOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.likely import Likely, UnitOfText, likely
from outdim.analysis.parts_of_speech import CLASSES, PartsOfSpeech, SpacyTagger, Tagger
from outdim.analysis.predicting import MaskedTokens, Masking, MaskingOptions, NextTokens
from outdim.analysis.results.predictions import Predictions
from outdim.analysis.step import Json
from outdim.analysis.variants.each_variant import EachVariant
from outdim.analysis.variants.runner import Runner, predictor_of
from outdim.analysis.variants.variant import AblationOptions, Kind
from outdim.errors import ArgumentError
from outdim.stats.jackknife import BLOCKS, block_of
from outdim.stats.prediction_measures import read_out
from outdim.stats.prediction_sums import Layout, PredictionSums
from outdim.tokens import Piece
from outdim.tokens.targets import Item, seen

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus
    from outdim.models import Ablation, Predictor
    from outdim.tokens import TokenFrequencies


@dataclass(frozen=True, kw_only=True)
class PredictionsOptions:
    """Which tokens a causal language model predicts.

    Args:
        counts: Frequencies to which the predicted tokens are related: a run that counted, its
            counts.parquet, or published counts as JSON; none takes the text's own.
        tagger: A pipeline of spaCy (en_core_web_sm, or a directory) that gives the parts of speech
            of true and predicted words; none leaves them out.
    """

    counts: Path | None = None
    tagger: str | None = None


@dataclass(frozen=True, kw_only=True)
class PredictionsMaskedOptions(MaskingOptions, PredictionsOptions):
    """Which tokens a masked language model predicts, for those masked and for all unmasked.

    Args:
        masking: random masks a share of the tokens as BERT was trained; within_word_l2r masks every
            token once, with the later ones of its word: a forward for each token.
        mask_share: How many of the tokens are masked, with random masking; none takes 0.15.
        counts: Frequencies to which the predicted tokens are related: a run that counted, its
            counts.parquet, or published counts as JSON; none takes the text's own.
        tagger: A pipeline of spaCy (en_core_web_sm, or a directory) that gives the parts of speech
            of true and predicted words; none leaves them out.
    """


class Predict(EachVariant):
    """Counts of the tokens that every variant predicts, and sums of the states before that."""

    Options: ClassVar[type] = PredictionsOptions
    #: How a document is read, each time to predict other tokens of it.
    readings: ClassVar[tuple[str, ...]]

    @classmethod
    def forwards(cls, recorded: Mapping[str, Any], unit: Mapping[str, Any]) -> int:
        """All variants take all of the text."""
        return len(recorded["variants"])

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> Json:
        """The tagger is there, and how large the sums are is known without the model."""
        recorded = super().resolve(options, inputs)
        if options.tagger is not None:
            recorded["tagger"] = dict(_tagger(inputs, options.tagger).about)
        predictor = predictor_of(inputs, cls.head)
        return {
            **recorded,
            "vocab_size": predictor.vocab_size,
            "state_size": 0 if predictor.output is None else predictor.output.in_features,
        }

    @cached_property
    def sums(self) -> PredictionSums:
        """Of all that was taken."""
        return PredictionSums(self.layout)

    @cached_property
    def layout(self) -> Layout:
        """How the sums are laid out."""
        return Layout(
            len(self.readings),
            BLOCKS,
            len(self.variants),
            self.recorded["vocab_size"],
            self.recorded["state_size"],
            0 if self.recorded["tagger"] is None else len(CLASSES),
        )

    def runner(self) -> Runner[Likely]:
        """What gives the likeliest tokens, and sums of states."""
        measure = partial(likely, cells=self.layout.cells, keep=self.layout.hidden_size > 0)
        return self.inputs.keep("likely", lambda: Runner(self.inputs, self.head, measure))

    def documents(self) -> Documents:
        """With their texts, where these are tagged."""
        words = self.recorded.get("masking") == "within_word_l2r"
        texts = self.recorded["tagger"] is not None
        return Documents(self.inputs, self.recorded["seed"], words=words, texts=texts)

    def items(self, piece: Piece, documents: Documents) -> Iterable[Item]:
        """A piece in every reading: its document's number ends in the cell, see `likely`."""
        block = block_of(piece.key)
        for reading, items in enumerate(self.read(piece, documents)):
            number = piece.document * self.layout.cells + reading * BLOCKS + block
            for item in items:
                yield replace(item, document=number)

    def read(self, piece: Piece, documents: Documents) -> Sequence[Iterable[Item]]:
        """What is to be predicted of a piece in each reading."""
        raise NotImplementedError

    def keeping(self, runner: Runner[Any], documents: Documents, variants: int) -> UnitOfText:
        """Sums of one unit."""
        sums = PredictionSums(self.layout)
        sums.read_out = self._read_out(runner.predictor)
        tags = None
        if self.recorded["tagger"] is not None:
            inputs = self.inputs
            tagger = _tagger(inputs, self.recorded["tagger"]["name"])
            tags = inputs.keep("tags", lambda: PartsOfSpeech(tagger, inputs.tokenizer))
        return UnitOfText(sums, documents, tags)

    def _read_out(self, predictor: Predictor) -> Tensor:
        if predictor.output is None:
            return torch.zeros(0, 0, dtype=torch.float64)
        weight = predictor.output.weight.detach()
        return self.inputs.keep(
            "read-out",
            lambda: read_out(weight, *_by_id(self.inputs.frequencies, predictor.vocab_size)),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """See `PredictionSums`."""
        return self.sums.state_dict()

    def merge(self, tensors: Mapping[str, Tensor]) -> Self:
        """Add sums."""
        self.sums.merge(tensors)
        return self

    def result(self) -> Predictions:
        """What was predicted.

        Raises:
            DataError: No token was predicted in all of the text.
        """
        if not int(self.sums.rows.sum()):
            raise self.nothing_to_predict()
        frequencies = self.inputs.frequencies
        counts, special = _by_id(frequencies, self.layout.vocab_size)
        tagger = self.recorded["tagger"]
        return Predictions(
            task=self.task,
            readings={name: self.sums.of_reading(i) for i, name in enumerate(self.readings)},
            variants=tuple(self.variants),
            corpus=np.where(special, 0, counts),
            tokens=frequencies.tokens,
            columns=self.sums.read_out.numpy(),
            tagger="" if tagger is None else " ".join(filter(None, tagger.values())),
            note=self.recorded["note"],
            read=self.account,
            own_counts=self.inputs.own_counts,
        )


class PredictLm(Predict, NextTokens):
    """A causal language model."""

    name = "predictions-lm"
    readings = ("next",)
    reads = (*MODEL_ON_TEXT, AblationOptions, LanguageModel)

    def read(self, piece: Piece, documents: Documents) -> Sequence[Iterable[Item]]:
        """Every token but the first of a piece."""
        return [NextTokens.items(self, piece, documents)]


class PredictMlm(Predict, MaskedTokens):
    """A masked language model."""

    name = "predictions-mlm"
    Options = PredictionsMaskedOptions
    readings = ("masked", "unmasked")
    reads = (*MODEL_ON_TEXT, AblationOptions, MaskedLanguageModel)

    def read(self, piece: Piece, documents: Documents) -> Sequence[Iterable[Item]]:
        """Masked tokens; then every token, none of them masked."""
        return [MaskedTokens.items(self, piece, documents), [seen(piece)]]


def _by_id(
    frequencies: TokenFrequencies, vocab_size: int
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Counts, and which ids stand for no text, of the model's whole vocabulary."""
    counts, special = np.zeros(vocab_size, np.int64), np.ones(vocab_size, bool)
    size = min(vocab_size, len(frequencies))
    counts[:size], special[:size] = frequencies.counts[:size], frequencies.special[:size]
    return counts, special


def _tagger(inputs: Inputs, name: str) -> Tagger:
    """The tagger, opened once."""
    return inputs.keep(f"tagger {name}", lambda: SpacyTagger(name))


def predictions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Path | Sequence[str] | Corpus,
    *,
    task: Literal["lm", "mlm"] = "lm",
    ablations: Sequence[Ablation | int | Sequence[int]] = (),
    controls: int = 10,
    control_kind: Kind = "random",
    masking: Masking = "random",
    mask_share: float | None = None,
    frequencies: TokenFrequencies | None = None,
    tagger: str | Tagger | None = None,
    max_length: int | None = None,
    token_budget: int = 4096,
    autocast: Literal["bfloat16", "float16"] | None = None,
    seed: int = 0,
) -> Predictions:
    """Which tokens a language model predicts, intact and ablated, beside random dimensions.

    How frequent they are, how many types, against the corpus; which dimensions of the states before
    the output layer raise the logits of frequent tokens; and, with a tagger, whether predicted
    words have the part of speech of the true ones. Every variant reads the same tokens in the same
    batches; intervals are by a jackknife over 20 blocks of documents. For runs that must survive
    interruption or be spread over processes, use the command line, ``outdim predictions lm``.

    Args:
        model: A Hugging Face model with a head for the task, in eval mode.
        tokenizer: Its tokenizer.
        texts: Documents, or where they are: a path, glob or dataset id, or an open corpus
            (`outdim.open_corpus`).
        task: ``"lm"``: every token from those before it. ``"mlm"``: masked tokens, and in a
            second reading all tokens, none of them masked.
        ablations: What is disabled, a variant each: `outdim.Ablation`, or dimensions.
        controls: Random sets of as many other dimensions, for each kind of ablation.
        control_kind: See `outdim.controls`.
        masking: As in `outdim.evaluate`.
        mask_share: How many of the tokens are masked, with random masking; None takes 0.15.
        frequencies: To which predicted tokens are related; None counts the texts.
        tagger: Gives parts of speech: a pipeline of spaCy (extra ``pos``), or a
            `outdim.analysis.parts_of_speech.Tagger`; None leaves them out.
        max_length: Tokens per sequence; None takes the model's own limit, at most 512.
        token_budget: Tokens per batch, padding included.
        autocast: Run the model under `torch.autocast` with this type.
        seed: Of masks and controls.

    Returns:
        The predictions; ``print`` says what was found.

    Raises:
        ArgumentError: The model has no head for the task, or is in training mode; dimensions or
            layers that it does not have; controls of an ablation that can have none.
        BackendError: spaCy or its pipeline is not installed.
        DataError: The tokenizer does not belong to the model or has no mask; nothing to predict.

    Example:
        >>> found = predictions(model, tokenizer, texts, ablations=[507, 247])  # doctest: +SKIP
        >>> print(found)  # doctest: +SKIP
        >>> found.measure("mean_log_frequency").difference.value  # doctest: +SKIP
    """
    if task not in ("lm", "mlm"):
        raise ArgumentError(f"task: expected 'lm' or 'mlm', got {task!r}.")
    if task == "lm" and (mask_share is not None or masking != "random"):
        raise ArgumentError("mask_share, masking: they go with task='mlm' alone; leave them out.")
    forward = ForwardOptions(max_length=max_length, token_budget=token_budget, autocast=autocast)
    inputs = inputs_of(model, tokenizer, texts, forward, frequencies=frequencies)
    name = tagger if isinstance(tagger, str | None) else tagger.about["name"]
    if name is not tagger:
        inputs.keep(f"tagger {name}", lambda: tagger)
    step: type[Predict] = PredictLm
    options = PredictionsOptions(tagger=name)
    if task == "mlm":
        step = PredictMlm
        options = PredictionsMaskedOptions(masking=masking, mask_share=mask_share, tagger=name)
    beside = {"controls": controls, "kind": control_kind}
    return (
        run_variants(step, options, inputs, ablations, seed=seed, **beside).result().beside(inputs)
    )
