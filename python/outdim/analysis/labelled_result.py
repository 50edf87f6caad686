"""What a labelled task says of the variants of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.compared import GATES, compared_row
from outdim.analysis.step import Result
from outdim.analysis.table import EVALUATION
from outdim.analysis.tasks import Task
from outdim.analysis.variants import Variant, controls_of
from outdim.stats.paired import Comparison, Statistic, compare
from outdim.stats.scores import LABELS, weighted
from outdim.text import counted, number

Floats = NDArray[np.float64]

#: Of ``evaluate_glue.parquet``: as of the other evaluations, with items in the place of tokens.
#: Documents are the different first texts, which intervals draw anew.
SCHEMA = pa.schema([pa.field("items", pa.int64()) if f.name == "tokens" else f for f in EVALUATION])

_CONSTANT = "the predictions or the scores are constant"
_ONE_TEXT = "no interval of one first text"
_SOME_DRAWS = "undefined in some draws"
_SOME_DRAWS_OF_CONTROLS = "controls undefined in some draws"
_FEW, _NAMED = 100, 3
_MANY_CELLS = 1 << 22


@dataclass(frozen=True)
class LabelledResult(Result):
    """Outputs of every variant on the same items.

    Attributes:
        step: Name of the step.
        task: What was asked.
        variants: V of them; the first is the intact model.
        outputs: Of each, [N, C] float32, in the order of the labels.
        truth: Labels int64 or scores float64, [N].
        clusters: Items with the same number share their first text, [N].
        seed: Of the intervals.
        named: Whether the model says which output is which label.
    """

    step: str
    task: Task
    variants: Sequence[Variant]
    outputs: Sequence[NDArray[np.float32]]
    truth: NDArray[Any]
    clusters: NDArray[np.int64]
    seed: int
    named: bool = True

    @cached_property
    def predicted(self) -> list[NDArray[Any]]:
        """Labels or scores of every variant."""
        return [self.task.predicted(outputs) for outputs in self.outputs]

    @cached_property
    def values(self) -> list[dict[str, float]]:
        """Metrics of every variant."""
        return [self.task.scores(outputs, self.truth) for outputs in self.outputs]

    def tables(self) -> dict[str, pa.Table]:
        """Metrics with intervals, and what every variant said of every item."""
        stem = self.step.replace("-", "_")
        return {stem: pa.Table.from_pylist(self.rows, SCHEMA), f"{stem}_items": self._items()}

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of `SCHEMA`."""
        return [row for metric in self.task.metrics for row in self._rows(metric)]

    def _rows(self, metric: str) -> Iterator[dict[str, Any]]:
        found = compare(
            self._statistic(metric),
            len(self._sizes),
            controls=controls_of(self.variants),
            worse=-1,
            seed=self.seed,
        )
        for k, variant in enumerate(self.variants):
            yield {
                "task": self.task.name,
                "metric": metric,
                **compared_row(variant, found, k),
                "value": self.values[k][metric],
                "documents": len(self._sizes),
                "items": len(self.truth),
                "reason": self._reason(metric, found, k),
            }

    def _reason(self, metric: str, found: Comparison, k: int) -> str:
        """Why a number of a row is null; "" where each that can be there is.

        A few items drawn again and again may have but one score, where the metric is undefined.
        """
        if not np.isfinite(self.values[k][metric]):
            return _CONSTANT
        if len(self._sizes) < 2:
            return _ONE_TEXT
        if np.isnan([found.value.low[k], found.difference.low[k]]).any():
            return _SOME_DRAWS
        if k in controls_of(self.variants) and np.isnan(found.beyond.low[k]):
            return _SOME_DRAWS_OF_CONTROLS
        return ""

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Items of each cluster."""
        return np.unique(self.clusters, return_counts=True)[1]

    def _statistic(self, metric: str) -> Statistic:
        """A metric of every variant, of how often each cluster is drawn."""
        _, cluster = np.unique(self.clusters, return_inverse=True)
        at_once = max(1, _MANY_CELLS // len(self.truth))

        def of(weights: Floats) -> Floats:
            return np.stack(
                [weighted(metric, one, self.truth, weights) for one in self.predicted], axis=1
            )

        def value(drawn: Floats) -> Floats:
            starts = [*range(0, len(drawn), at_once), len(drawn)]
            return np.concatenate([of(drawn[a:b][:, cluster]) for a, b in pairwise(starts)])

        return value

    def _items(self) -> pa.Table:
        """One row an item and variant."""
        size, n = len(self.variants), len(self.truth)
        truth, predicted = np.tile(self.truth, size), np.concatenate(self.predicted)
        if self.task.labels:
            names = pa.array(self.task.labels)
            truth, predicted = names.take(pa.array(truth)), names.take(pa.array(predicted))
        return pa.table(
            {
                "item": np.tile(np.arange(n, dtype=np.int64), size),
                "variant": np.repeat(np.arange(size, dtype=np.int32), n),
                "truth": truth,
                "predicted": predicted,
            }
        )

    def account(self) -> dict[str, Any]:
        """What was asked, of how many items."""
        return {"task": {"name": self.task.name, "items": len(self.truth)}}

    def headline(self) -> list[str]:
        """The intact model, and what the worst ablations take from it."""
        metric = self.task.metrics[0]
        rows = [row for row in self.rows if row["metric"] == metric]
        ablated = sorted(
            (row for row in rows if row["role"] == "ablated"),
            key=lambda row: np.nan_to_num(row["difference"] or 0.0),
        )
        return [
            f"On {self.task.name}, {counted(len(self.truth), 'item')}, the {LABELS[metric]} of the "
            f"intact model is {_with_interval(rows[0], 'value', '')}.",
            *(_sentence(row) for row in ablated[:_NAMED]),
        ]

    def cautions(self) -> list[str]:
        """What the numbers rest on."""
        said = []
        if len(self._sizes) < _FEW:
            said.append(
                f"There are {counted(len(self._sizes), 'different first text')}: intervals of so "
                "few are wide, and their ends uncertain."
            )
        if not self.named and (better := self._better_order()):
            said.append(better)
        return said

    def _better_order(self) -> str:
        """Whether the unnamed outputs would fit better in another order."""
        from scipy.optimize import linear_sum_assignment

        size = len(self.task.labels)
        hits = np.zeros((size, size), np.int64)
        np.add.at(hits, (self.predicted[0], self.truth), 1)
        outputs, labels = linear_sum_assignment(-hits)
        best, now = hits[outputs, labels].sum(), np.trace(hits)
        if best == now:
            return ""
        names = [self.task.labels[label] for label in labels]
        return (
            f"With the outputs in the order {', '.join(names)} the accuracy would be "
            f"{number(best / len(self.truth))}, not {number(now / len(self.truth))}: if that is "
            f"the order of the model, give it: --outputs {' '.join(names)}."
        )


def _with_interval(row: Mapping[str, Any], name: str, stem: str) -> str:
    return f"{number(row[name])} [{number(row[f'{stem}low'])}, {number(row[f'{stem}high'])}]"


def _sentence(row: Mapping[str, Any]) -> str:
    change = _with_interval(row, "difference", "difference_")
    said = f"{row['variant']}: {number(row['value'])}, a difference of {change}"
    if row["control"] is None:
        return f"{said}."
    beyond = _with_interval(row, "beyond", "beyond_")
    said += f"; as many other dimensions {number(row['control'])}, which leaves {beyond}"
    return f"{said}{GATES[row['gate']]}."
