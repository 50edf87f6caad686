"""Evaluate a language model intact, with dimensions disabled, and beside random ones.

Kovaleva et al. 2021, section 4, and Puccetti et al. 2022, section 3: how much worse a model
predicts without its outlier dimensions, against as many random ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch

from outdim.analysis.documents import Documents
from outdim.analysis.heads import LanguageModel, MaskedLanguageModel
from outdim.analysis.in_memory import inputs_of, run_variants
from outdim.analysis.input_options import MODEL_ON_TEXT, ForwardOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import MaskedTokens, Masking, MaskingOptions, NextTokens, Task
from outdim.analysis.results.evaluation import Evaluation
from outdim.analysis.step import Json
from outdim.analysis.variants.each_variant import EachVariant
from outdim.analysis.variants.runner import Runner, scored
from outdim.analysis.variants.scoring import Tally
from outdim.analysis.variants.variant import AblationOptions, Kind
from outdim.errors import ArgumentError
from outdim.models.losses import Scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus
    from outdim.models import Ablation
    from outdim.tokens import TokenFrequencies


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What a causal language model predicts: every token from those before it.

    Args:
        counts: Frequencies to which the predicted tokens are related: a run that counted, its
            counts.parquet, or published counts as JSON; none takes the text's own.
        draws: How often the documents are drawn for the intervals.
    """

    counts: Path | None = None
    draws: int = 2000


@dataclass(frozen=True, kw_only=True)
class EvaluateMaskedOptions(MaskingOptions, EvaluateOptions):
    """What a masked language model predicts.

    Args:
        masking: random masks a share of the tokens as BERT was trained; within_word_l2r masks every
            token once, with the later ones of its word (pseudo-perplexity; Kauf and Ivanova 2023):
            a forward for each token.
        mask_share: How many of the tokens are to be predicted, with random masking; none takes
            0.15.
        counts: Frequencies to which the predicted tokens are related: a run that counted, its
            counts.parquet, or published counts as JSON; none takes the text's own.
        draws: How often the documents are drawn for the intervals.
    """


