"""Sweep the read-out of sentence similarity: every dimension of the last layer, in closed form.

One forward over the texts gives their pooled vectors; the cosine without a dimension follows from
these alone (`outdim.stats.leave_one_out`), and is what an ablation of the last layer gives wherever
that keeps dimensions apart. For some dimensions, drawn at random, the model is run ablated as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from outdim.analysis.input_options import ModelOptions, TokenizerOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.labelled_items import StsOptions, batching, recorded_items, resolve_items
from outdim.analysis.results.compared import compared_row
from outdim.analysis.results.labelled import SCHEMA
from outdim.analysis.step import Json, Progress, Result, Step
from outdim.analysis.tasks import TASKS
from outdim.analysis.variants.predict import text_vectors
from outdim.analysis.variants.variant import Variant
from outdim.corpus.labelled import LabelledTexts
from outdim.errors import ArgumentError
from outdim.models.ablation import Ablation, At
from outdim.stats.leave_one_out import LeaveOneOut, cosines_without, leave_one_out
from outdim.text import counted, listing, number, with_interval

_NAMED = 8
_FEW = 100
_EXACT = 1e-4  # of a cosine: float32 states of a model that rounds otherwise, and no more


@dataclass(frozen=True, kw_only=True)
class SweepStsOptions(StsOptions):
    """Take every dimension out of the vectors whose cosine is compared with what people say.

    Args:
        data: Files (.tsv, .csv, .jsonl, .parquet), or a folder in GLUE's layout; none takes the
            validation split of nyu-mll/glue on the hub.
        text: Columns of the two texts; none takes those of the task.
        label: Column of the score; None takes that of the task.
        at: What is disabled in the last layer; the default is what keeps dimensions apart there.
        verify: For so many dimensions, drawn at random, the model is run ablated as well.
        rows: So many rows, drawn at random; None takes all.
        draws: How often first texts are drawn for the intervals.
        seed: Of all that is drawn.
        batch_size: Texts in a batch.
        max_length: Tokens of a text with special tokens; longer ones are cut.
        threads: Threads of a process.
    """

    at: At | None = None
    verify: int = 10
    draws: int = 2000
    seed: int = 0


class SweepSts(Step):
    """Vectors of all texts, and the cosines of some ablated models."""

    name = "sweep-sts"
    Options = SweepStsOptions
    reads = (ModelOptions, TokenizerOptions)
    presentation = ("draws",)

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        super().__init__(recorded, inputs)
        self._tensors: dict[str, torch.Tensor] = {}

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
        items: LabelledTexts = inputs.keep("sweep sts items", self._items)
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

    def state_dict(self) -> dict[str, torch.Tensor]:
        """``left``, ``right`` [N, D], ``truth``, ``clusters`` [N], ``without/<dim>`` [N]."""
        return dict(self._tensors)

    def merge(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Take what other shards found."""
        self._tensors.update(tensors)
        return self

    def result(self) -> SweptReadOut:
        """The correlation with what people say, without each dimension."""
        arrays = {name: tensor.numpy() for name, tensor in self._tensors.items()}
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


@dataclass(frozen=True, eq=False)
class SweptReadOut(Result):
    """Pooled vectors of N pairs of texts.

    Attributes:
        left, right: The vectors, float32 [N, D].
        truth: What people say, float64 [N].
        clusters: Items with the same number share their first text, [N].
        checked: By dimension the cosines that the ablated model gave, float64 [N].
        ablations: What is done for each dimension.
        draws, seed: Of the intervals.
    """

    left: NDArray[np.float32]
    right: NDArray[np.float32]
    truth: NDArray[np.float64]
    clusters: NDArray[np.int64]
    checked: Mapping[int, NDArray[np.float64]]
    ablations: Sequence[Ablation]
    draws: int
    seed: int

    def without(self, metric: str) -> LeaveOneOut:
        """A metric of the task with all dimensions and without each."""
        return self._found[metric]

    @cached_property
    def _found(self) -> dict[str, LeaveOneOut]:
        given: dict[str, Any] = {"clusters": self.clusters, "draws": self.draws, "seed": self.seed}
        return {
            metric: leave_one_out(self.left, self.right, self.truth, metric=metric, **given)
            for metric in TASKS["sts"].metrics
        }

    @cached_property
    def largest_error(self) -> float:
        """How far cosines in closed form are from those of the ablated models; NaN for none."""
        if not self.checked:
            return float("nan")
        dims = list(self.checked)
        closed = cosines_without(self.left, self.right)[:, dims].T
        return float(np.abs(closed - np.stack([self.checked[dim] for dim in dims])).max())

    def tables(self) -> dict[str, pa.Table]:
        """``sweep_sts``: a row a metric and dimension, the intact model first."""
        rows = [row for metric in TASKS["sts"].metrics for row in self._rows(metric)]
        return {"sweep_sts": pa.Table.from_pylist(rows, SCHEMA)}

    def _rows(self, metric: str) -> list[dict[str, Any]]:
        found = self.without(metric).comparison
        variants = [Variant("intact"), *(Variant("ablated", one) for one in self.ablations)]
        return [
            {
                "task": "sts",
                "metric": metric,
                **compared_row(variant, found, i),
                "documents": len(np.unique(self.clusters)),
                "items": len(self.truth),
                "reason": "",
            }
            for i, variant in enumerate(variants)
        ]

    def headline(self) -> list[str]:
        """The intact model, what helps, what harms, and whether ablations agree."""
        metric = TASKS["sts"].metrics[0]
        found = self.without(metric)
        value = found.comparison.value
        said = [
            f"The cosine of {counted(len(self.truth), 'pair')} follows what people say by "
            f"{with_interval(found.intact, value.low[0], value.high[0])} "
            f"({metric})."
        ]
        both = (("helps", "help", found.helps()), ("does harm", "do harm", found.harms()))
        for verb, infinitive, dims in both:
            if dims:
                names = listing(
                    [f"{d} ({number(float(found.difference.value[d]), 2)})" for d in dims], _NAMED
                )
                said.append(f"To take one of these dimensions out {verb}: {names}.")
            else:
                said.append(f"No dimension is sure to {infinitive} by being taken out.")
        if self.checked:
            said.append(
                f"The closed form was checked with the model ablated, for "
                f"{counted(len(self.checked), 'dimension')}: no cosine is off by more than "
                f"{self.largest_error:.1g}."
            )
        return said

    def cautions(self) -> list[str]:
        """What the numbers rest on."""
        texts, said = len(np.unique(self.clusters)), []
        if self.largest_error > _EXACT:
            said.append(
                f"The closed form is not what the ablated model gives: a cosine is off by "
                f"{self.largest_error:.2g}. Do not use these numbers; outdim evaluate sts runs any "
                "ablation."
            )
        if texts < _FEW:
            said.append(f"There are {counted(texts, 'different first text')}: few for intervals.")
        return said

    def account(self) -> dict[str, Any]:
        """How many items, and how exact the closed form is."""
        error = None if np.isnan(self.largest_error) else self.largest_error
        found = {"items": len(self.truth), "checked": len(self.checked), "largest_error": error}
        return {"read_out": {"sweep-sts": found}}
