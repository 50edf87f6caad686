"""What a sweep of the read-out of sentence similarity found: the cosine without each dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.results.compared import compared_row
from outdim.analysis.results.labelled import SCHEMA
from outdim.analysis.step import Result
from outdim.analysis.tasks import TASKS
from outdim.analysis.variants.variant import Variant
from outdim.models.ablation import Ablation
from outdim.stats.leave_one_out import LeaveOneOut, cosines_without, leave_one_out
from outdim.text import counted, listing, number, significant, with_interval

_NAMED = 8
_FEW = 100
_EXACT = 1e-4  # of a cosine: float32 states of a model that rounds otherwise, and no more


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
                f"{significant(self.largest_error, 1)}."
            )
        return said

    def cautions(self) -> list[str]:
        """What the numbers rest on."""
        texts, said = len(np.unique(self.clusters)), []
        if self.largest_error > _EXACT:
            said.append(
                f"The closed form is not what the ablated model gives: a cosine is off by "
                f"{significant(self.largest_error)}. Do not use these numbers; outdim evaluate sts "
                "runs any ablation."
            )
        if texts < _FEW:
            said.append(f"There are {counted(texts, 'different text')}: few for intervals.")
        return said

    def account(self) -> dict[str, Any]:
        """How many items, and how exact the closed form is."""
        error = None if np.isnan(self.largest_error) else self.largest_error
        found = {"items": len(self.truth), "checked": len(self.checked), "largest_error": error}
        return {"read_out": {"sweep-sts": found}}