class Evaluate(EachVariant):
    """Sums over the predicted tokens of every document, for every variant of the model."""

    Options: ClassVar[type] = EvaluateOptions
    presentation = ("draws",)

    @classmethod
    def forwards(cls, recorded: Mapping[str, Any], unit: Mapping[str, Any]) -> int:
        """All variants take all of the text."""
        return len(recorded["variants"])

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> Json:
        """As many draws as make an interval."""
        if options.draws < 2:
            raise ArgumentError(f"draws: expected at least 2, got {options.draws}.")
        return super().resolve(options, inputs)

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        super().__init__(recorded, inputs)
        self._documents: list[Mapping[str, torch.Tensor]] = []

    def runner(self) -> Runner[Scores]:
        """What scores predictions."""
        return self.inputs.keep("runner", lambda: Runner(self.inputs, self.head, scored))

    def keeping(self, runner: Runner[Any], documents: Documents, variants: int) -> Tally:
        """Sums by document."""
        return Tally(variants, runner.log_counts, documents)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """By document in the order read: sums [N, M, K] float64, tokens [N], bytes [N]."""
        if not self._documents:
            return Tally.nothing(len(self.variants))
        names = self._documents[0]
        return {name: torch.cat([part[name] for part in self._documents]) for name in names}

    def merge(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Put documents behind those that are there."""
        self._documents.append(tensors)
        return self

    def result(self) -> Evaluation:
        """The comparison.

        Raises:
            DataError: No token was predicted in all of the text.
        """
        state = self.state_dict()
        if not len(state["tokens"]):
            raise self.nothing_to_predict()
        return Evaluation(
            task=self.task,
            masking=self.recorded.get("masking"),
            variants=tuple(self.variants),
            sums=state["sums"].numpy(),
            tokens=state["tokens"].numpy(),
            bytes=state["bytes"].numpy(),
            draws=self.recorded["draws"],
            seed=self.recorded["seed"],
            note=self.recorded["note"],
            read=self.account,
        )


class EvaluateLm(Evaluate, NextTokens):
    """A causal language model."""

    name = "evaluate-lm"
    reads = (*MODEL_ON_TEXT, AblationOptions, LanguageModel)


class EvaluateMlm(Evaluate, MaskedTokens):
    """A masked language model."""

    name = "evaluate-mlm"
    Options = EvaluateMaskedOptions
    reads = (*MODEL_ON_TEXT, AblationOptions, MaskedLanguageModel)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Path | Sequence[str] | Corpus,
    *,
    task: Task = "lm",
    ablations: Sequence[Ablation | int | Sequence[int]] = (),
    controls: int = 10,
    control_kind: Kind = "random",
    masking: Masking = "random",
    mask_share: float | None = None,
    frequencies: TokenFrequencies | None = None,
    max_length: int | None = None,
    token_budget: int = 4096,
    autocast: Literal["bfloat16", "float16"] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Evaluate a language model, intact and with dimensions disabled, beside random dimensions.

    Every variant reads the same tokens in the same batches. For each: loss, perplexity, accuracy,
    bits and perplexity per byte, entropy, and against the intact model KL, agreement and the shift
    of what is predicted towards frequent tokens; as difference to the intact model, and to that of
    the controls, with intervals over documents (`outdim.stats.paired.compare`). Logits are never in
    memory as a whole. For runs that must survive interruption or be spread over processes, use the
    command line, ``outdim evaluate lm``.

    Args:
        model: A Hugging Face model with a head for the task, in eval mode.
        tokenizer: Its tokenizer.
        texts: Documents, or where they are: a path, glob or dataset id, or an open corpus
            (`outdim.open_corpus`).
        task: ``"lm"``: every token from those before it. ``"mlm"``: masked tokens.
        ablations: What is disabled, a variant each: `outdim.Ablation`, or dimensions.
        controls: Random sets of as many other dimensions, for each kind of ablation; 0 where
            dimensions have values of their own or are others in each layer.
        control_kind: See `outdim.controls`.
        masking: ``"random"``: 15 % of the tokens as BERT was trained. ``"within_word_l2r"``: each
            token once, with the later ones of its word (Kauf and Ivanova 2023).
        mask_share: How many of the tokens are predicted, with random masking; None takes 0.15.
        frequencies: To which predicted tokens are related; None counts the texts.
        max_length: Tokens per sequence; longer documents are split, and the first token of a part
            is not predicted. None takes the model's own limit, at most 512.
        token_budget: Tokens per batch, padding included.
        autocast: Run the model under `torch.autocast` with this type.
        draws: How often documents are drawn for the intervals.
        seed: Of masks, controls and draws.

    Returns:
        The comparison; ``.loss``, ``.perplexity``, ``.accuracy`` are of the intact model.

    Raises:
        ArgumentError: The model has no head for the task, or is in training mode; dimensions or
            layers that it does not have; controls of an ablation that can have none.
        DataError: The tokenizer does not belong to the model or has no mask; nothing to predict.

    Example:
        >>> intact = evaluate(model, tokenizer, texts).loss  # doctest: +SKIP
        >>> with outdim.ablate(model, [507]):  # doctest: +SKIP
        ...     ablated = evaluate(model, tokenizer, texts).loss
        >>> print(evaluate(model, tokenizer, texts, ablations=[507, 247]))  # doctest: +SKIP
    """
    forward = ForwardOptions(max_length=max_length, token_budget=token_budget, autocast=autocast)
    inputs = inputs_of(model, tokenizer, texts, forward, frequencies=frequencies)
    step, options = _step(task, draws=draws, masking=masking, mask_share=mask_share)
    beside = {"controls": controls, "kind": control_kind}
    return (
        run_variants(step, options, inputs, ablations, seed=seed, **beside).result().beside(inputs)
    )


def _step(task: Task, **options: Any) -> tuple[type[Evaluate], EvaluateOptions]:
    if task == "lm":
        return EvaluateLm, EvaluateOptions(draws=options["draws"])
    if task == "mlm":
        return EvaluateMlm, EvaluateMaskedOptions(**options)
    raise ArgumentError(f"task: expected 'lm' or 'mlm', got {task!r}.")
