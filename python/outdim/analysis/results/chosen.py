"""What a greedy choice found: a set that grows, and what it does to documents of no part in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.results.compared import Compared, estimate
from outdim.analysis.step import Result
from outdim.analysis.variants.variant import controls_of
from outdim.text import counted, listing, number

Array = NDArray[np.float64]

ROUNDS = pa.schema(
    [
        ("round", pa.int32()),  # from 1 on: the size of the set
        ("dim", pa.int32()),  # that was added
        ("tried", pa.int32()),  # candidates
        ("chosen_by", pa.float64()),  # harm of the set on the half that chose it: no estimate
        ("runner_up", pa.int32()),
        ("runner_up_by", pa.float64()),
    ]
)


class Choice(NamedTuple):
    """One round.

    Attributes:
        dim: That was taken out beside those before.
        harm: Of the set with it, on the half that chose it.
        runner_up, runner_up_harm: The next best; None where there was no other.
        tried: How many candidates there were.
        documents, predicted: Of that half, and how many tokens or items were predicted there.
    """

    dim: int
    harm: float
    runner_up: int | None
    runner_up_harm: float | None
    tried: int
    documents: int
    predicted: int


@dataclass(frozen=True, eq=False)
class Chosen(Result):
    """Dimensions in the order in which they were chosen.

    Attributes:
        step: Name of the step.
        goal: "break" or "spare".
        choices: A round each.
        measured: The intact model, the set after each round, and random ones, on the other half.
        ranked: What a reader has to know of how the candidates were ranked.
    """

    step: str
    goal: Literal["break", "spare"]
    choices: Sequence[Choice]
    measured: Compared
    ranked: str = ""

    @property
    def dims(self) -> list[int]:
        """In the order in which they were chosen."""
        return [choice.dim for choice in self.choices]

    def harm(self, metric: str | None = None) -> Array:
        """How much more than the intact model's on the other half, after each round [rounds]."""
        found = self.measured.comparison(metric or self.measured.leading)
        return found.difference.value[1 : 1 + len(self.choices)]

    def tables(self) -> dict[str, Any]:
        """``greedy_lm`` and the like: a row a metric and set; and ``greedy_lm_rounds``."""
        stem, found = self.step.replace("-", "_"), self.measured
        rows = [row for metric in found.swept for row in found.rows(metric)]
        rounds = [
            {
                "round": number,
                "dim": one.dim,
                "tried": one.tried,
                "chosen_by": one.harm,
                "runner_up": one.runner_up,
                "runner_up_by": one.runner_up_harm,
            }
            for number, one in enumerate(self.choices, 1)
        ]
        return {
            stem: pa.Table.from_pylist(rows, found.schema),
            f"{stem}_rounds": pa.Table.from_pylist(rounds, ROUNDS),
        }

    def account(self) -> dict[str, Any]:
        """What was read, for the choice and after it."""
        first = self.choices[0]
        choosing = {"documents": first.documents, "predicted": first.predicted, "dims": self.dims}
        return {"evaluation": {self.step: {**self.measured.measured, "choice": choosing}}}

    def headline(self) -> list[str]:
        """The set, round by round, and random ones of its size."""
        found = self.measured.comparison(self.measured.leading)
        steps = [
            f"{choice.dim} ({estimate(found.difference, size).words()})"
            for size, choice in enumerate(self.choices, 1)
        ]
        most = "most" if self.goal == "break" else "least"
        said = [
            f"Taken out one after the other, each time the one of {self.choices[0].tried} that "
            f"then does {most} harm to one half of the {self.measured.drawn}s, and "
            f"{self.measured.noun} it adds up to on the other half: {listing(steps)}.",
        ]
        last = len(self.choices)
        controls = controls_of(self.measured.variants).get(last, ())
        if len(controls):
            change = f"by {number(float(found.control[last]), 3)}"
            verb = f"change it {change} on average" if len(controls) > 1 else f"changes it {change}"
            said.append(
                f"{counted(len(controls), 'random set')} of as many other dimensions {verb}, which "
                f"leaves {estimate(found.beyond, last).words()}."
            )
        return [*said, self.measured.intact_in_words()]

    def cautions(self) -> Sequence[str]:
        """What the numbers rest on."""
        first, other = self.choices[0], self.measured.about["documents"]
        return [
            f"Dimensions were chosen on {counted(first.documents, self.measured.drawn)}, a half "
            f"drawn at random, and measured on the other {other:,}. What they do to the half that "
            "chose them is no estimate: the best of many looks better than it is.",
            *([self.ranked] if self.ranked else []),
            *self.measured.cautions(),
        ]
