"""``outdim evaluate glue`` and ``sts``: a labelled task, intact and with dimensions disabled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

from outdim.analysis.gathered import Gathered
from outdim.analysis.heads import Classifier
from outdim.analysis.input_options import InputOptions, ModelOptions, TokenizerOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.labelled_items import (
    GlueOptions,
    StsOptions,
    batching,
    recorded_items,
    recorded_task,
    resolve_glue,
    resolve_items,
)
from outdim.analysis.results.labelled import LabelledResult
from outdim.analysis.step import Json, Progress
from outdim.analysis.variants.on_items import means_of_items
from outdim.analysis.variants.variant import AblationOptions, Variant
from outdim.corpus.labelled import LabelledTexts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from outdim.analysis.variants.items import Batching


class Sts(Gathered):
    """Scores every item with every variant; a shard is a variant.

    State: ``outputs/<variant>`` [N, C] float32, ``truth`` [N] and ``clusters`` [N] int64.
    """

    name: ClassVar[str] = "evaluate-sts"
    Options: ClassVar[type] = StsOptions
    ablates = True
    reads: ClassVar[tuple[type[InputOptions], ...]] = (
        ModelOptions,
        TokenizerOptions,
        AblationOptions,
    )

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        super().__init__(recorded, inputs)
        self.variants = [Variant.from_dict(plain) for plain in recorded["variants"]]

    @classmethod
    def check(cls, options: StsOptions, inputs: Inputs) -> None:
        """The means to which variants set a dimension are those of the items."""
        inputs.means = lambda seed: means_of_items(
            options, {**cls._resolved(options, inputs, seed), "seed": seed}, inputs
        )

    @classmethod
    def resolve(cls, options: StsOptions, inputs: Inputs) -> Json:
        """The items are read."""
        return cls._resolved(options, inputs, inputs.options["seed"])

    @classmethod
    def _resolved(cls, options: Any, inputs: Inputs, seed: int) -> Json:
        """Once for the means and the plan."""
        found: Json = inputs.keep(
            f"{cls.name} resolved", lambda: cls.recorded_of(options, inputs, seed)
        )
        return found

    @staticmethod
    def recorded_of(options: Any, inputs: Inputs, seed: int) -> Json:
        """What the plan records of the items."""
        return resolve_items(options, inputs, seed)

    @classmethod
    def work(cls, recorded: Mapping[str, Any], inputs: Inputs) -> list[Json]:
        """One shard a variant."""
        return [{"variant": number} for number in range(len(recorded["variants"]))]

    @property
    def model(self) -> PreTrainedModel:
        """What is evaluated."""
        return self.inputs.model

    def outputs(self, items: LabelledTexts, progress: Progress) -> torch.Tensor:
        """Outputs [N, C] in the order of the labels."""
        from outdim.analysis.variants.predict import similarities

        assert items.pairs is not None
        return similarities(
            self.model, self.inputs.tokenizer, items.texts, items.pairs, **self._how(progress)
        )[:, None]

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Read every item with one variant."""
        from outdim.models import architecture
        from outdim.models.ablate import apply_ablation

        number = unit["variant"]
        variant = self.variants[number]
        items = self.inputs.keep(f"{self.name} items", self._items)
        found = self.inputs.keep(f"{self.name} architecture", lambda: architecture(self.model))
        with apply_ablation(self.model, variant.ablation, found=found):
            outputs = self.outputs(items, progress)
        self.tensors = {
            f"outputs/{number}": outputs,
            "truth": torch.from_numpy(items.labels),
            "clusters": torch.from_numpy(items.clusters),
        }
        return self

    def result(self) -> LabelledResult:
        """Metrics of every variant, beside the intact model and random dimensions."""
        return LabelledResult(
            step=self.name,
            asked=recorded_task(self.Options, self.recorded),
            variants=self.variants,
            outputs=[self.tensors[f"outputs/{k}"].numpy() for k in range(len(self.variants))],
            truth=self.tensors["truth"].numpy(),
            clusters=self.tensors["clusters"].numpy(),
            seed=self.recorded["seed"],
            named=self.recorded.get("named", True),
        )

    def _items(self) -> LabelledTexts:
        return recorded_items(self.Options, self.recorded)

    def _how(self, progress: Progress) -> Batching:
        return batching(self.recorded, self.inputs, progress)


class Glue(Sts):
    """Labels every item with every variant of a classifier."""

    name = "evaluate-glue"
    Options = GlueOptions
    reads = (*Sts.reads, Classifier)

    @staticmethod
    def recorded_of(options: Any, inputs: Inputs, seed: int) -> Json:
        """Besides, the labels of the task are those of the model."""
        return resolve_glue(options, inputs, seed)

    @property
    def model(self) -> PreTrainedModel:
        """The classifier."""
        return self.inputs.model_with("classifier")

    def outputs(self, items: LabelledTexts, progress: Progress) -> torch.Tensor:
        """Logits [N, C] in the order of the labels."""
        from outdim.analysis.variants.predict import logits

        found = logits(
            self.model, self.inputs.tokenizer, items.texts, items.pairs, **self._how(progress)
        )
        return found[:, self.recorded["order"]]
