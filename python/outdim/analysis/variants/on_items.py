"""Steps that ask a classifier about the items of a labelled task, for blocks of variants of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from outdim.analysis.heads import Classifier
from outdim.analysis.input_options import ModelOptions, TokenizerOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.labelled_items import StsOptions, batching, recorded_items, recorded_task
from outdim.analysis.results.labelled import LabelledResult
from outdim.analysis.step import Json, Progress, Step
from outdim.analysis.variants.in_blocks import InBlocks, side_by_side
from outdim.analysis.variants.items import item_batches
from outdim.analysis.variants.predict import VariantLogits
from outdim.analysis.variants.text_means import Means, item_means
from outdim.analysis.variants.variant import Variant
from outdim.corpus.labelled import LabelledTexts
from outdim.models import Ablation


class OnItems(Step):
    """Reads the items that a plan recorded."""

    reads = (ModelOptions, TokenizerOptions, Classifier)

    @cached_property
    def items(self) -> LabelledTexts:
        """All of them.

        Raises:
            DataError: They are others now.
        """
        return self.inputs.keep(
            f"{self.name} items", lambda: recorded_items(self.Options, self.recorded)
        )


class AnswersOnItems(OnItems, InBlocks):
    """Outputs of every variant.

    By block ``outputs`` [N, 1 + M, C] float32 in the order of the labels, ``truth``, ``clusters``
    [N].
    """

    def measured(
        self, unit: Mapping[str, Any], ablations: Sequence[Ablation], progress: Progress
    ) -> tuple[dict[str, Tensor], Json]:
        """What variants say of the items."""
        items = self.asked(unit)
        outputs = variant_logits(self.inputs)(
            self.inputs.tokenizer,
            items.texts,
            items.pairs,
            ablations,
            at_once=self.recorded["variants_at_once"],
            telling=partial(self.inputs.resources.counting, len(ablations)),
            **batching(self.recorded, self.inputs, progress),
        )
        return {
            "outputs": outputs[..., self.recorded["order"]].transpose(0, 1).contiguous(),
            "truth": torch.from_numpy(items.labels),
            "clusters": torch.from_numpy(items.clusters),
        }, {}

    def asked(self, unit: Mapping[str, Any]) -> LabelledTexts:
        """The items that a shard reads."""
        return self.items

    def compared(self, variants: Sequence[Variant], group: int) -> LabelledResult:
        """All variants of a group."""
        blocks = self.found.blocks(group)
        return LabelledResult(
            step=self.name,
            asked=recorded_task(self.Options, self.recorded),
            variants=tuple(variants),
            outputs=list(side_by_side(blocks, "outputs").transpose(0, 1).numpy()),
            truth=blocks[0]["truth"].numpy(),
            clusters=blocks[0]["clusters"].numpy(),
            seed=self.recorded["seed"],
            named=self.recorded["named"],
            draws=self.recorded["draws"],
            note=self.recorded["note"],
        )


def means_of_items(options: StsOptions, recorded: Mapping[str, Any], inputs: Inputs) -> Means:
    """Means of the hidden states over the items that a plan records of options."""
    items, model = recorded_items(type(options), recorded), inputs.model
    how = batching(recorded, inputs, lambda tokens: None)
    return item_means(
        inputs, item_batches(model, inputs.tokenizer, items.texts, items.pairs, **how)
    )


def variant_logits(inputs: Inputs) -> VariantLogits:
    """The classifier, several variants at once."""
    return inputs.keep("variant logits", lambda: VariantLogits(inputs.model_with("classifier")))
