"""Outlier dimensions by hidden states: all published rules in one pass, and how they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

from outdim.analysis.dimensions import outliers_by_parameters
from outdim.analysis.in_memory import one_step
from outdim.analysis.inputs import Inputs
from outdim.analysis.results.agreement import Criteria
from outdim.analysis.rule_states import States
from outdim.analysis.rules import RULES
from outdim.analysis.step import Accumulator, Json, Observer
from outdim.analysis.table import SELECTIONS
from outdim.analysis.twin_inputs import TwinInputs
from outdim.errors import ArgumentError
from outdim.models.twin import random_twin
from outdim.stats import Covariates, Magnitudes, PointMoments, TokenShapes
from outdim.tokens import GROUPS

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.corpus import Corpus
    from outdim.models import Ablation


@dataclass(frozen=True, kw_only=True)
class CriteriaOptions:
    """Apply the published rules for outlier dimensions to hidden states, and compare them.

    Args:
        points: Where the model is observed, by name; none takes the embeddings and every block.
        rules: Names of the rules; none takes all.
        min_fraction: Share of the layers in which a dimension has to be flagged to be one of the
            model, for rules that name none themselves.
        twins: How many models of the same architecture with random weights read the same text, so
            that it is known what rules find where nothing was learned: one more forward each.
    """

    points: list[str] | None = None
    rules: list[str] | None = None
    min_fraction: float = 0.5
    twins: int = 0


class FindByCriteria(Observer):
    """Moments, histograms of |h| and places of the extremes at every point."""

    name = "criteria"
    Options = CriteriaOptions
    wants = ("detect",)
    presentation = ("rules", "min_fraction")

    @classmethod
    def resolve(cls, options: CriteriaOptions, inputs: Inputs) -> Json:
        """Rules are checked; the outliers by parameters are found, for comparison."""
        rules = list(RULES) if options.rules is None else list(dict.fromkeys(options.rules))
        if not rules or not RULES.keys() >= set(rules):
            raise ArgumentError(
                f"rules: expected some of {', '.join(RULES)}, got {', '.join(rules) or 'none'}."
            )
        if not 0 < options.min_fraction <= 1:
            raise ArgumentError(
                f"min-fraction: expected a share of the layers in (0, 1], got "
                f"{options.min_fraction}."
            )
        if options.twins < 0:
            raise ArgumentError(f"twins: expected 0 or more, got {options.twins}.")
        if options.twins:
            random_twin(inputs.model, 0, "meta")  # there is one
        recorded = super().resolve(options, inputs)
        return {**recorded, "rules": rules, "parameters": outliers_by_parameters(inputs)}

    @classmethod
    def forwards(cls, recorded: Mapping[str, Any], unit: Mapping[str, Any]) -> int:
        """The model, and its twins."""
        return 1 + int(recorded["twins"])

    def accumulators(self) -> Mapping[str, Accumulator]:
        """Nothing is kept per token."""
        position = Covariates(row_names=("position",))
        device = self.inputs.device
        return {
            "moments": PointMoments(self.points, GROUPS, position, device=device),
            "magnitudes": Magnitudes(self.points, GROUPS),
            "tokens": TokenShapes(self.points, GROUPS, device),
        }

    @cached_property
    def twins(self) -> Sequence[tuple[Ablation | None, FindByCriteria]]:
        """The same, of models with random weights."""
        alone, inputs = {**self.recorded, "twins": 0}, self.inputs
        return [
            (
                None,
                FindByCriteria(
                    alone, inputs.keep(f"twin {seed}", partial(TwinInputs, inputs, seed))
                ),
            )
            for seed in range(self.recorded["twins"])
        ]

    def result(self) -> Criteria:
        """The rules applied.

        Raises:
            EmptyCorpusError: There was no token in all of the text.
        """
        moments, magnitudes, tokens = (
            self.parts[name] for name in ("moments", "magnitudes", "tokens")
        )
        states, within = {}, {}
        for point in self.points:
            for name, selection in SELECTIONS.items():
                groups = selection.groups
                found = moments.moments(point, groups).compute()
                if not found.n:
                    continue
                counts = (part.counts(point, groups) for part in (magnitudes, tokens.extremes))
                states[point, name] = States(found, *counts)
                within[point, name] = tokens.kurtosis.moments(point, groups).compute()
        if not states:
            raise self.no_token()
        parameters = self.recorded["parameters"]
        return Criteria(
            self.layers,
            states,
            within,
            tuple(self.recorded["rules"]),
            self.recorded["min_fraction"],
            None if parameters is None else tuple(parameters),
            tuple(twin.result() for _, twin in self.twins),
        )


def criteria(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Path | Sequence[str] | Corpus,
    *,
    rules: Sequence[str] | None = None,
    min_fraction: float = 0.5,
    twins: int = 0,
    points: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    max_length: int | None = None,
    token_budget: int = 4096,
    autocast: Literal["bfloat16", "float16"] | None = None,
) -> Criteria:
    """Find outlier dimensions by their hidden states, by all published rules in one pass.

    `outdim.detect` reads the parameters of norms and needs no text; this reads hidden states. The
    rules, their sources, and what each finds among states without outliers: docs/criteria.md.

    Args:
        model: A Hugging Face model in eval mode.
        tokenizer: Its tokenizer.
        texts: Documents, or where they are: a path, glob or dataset id, or an open corpus
            (`outdim.open_corpus`, which takes several files too).
        rules: Names of rules (`outdim.analysis.rules.RULES`); None takes all.
        min_fraction: Share of the layers in which a dimension has to be flagged to be one of the
            model, for rules that name none themselves; (0, 1].
        twins: How many models of the same architecture with random weights read the same text, so
            that it is known what rules find where nothing was learned: one more forward each.
        points: Names of points; None observes the embeddings and the output of every block.
        exclude: Tokens left out of the statistics: ``"unk"``, or as the vocabulary writes them.
        max_length: Tokens per sequence, special tokens included; longer documents are split. None
            takes the model's own limit, at most 512.
        token_budget: Tokens per batch, padding included.
        autocast: Run the forward under `torch.autocast` with this type.

    Returns:
        Dimensions by rule, layer and selection of tokens.

    Raises:
        ArgumentError: An unknown rule, an argument out of range, a model in training mode.
        DataError: The tokenizer does not belong to the model, or the corpus is empty.

    Example:
        >>> found = criteria(model, tokenizer, "wiki.txt")  # doctest: +SKIP
        >>> found.dims("massive")  # doctest: +SKIP
        (507,)
        >>> names, jaccard = found.agreement()  # doctest: +SKIP
    """
    options = CriteriaOptions(
        points=None if points is None else list(points),
        rules=None if rules is None else list(rules),
        min_fraction=min_fraction,
        twins=twins,
    )
    step = one_step(
        FindByCriteria,
        options,
        model,
        tokenizer,
        texts,
        exclude=exclude,
        max_length=max_length,
        token_budget=token_budget,
        autocast=autocast,
    )
    return step.result().beside(step.inputs)
