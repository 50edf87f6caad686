"""What figures and tables show: values of one statistic, labelled from the vocabulary."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from outdim.analysis.results.estimate import Estimate
from outdim.analysis.table import COVARIATES, Statistic, describe, selection_label
from outdim.report.figures.base import Choice
from outdim.report.statistics import Floats, Key, StepStatistics

_FEW = 20  # fewer values than this have no band of 90 %

#: The kind of the points between blocks.
HIDDEN = "hidden states"
_QUESTIONS = {
    "statistic": "Value",
    "covariate": "Measured against",
    "selection": "Tokens",
    "place": "Where",
}


@dataclass(frozen=True)
class View:
    """Values [R, S] of one statistic at R points of one kind.

    Attributes:
        key: Names of what it is.
        statistic: Its definition.
        place: Kind of the points.
        points, layers, labels: Of the points [R].
        estimate: The values [R, S], over dimensions or heads; [R, 1] where there is one a point.
        of: What a value is of: "dimension", "head", or "" where there is one a point.
        beside: What is drawn with it, as one more line each: where there is one a point.
    """

    key: Key
    statistic: Statistic
    place: str
    points: list[str]
    layers: list[int]
    labels: list[str]
    estimate: Estimate
    of: str
    beside: tuple[View, ...] = ()

    @property
    def answers(self) -> dict[str, str]:
        """The answers of the reader under which it is shown."""
        return {**self.key._asdict(), "place": self.place}

    @property
    def axis(self) -> str:
        """What the values are, for an axis."""
        unit = f" [{self.statistic.unit}]" if self.statistic.unit else ""
        return f"{describe(self.statistic, self.key.covariate)}{unit}"

    @property
    def words(self) -> str:
        """What the values are of, in full."""
        return describe(self.statistic, self.key.covariate, self.key.selection)

    @property
    def symmetric(self) -> bool:
        """Whether a value and its negative mean as much, as of a correlation."""
        return self.statistic.low is not None and self.statistic.low == -(self.statistic.high or 0)

    @cached_property
    def largest(self) -> Floats:
        """The largest |value| over points [S]; 0 where there is none."""
        found: Floats = np.nan_to_num(np.abs(self.estimate.value), nan=0.0, posinf=0.0).max(axis=0)
        return found

    @property
    def known(self) -> int:
        """Of how many dimensions or heads there is any value."""
        return int(np.isfinite(self.estimate.value).any(axis=0).sum())

    @cached_property
    def usual(self) -> Floats | None:
        """5th, 50th and 95th percentile over the values of each point [3, R]; None for a few."""
        value = self.estimate.value
        finite = np.isfinite(value)
        if finite.sum(axis=1).max(initial=0) < _FEW:
            return None
        found = np.full((3, len(value)), np.nan)
        for row, values in enumerate(value):
            if finite[row].any():
                found[:, row] = np.percentile(values[finite[row]], (5, 50, 95))
        return found

    @property
    def chance(self) -> Floats | None:
        """What chance gives at each point [R], the largest over its values; None if not known."""
        if self.estimate.null is None or not np.isfinite(self.estimate.null).any():
            return None
        found: Floats = np.nanmax(self.estimate.null, axis=1, initial=-np.inf)
        return np.where(np.isfinite(found), found, np.nan)

    def strongest(self, marked: Sequence[int], number: int, most_marked: int) -> list[int]:
        """Columns to show: those marked, then those with the largest |value| at any point.

        Where all values are 0, any of them: a figure without a line would say nothing.
        """
        largest = self.largest
        worth = np.asarray(largest > 0)
        if not worth.any():
            worth = np.asarray(np.isfinite(self.estimate.value).any(0))
        shown = [column for column in marked if column < len(largest) and worth[column]]
        shown = shown[:most_marked]
        for column in np.argsort(-largest, kind="stable")[: number + most_marked]:
            if len(shown) < number and int(column) not in shown and worth[column]:
                shown.append(int(column))
        return shown


def topics(found: StepStatistics) -> dict[str, list[View]]:
    """All views of a step by topic, what leads first."""
    by_topic: dict[str, list[View]] = defaultdict(list)
    for key in found.ordered():
        definition = key.definition
        by_topic[definition.topic or definition.label] += views(found, key)
    return {topic: _together(shown) for topic, shown in by_topic.items() if shown}


def _together(shown: Sequence[View]) -> list[View]:
    """Each view with those that are drawn beside it, which are then no views of their own."""
    leading = {(view.key, view.place): view for view in shown if not view.of}
    beside: dict[tuple[Key, str], list[View]] = defaultdict(list)
    alone = []
    for view in shown:
        of = (view.key._replace(statistic=view.statistic.beside), view.place)
        if of in leading and set(view.points) <= set(leading[of].points):
            beside[of].append(view)
        else:
            alone.append(view)
    return [replace(view, beside=tuple(beside[view.key, view.place])) for view in alone]


def views(found: StepStatistics, key: Key) -> list[View]:
    """The values of a key, one view for each kind of point at which there is any."""
    definition, estimate = key.definition, found.values[key]
    of = "head" if key.statistic in found.heads else "dimension"
    if not definition.of_dimensions and of == "dimension":
        of, estimate = "", estimate[:, :1]
    by_kind: dict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(np.isfinite(estimate.value).any(axis=1)):
        by_kind[_kind(found.points[row])].append(int(row))
    return [
        View(
            key,
            definition,
            kind,
            [found.points[row] for row in rows],
            [found.layers[row] for row in rows],
            labels([found.points[row] for row in rows], [found.layers[row] for row in rows]),
            estimate if len(rows) == len(estimate.value) else estimate[rows],
            of,
        )
        for kind, rows in by_kind.items()
    ]


def choices(shown: Sequence[View]) -> tuple[Choice, ...]:
    """The questions to which the views are answers, as far as there is more than one answer."""
    asked = []
    for question, label in _QUESTIONS.items():
        answers = {view.answers[question]: _answer(question, view) for view in shown}
        if len(answers) > 1:
            asked.append(Choice(question, label, answers))
    return tuple(asked)


def labels(points: Sequence[str], layers: Sequence[int]) -> list[str]:
    """Name points for an axis: the layer's number, where that is unambiguous."""
    short = [
        {"embeddings": "emb", "final_norm": "norm"}.get(point, str(layer))
        for point, layer in zip(points, layers, strict=True)
    ]
    return short if len(set(short)) == len(short) else list(points)


def _answer(question: str, view: View) -> str:
    if question == "statistic":
        return view.statistic.label
    if question == "covariate":
        return COVARIATES.get(view.key.covariate, view.key.covariate)
    return selection_label(view.key.selection) if question == "selection" else view.place


def _kind(point: str) -> str:
    if re.fullmatch(r"embeddings|final_norm|(.*\.)?block\.\d+", point):
        return HIDDEN
    return re.sub(r"block\.\d+", "block", point)
