"""``outdim screen glue``: by the loss of a classifier on labelled items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch.nn.functional import cross_entropy, mse_loss

from outdim.analysis.input_options import args_of
from outdim.analysis.inputs import Inputs
from outdim.analysis.labelled_items import GlueOptions, batching, resolve_glue
from outdim.analysis.screen import ScreenOptions, ScreenStep
from outdim.analysis.step import Json, Progress
from outdim.analysis.variants.items import ItemBatch, item_batches
from outdim.analysis.variants.on_items import OnItems
from outdim.models import Forward
from outdim.models.screening import Screener

_ITEMS = 1024  # a shard


@dataclass(frozen=True, kw_only=True)
class ScreenGlueOptions(GlueOptions, ScreenOptions):  # noqa: D101 - what a screening of items says
    __doc__ = f"""{ScreenOptions.__doc__}

    Args:
        seed: Of the rows that are drawn.
{args_of(GlueOptions).lstrip(chr(10))}"""

    seed: int = 0


class ScreenGlue(ScreenStep, OnItems):
    """By the loss of the right label, of a task with scores the squared error; some items each."""

    name = "screen-glue"
    Options = ScreenGlueOptions

    @classmethod
    def resolve(cls, options: ScreenGlueOptions, inputs: Inputs) -> Json:
        """The items, and the labels of the classifier."""
        return {**super().resolve(options, inputs), **resolve_glue(options, inputs, options.seed)}

    @classmethod
    def work(cls, recorded: Mapping[str, Any], inputs: Inputs) -> list[Json]:
        """Items one after the other."""
        rows = recorded["items"]["rows"]
        return [{"first": i, "last": min(i + _ITEMS, rows)} for i in range(0, rows, _ITEMS)]

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Take some items."""
        model, order = self.inputs.model_with("classifier"), self.recorded["order"]
        items = self.items.only(np.arange(unit["first"], unit["last"]))
        call, truth = Forward(model), torch.from_numpy(items.labels)

        def add(screener: Screener, batch: ItemBatch) -> None:
            right = truth[batch.rows].to(model.device)

            def loss() -> torch.Tensor:
                given = call(batch.input_ids, batch.attention_mask, **batch.others)
                outputs = given.logits[:, order].double()
                if right.is_floating_point():
                    return mse_loss(outputs[:, 0], right, reduction="sum")
                return cross_entropy(outputs, right, reduction="sum")

            screener.add(loss, batch.attention_mask, targets=len(right))

        how = batching(self.recorded, self.inputs, progress)
        batches = item_batches(model, self.inputs.tokenizer, items.texts, items.pairs, **how)
        return self.score(model, batches, add)
