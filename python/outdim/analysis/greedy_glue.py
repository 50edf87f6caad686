"""``outdim greedy glue``: by the loss of a classifier on labelled items (`sweeps.greedy_step`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from outdim.analysis.input_options import args_of
from outdim.analysis.inputs import Inputs
from outdim.analysis.labelled_items import GlueOptions, resolve_glue
from outdim.analysis.step import Json
from outdim.analysis.sweeps.greedy_options import GreedyOptions
from outdim.analysis.sweeps.greedy_step import GreedyStep, Losses
from outdim.analysis.sweeps.ranked_text import ranked_on
from outdim.analysis.variants.on_items import AnswersOnItems, variant_logits
from outdim.corpus.labelled import LabelledTexts
from outdim.errors import DataError
from outdim.stats.scores import smooth


@dataclass(frozen=True, kw_only=True)
class GreedyGlueOptions(GlueOptions, GreedyOptions):  # noqa: D101 - what the two say
    __doc__ = f"{GreedyOptions.__doc__}{args_of(GlueOptions)}"


class GreedyGlue(GreedyStep, AnswersOnItems):
    """A block of sets, with a half of the items."""

    name = "greedy-glue"
    Options = GreedyGlueOptions

    @classmethod
    def resolve(cls, options: GreedyGlueOptions, inputs: Inputs) -> Json:
        """What is drawn, the items, and the labels of the classifier."""
        drawn = cls.drawn(options, inputs)
        recorded = resolve_glue(options, inputs, options.seed)
        ranked = ranked_on(options.ranking, options.dims, [recorded["items"]["sha256"]])
        return {**recorded, **drawn, "note": variant_logits(inputs).note, "ranked": ranked}

    def asked(self, unit: Mapping[str, Any]) -> LabelledTexts:
        """Those of the half that is read; equal first texts are in the same half."""
        keys = [
            xxhash.xxh64_intdigest(text.encode(), self.recorded["seed"])
            for text in self.items.texts
        ]
        own = np.array(keys, np.uint64) % 2 == self.half
        self.others = int((~own).sum())
        if not 0 < self.others < len(own):
            raise self.half_empty()
        return self.items.only(np.flatnonzero(own))

    def losses(self, found: Mapping[str, Tensor]) -> Losses:
        """By item, of the right label; of a task with scores the squared error."""
        truth = found["truth"].numpy()
        of_each = [smooth("loss", one.numpy(), truth) for one in found["outputs"].unbind(1)]
        sums = torch.from_numpy(np.stack(of_each, 1))
        items = torch.ones(len(truth), dtype=torch.int64)
        return Losses(sums, items, len(np.unique(found["clusters"].numpy())))

    def half_empty(self) -> DataError:
        """The error where all items are in one half."""
        return DataError(
            "data: a half of the items, drawn at random by their first text, is empty; give more "
            "items, or another --seed."
        )
