"""Sweep a classifier: every dimension disabled in turn, on a labelled task.

Accuracy moves by whole items, and most single dimensions move none: loss and probability of the
right label, which are smooth, stand beside the metrics of the task and rank the dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from outdim.analysis.heads import Classifier
from outdim.analysis.input_options import ModelOptions, TokenizerOptions, args_of
from outdim.analysis.inputs import Inputs
from outdim.analysis.labelled_items import (
    GlueOptions,
    batching,
    recorded_items,
    recorded_task,
    resolve_glue,
)
from outdim.analysis.results.labelled import LabelledResult
from outdim.analysis.results.swept import Sweep
from outdim.analysis.step import Json, Progress, Step
from outdim.analysis.sweeps.grid import Grid
from outdim.analysis.sweeps.options import GridOptions
from outdim.analysis.sweeps.ranked_text import ranked_on
from outdim.analysis.variants.predict import VariantLogits
from outdim.analysis.variants.variant import Variant
from outdim.corpus.labelled import LabelledTexts


@dataclass(frozen=True, kw_only=True)
class SweepGlueOptions(GlueOptions, GridOptions):  # noqa: D101 - what the two say
    __doc__ = f"{GridOptions.__doc__}{args_of(GlueOptions)}"


class SweepGlue(Step):
    """Outputs of every variant for every item; a shard is a block of variants."""

    name = "sweep-glue"
    Options = SweepGlueOptions
    reads = (ModelOptions, TokenizerOptions, Classifier)
    presentation = ("draws",)

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        super().__init__(recorded, inputs)
        self.grid = Grid.from_dict(recorded["grid"])
        self._tensors: dict[str, torch.Tensor] = {}

    @classmethod
    def check(cls, options: Any, inputs: Inputs) -> None:
        """Of the words for dimensions and layers, and of what is counted."""
        options.check_size(*inputs.declared_size)

    @classmethod
    def resolve(cls, options: SweepGlueOptions, inputs: Inputs) -> Json:
        """The items, the labels of the classifier, and the grid of variants."""
        found = options.grid(inputs)
        recorded = resolve_glue(options, inputs, options.seed)
        note = cls._forward(inputs).note
        ranked = ranked_on(options.ranking, options.dims, [recorded["items"]["sha256"]])
        return {**recorded, "grid": found.as_dict(), "note": note, "ranked": ranked}

    @classmethod
    def work(cls, recorded: Mapping[str, Any], inputs: Inputs) -> list[Json]:
        """Blocks of variants of one place."""
        blocks = Grid.from_dict(recorded["grid"]).blocks(
            inputs.architecture.layers, recorded["block"]
        )
        return [{"place": place, "first": first, "last": last} for place, first, last in blocks]

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Read every item with the variants of a block."""
        inputs, recorded, place, first = self.inputs, self.recorded, unit["place"], unit["first"]
        items: LabelledTexts = inputs.keep(
            "sweep glue items", lambda: recorded_items(self.Options, recorded)
        )
        some = self.grid.variants(place)[first : unit["last"]]

        outputs = self._forward(inputs)(
            inputs.tokenizer,
            items.texts,
            items.pairs,
            [variant.ablation for variant in some if variant.ablation is not None],
            at_once=recorded["variants_at_once"],
            **batching(recorded, inputs, progress),
        )[..., recorded["order"]]
        found = {f"{place}.{first + i}": one for i, one in enumerate(outputs[1:])}
        if not place and not first:  # what the others have again
            found |= {
                "intact": outputs[0],
                "truth": torch.from_numpy(items.labels),
                "clusters": torch.from_numpy(items.clusters),
            }
        return self.merge(found)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """``intact`` and ``<place>.<number>`` [N, C] float32, ``truth`` and ``clusters`` [N]."""
        return dict(self._tensors)

    def merge(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Take the outputs of other blocks."""
        self._tensors.update(tensors)
        return self

    def result(self) -> Sweep:
        """What every variant does."""
        places = tuple(map(self._place, range(len(self.grid.places))))
        return Sweep(self.name, places, self.grid, ranked=self.recorded["ranked"])

    def _place(self, place: int) -> LabelledResult:
        names = ["intact", *(f"{place}.{i}" for i in range(self.grid.size))]
        return LabelledResult(
            step=self.name,
            asked=recorded_task(self.Options, self.recorded),
            variants=(Variant("intact"), *self.grid.variants(place)),
            outputs=[self._tensors[name].numpy() for name in names],
            truth=self._tensors["truth"].numpy(),
            clusters=self._tensors["clusters"].numpy(),
            seed=self.recorded["seed"],
            named=self.recorded["named"],
            draws=self.recorded["draws"],
            note=self.recorded["note"],
        )

    @staticmethod
    def _forward(inputs: Inputs) -> VariantLogits:
        found: VariantLogits = inputs.keep(
            "variant logits", lambda: VariantLogits(inputs.model_with("classifier"))
        )
        return found
