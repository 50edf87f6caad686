"""What a labelled task says of the variants of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.results.compared import Compared, gate_in_words
from outdim.analysis.table import EVALUATION
from outdim.analysis.tasks import Task
from outdim.analysis.variants.variant import Variant, controls_of
from outdim.stats.paired import Statistic, ratio
from outdim.stats.scores import LABELS, SMOOTH, smooth, weighted_each
from outdim.text import counted, number, with_interval

Floats = NDArray[np.float64]

#: Of ``evaluate_glue.parquet``: as of the other evaluations, with items in the place of tokens.
#: Documents are the different texts, which intervals draw anew.
SCHEMA = pa.schema([pa.field("items", pa.int64()) if f.name == "tokens" else f for f in EVALUATION])

_CONSTANT = "the predictions or the scores are constant"
_NOT_FINITE = "outputs that are not finite"
_ONE_TEXT = "no interval of one text"
_SOME_DRAWS = "undefined in some draws"
_SOME_DRAWS_OF_CONTROLS = "controls undefined in some draws"
_FEW, _NAMED = 100, 3
_MANY_CELLS = 1 << 22


@dataclass(frozen=True)
class LabelledResult(Compared):
    """Outputs of every variant on the same items.

    Attributes:
        step: Name of the step.
        asked: The task.
        variants: V of them; the first is the intact model.
        outputs: Of each, [N, C] float32, in the order of the labels.
        truth: Labels int64 or scores float64, [N].
        clusters: Items with the same number share their first text, [N].
        seed: Of the intervals.
        named: Whether the model says which output is which label.
        draws: How often first texts are drawn.
        note: What a reader has to know of the model.
    """

    step: str
    asked: Task
    variants: Sequence[Variant]
    outputs: Sequence[NDArray[np.float32]]
    truth: NDArray[Any]
    clusters: NDArray[np.int64]
    seed: int
    named: bool = True
    draws: int = 2000
    note: str = ""
    schema = SCHEMA
    drawn = "text"  # the first, where an item has two

    @cached_property
    def predicted(self) -> list[NDArray[Any]]:
        """Labels or scores of every variant."""
        return [self.asked.predicted(outputs) for outputs in self.outputs]

    def tables(self) -> dict[str, pa.Table]:
        """Metrics with intervals, and what every variant said of every item."""
        stem = self.step.replace("-", "_")
        rows = [row for metric in self.asked.metrics for row in self.rows(metric)]
        return {stem: pa.Table.from_pylist(rows, SCHEMA), f"{stem}_items": self._items()}

    @property
    def task(self) -> str:
        """Name of what was asked."""
        return self.asked.name

    @property
    def swept(self) -> tuple[str, ...]:
        """Smooth ones first, which tell single dimensions apart."""
        return (*(SMOOTH if self.asked.labels else SMOOTH[:1]), *self.asked.metrics)

    @property
    def about(self) -> dict[str, Any]:
        """The task, and of how many items."""
        return {"task": self.task, "documents": len(self._sizes), "items": len(self.truth)}

    def worse(self, metric: str) -> Literal[1, -1, 0]:
        """Less of it is worse, but of a loss."""
        return 1 if metric == self.leading else -1

    def reason(self, metric: str, variant: int) -> str:
        """A few items drawn anew may have but one score, where the metric is undefined."""
        found = self.comparison(metric)
        if not np.isfinite(self.outputs[variant]).all():
            return _NOT_FINITE
        if np.isnan(found.value.value[variant]):
            return _CONSTANT
        if len(self._sizes) < 2:
            return _ONE_TEXT
        if np.isnan([found.value.low[variant], found.difference.low[variant]]).any():
            return _SOME_DRAWS
        if variant in controls_of(self.variants) and np.isnan(found.beyond.low[variant]):
            return _SOME_DRAWS_OF_CONTROLS
        return ""

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Items of each cluster."""
        return np.unique(self.clusters, return_counts=True)[1]

    def statistic(self, metric: str) -> Statistic:
        """A metric of every variant, of how often each cluster is drawn."""
        _, cluster = np.unique(self.clusters, return_inverse=True)
        if (of_items := self._of_items(metric)) is not None:
            sums = np.stack([np.bincount(cluster, one) for one in of_items])
            return ratio(sums, self._sizes)
        at_once = max(1, _MANY_CELLS // len(self.truth))

        predicted = np.stack(self.predicted)

        def value(drawn: Floats) -> Floats:
            starts = [*range(0, len(drawn), at_once), len(drawn)]
            parts = [drawn[a:b][:, cluster] for a, b in pairwise(starts)]
            found = [weighted_each(metric, predicted, self.truth, one) for one in parts]
            return np.concatenate(found)

        return value

    def _of_items(self, metric: str) -> Floats | None:
        """What each item has, [V, N], where the metric is the mean of that."""
        if metric == "acc":
            return np.stack([one == self.truth for one in self.predicted]).astype(np.float64)
        if metric in SMOOTH:
            return np.stack([smooth(metric, one, self.truth) for one in self.outputs])
        return None

    def _items(self) -> pa.Table:
        """One row an item and variant."""
        size, n = len(self.variants), len(self.truth)
        truth, predicted = np.tile(self.truth, size), np.concatenate(self.predicted)
        if self.asked.labels:
            names = pa.array(self.asked.labels)
            truth, predicted = names.take(pa.array(truth)), names.take(pa.array(predicted))
        return pa.table(
            {
                "item": np.tile(np.arange(n, dtype=np.int64), size),
                "variant": np.repeat(np.arange(size, dtype=np.int32), n),
                "truth": truth,
                "predicted": predicted,
            }
        )

    @property
    def measured(self) -> dict[str, Any]:
        """What was asked, of how many items."""
        return {"name": self.task, "items": len(self.truth)}

    def account(self) -> dict[str, Any]:
        """The same."""
        return {"task": self.measured}

    def headline(self) -> list[str]:
        """The intact model, and what the worst ablations take from it."""
        metric = self.asked.metrics[0]
        rows = list(self.rows(metric))
        ablated = sorted(
            (row for row in rows if row["role"] == "ablated"),
            key=lambda row: np.nan_to_num(row["difference"] or 0.0),
        )
        return [
            self.intact_in_words(),
            *(_sentence(row) for row in ablated[:_NAMED]),
        ]

    def intact_in_words(self) -> str:
        """What the intact model scores."""
        metric = self.asked.metrics[0]
        intact = next(self.rows(metric))
        return (
            f"On {self.task}, {counted(len(self.truth), 'item')}, the {LABELS[metric]} of the "
            f"intact model is {_with_interval(intact, 'value', '')}."
        )

    def cautions(self) -> list[str]:
        """What the numbers rest on."""
        said = list(super().cautions())
        if not self.named and (better := self._better_order()):
            said.append(better)
        return [*said, *([self.note] if self.note else [])]

    def _few_documents(self) -> list[str]:
        if len(self._sizes) >= _FEW:
            return []
        return [
            f"There are {counted(len(self._sizes), 'different text')}: intervals of so few "
            "are wide, and their ends uncertain."
        ]

    def _better_order(self) -> str:
        """Whether the unnamed outputs would fit better in another order."""
        from scipy.optimize import linear_sum_assignment

        size = len(self.asked.labels)
        hits = np.zeros((size, size), np.int64)
        np.add.at(hits, (self.predicted[0], self.truth), 1)
        outputs, labels = linear_sum_assignment(-hits)
        best, now = hits[outputs, labels].sum(), np.trace(hits)
        if best == now:
            return ""
        names = [self.asked.labels[label] for label in labels]
        return (
            f"With the outputs in the order {', '.join(names)} the accuracy would be "
            f"{number(best / len(self.truth))}, not {number(now / len(self.truth))}: if that is "
            f"the order of the model, give it: --outputs {' '.join(names)}."
        )


def _with_interval(row: Mapping[str, Any], name: str, stem: str) -> str:
    return with_interval(row[name], row[f"{stem}low"], row[f"{stem}high"])


def _sentence(row: Mapping[str, Any]) -> str:
    change = _with_interval(row, "difference", "difference_")
    said = f"{row['variant']}: {number(row['value'])}, a difference of {change}"
    if row["control"] is None:
        return f"{said}."
    beyond = _with_interval(row, "beyond", "beyond_")
    said += f"; as many other dimensions {number(row['control'])}, which leaves {beyond}"
    return f"{said}{gate_in_words(row['gate'], row['q'])}."
