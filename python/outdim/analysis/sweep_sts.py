"""Sweep the read-out of sentence similarity: every dimension of the last layer, in closed form.

One forward over the texts gives their pooled vectors; the cosine without a dimension follows from
these alone (`outdim.stats.leave_one_out`), and is what an ablation of the last layer gives wherever
that keeps dimensions apart. For some dimensions, drawn at random, the model is run ablated as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from outdim.analysis.gathered import Gathered
from outdim.analysis.input_options import ModelOptions, TokenizerOptions, args_of
from outdim.analysis.inputs import Inputs
from outdim.analysis.labelled_items import StsOptions, batching, recorded_items, resolve_items
from outdim.analysis.results.read_out import SweptReadOut
from outdim.analysis.step import Json, Progress
from outdim.analysis.variants.predict import text_vectors
from outdim.corpus.labelled import LabelledTexts
from outdim.errors import ArgumentError
from outdim.models.ablation import Ablation, At


@dataclass(frozen=True, kw_only=True)
class SweepStsOptions(StsOptions):  # noqa: D101 - also what is said of pairs
    __doc__ = f"""Take every dimension out of the cosine that is compared with what people say.

    Args:
        at: What is disabled in the last layer; the default is what keeps dimensions apart there.
        verify: For so many dimensions, drawn at random, the model is run ablated as well.
        draws: How often first texts are drawn for the intervals.
        seed: Of all that is drawn.
{args_of(StsOptions).lstrip(chr(10))}"""

    at: At | None = None
    verify: int = 10
    draws: int = 2000
    seed: int = 0


class SweepSts(Gathered):
    """Vectors of all texts, and the cosines of some ablated models.

    State: ``left``, ``right`` [N, D], ``truth``, ``clusters`` [N], ``without/<dim>`` [N].
    """

    name = "sweep-sts"
    Options = SweepStsOptions
    ablates = True
    reads = (ModelOptions, TokenizerOptions)
    presentation = ("draws",)

    @classmethod
    def resolve(cls, options: SweepStsOptions, inputs: Inputs) -> Json:
        """The items are read, and the closed form holds for the model."""
        from outdim.models.pooled import exact_at

        if options.draws < 2:
            raise ArgumentError(f"draws: expected at least 2, got {options.draws}.")
        found = inputs.architecture
        if not 0 <= options.verify <= found.hidden_size:
            raise ArgumentError(f"verify: expected 0 to {found.hidden_size}, got {options.verify}.")
        exact = exact_at(inputs.model, found)
        if not exact or (options.at is not None and options.at not in exact):
            raise ArgumentError(
                f"at: expected {' or '.join(exact) or 'another model'}, got {options.at}: only "
                f"there the last layer of this {found.family} model keeps dimensions apart; "
                "outdim evaluate sts runs any ablation."
            )
        drawn = np.random.default_rng(options.seed).permutation(found.hidden_size)[: options.verify]
        return {
            **resolve_items(options, inputs, options.seed),
            "at": options.at or exact[0],
            "layer": found.layers,
            "checked": sorted(drawn.tolist()),
        }

    @classmethod
    def work(cls, recorded: Mapping[str, Any], inputs: Inputs) -> list[Json]:
        """The intact model, and each dimension that is checked."""
        return [{"dim": None}, *({"dim": dim} for dim in recorded["checked"])]

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Read every text, intact or without a dimension."""
        from outdim.models import apply_ablation

        inputs, dim = self.inputs, unit["dim"]
        items = inputs.keep("sweep sts items", self._items)
        assert items.pairs is not None
        ablation = None if dim is None else self._ablation(dim)

        with apply_ablation(inputs.model, ablation, found=inputs.architecture):
            vectors = text_vectors(
                inputs.model,
                inputs.tokenizer,
                [*items.texts, *items.pairs],
                **batching(self.recorded, inputs, progress),
            )
        left, right = vectors[: len(items.texts)], vectors[len(items.texts) :]
        if dim is None:
            return self.merge(
                {
                    "left": left,
                    "right": right,
                    "truth": torch.from_numpy(items.labels),
                    "clusters": torch.from_numpy(items.clusters),
                }
            )
        cosine = torch.nn.functional.cosine_similarity(left.double(), right.double())
        return self.merge({f"without/{dim}": cosine})

    def result(self) -> SweptReadOut:
        """The correlation with what people say, without each dimension."""
        arrays = {name: tensor.numpy() for name, tensor in self.tensors.items()}
        return SweptReadOut(
            left=arrays["left"],
            right=arrays["right"],
            truth=arrays["truth"],
            clusters=arrays["clusters"],
            checked={dim: arrays[f"without/{dim}"] for dim in self.recorded["checked"]},
            ablations=tuple(map(self._ablation, range(arrays["left"].shape[1]))),
            draws=self.recorded["draws"],
            seed=self.recorded["seed"],
        )

    def _ablation(self, dim: int) -> Ablation:
        return Ablation((dim,), (self.recorded["layer"],), self.recorded["at"])

    def _items(self) -> LabelledTexts:
        return recorded_items(SweepStsOptions, self.recorded)
