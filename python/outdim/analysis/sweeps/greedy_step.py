"""Greedy sets: dimensions taken out one after the other, each time what then does most harm.

Forward selection: a round tries every candidate beside those that are chosen already. To "break" a
model it takes what does most harm, to "spare" it what does least, so that as many as possible go.
The worst of hundreds of noisy measurements looks worse than it is, and five rounds choose among
thousands of sets: a half of the documents is for the choice alone, and what is said of the chosen
sets, beside random ones of the same sizes, is measured on the other half.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from outdim.analysis.inputs import Inputs
from outdim.analysis.results.chosen import Choice, Chosen
from outdim.analysis.step import Json, Progress, State, add_accounts
from outdim.analysis.sweeps.greedy_options import GreedyOptions
from outdim.analysis.variants.in_blocks import ByBlock, InBlocks
from outdim.analysis.variants.variant import Variant
from outdim.errors import DataError
from outdim.models.ablation import Ablation

_OWN = ("round", "first", "last", "follows")  # what a shard says beside its part


class Losses(NamedTuple):
    """Of a half of what is read.

    Attributes:
        sums: Of the intact model and M variants by document, float64 [N, 1 + M].
        predicted: Tokens or items that were predicted, [N].
        documents: How many different ones there are.
    """

    sums: Tensor
    predicted: Tensor
    documents: int


class GreedyStep(InBlocks):
    """Rounds of candidates on one half of the documents, then the chosen sets on the other.

    A round is a stage of the run: its shards, blocks of candidates with parts of what is read,
    follow from those of the rounds before.

    Attributes:
        half: Which half is read: 0 chooses, 1 measures.
        others: What was predicted in the half that is not read, as far as it is counted.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    presentation = ("draws",)

    @classmethod
    def check(cls, options: Any, inputs: Inputs) -> None:
        """Of the words for dimensions and layers, and of what is counted."""
        options.check_size(*inputs.declared_size)

    @classmethod
    def drawn(cls, options: GreedyOptions, inputs: Inputs) -> Json:
        """Candidates, and a random order of other dimensions."""
        found = options.candidates(inputs)
        candidates = [dim for (dim,) in found.sets]
        width = inputs.architecture.hidden_size
        others = np.setdiff1d(np.arange(width), candidates)
        if len(others) < width / 2:  # as in a sweep of most dimensions
            others = np.arange(width)
        order = np.random.default_rng(options.seed).permutation(others)
        # Of so many, as many as controls have together are left whatever is chosen.
        order = order[: (1 + options.controls) * options.rounds if options.controls else 0]
        return {
            "candidates": candidates,
            "place": found.places[0],
            "random": order.tolist(),
        }

    @classmethod
    def work(cls, recorded: Mapping[str, Any], inputs: Inputs) -> list[Json]:
        """Blocks of variants of each round, and of the sets that are measured at last."""
        rounds, tried = recorded["rounds"], len(recorded["candidates"])
        sizes = [tried - number for number in range(rounds)]
        sizes.append(rounds * (1 + recorded["controls"]))
        parts, step = cls.parts(inputs), recorded["block"]
        decided = cls.decided_by(inputs)
        return [
            {
                "round": number,
                "first": first,
                "last": min(first + step, size),
                "follows": decided if number else "",
                **part,
            }
            for number, size in enumerate(sizes)
            for first in range(0, size, step)
            for part in parts
        ]

    @classmethod
    def decided_by(cls, inputs: Inputs) -> str:
        """Identity of what all parts together hold, which decides what later rounds try."""
        return ""

    @classmethod
    def stage(cls, unit: Mapping[str, Any]) -> int:
        """Its round."""
        return int(unit["round"])

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        super().__init__(recorded, inputs)
        self.half = self.others = 0
        self._earlier = ByBlock()
        self._choices: list[Choice] = []

    def resume(self, earlier: State) -> None:
        """What the earlier rounds found."""
        self._earlier = ByBlock().merge(earlier.tensors)

    @abstractmethod
    def losses(self, found: Mapping[str, Tensor]) -> Losses:
        """Those of what `measured` gave."""

    @abstractmethod
    def half_empty(self) -> DataError:
        """The error where nothing can be predicted in a half."""

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Take a block of variants on their half of a part of what is read."""
        number, first = unit["round"], unit["first"]
        choosing = number < self.recorded["rounds"]
        self.half, self.others = int(not choosing), 0
        tried = self._tried(number) if choosing else [one.ablation for one in self._sets()]
        part = {name: value for name, value in unit.items() if name not in _OWN}
        some = [one for one in tried[first : unit["last"]] if one is not None]
        found, read = self.measured(part, some, progress)
        if choosing:
            losses = self.losses(found)
            found = {
                "losses": losses.sums.sum(0, keepdim=True),
                "predicted": losses.predicted.sum(0, keepdim=True),
                "documents": torch.tensor([losses.documents]),
                "others": torch.tensor([self.others]),
            }
        elif not first and read:
            self.account = add_accounts(self.account, {"excluded": read["excluded"]})
        return self.take(number, first, found)

    def _ablation(self, dims: Sequence[int]) -> Ablation:
        place = self.recorded["place"]
        return Ablation(tuple(dims), None if place is None else tuple(place), self.recorded["at"])

    def _tried(self, number: int) -> list[Ablation]:
        """What a round tries: each candidate that is left beside those that are chosen."""
        chosen = self._chosen(number)
        left = [dim for dim in self.recorded["candidates"] if dim not in chosen]
        return [self._ablation([*chosen, dim]) for dim in left]

    def _sets(self) -> list[Variant]:
        """The chosen sets of each size, and random ones without any dimension that is chosen."""
        rounds, controls = self.recorded["rounds"], self.recorded["controls"]
        chosen, sizes = self._chosen(rounds), range(1, 1 + rounds)
        found = [Variant("ablated", self._ablation(chosen[:size]), size) for size in sizes]
        others = [dim for dim in self.recorded["random"] if dim not in chosen]
        # Each begins elsewhere in the order, taken as a circle: no two of a size are the same.
        starts = [number * len(others) // controls for number in range(controls)]
        circles = [others[start:] + others[:start] for start in starts]
        return found + [
            Variant("control", self._ablation(one[:size]), size)
            for size in sizes
            for one in circles
        ]

    def _chosen(self, rounds: int) -> list[int]:
        """The dimensions chosen in the first rounds."""
        while len(self._choices) < rounds:
            self._choices.append(self._choose(len(self._choices)))
        return [choice.dim for choice in self._choices[:rounds]]

    def _choose(self, number: int) -> Choice:
        blocks = self.found.blocks(number) or self._earlier.blocks(number)
        predicted = blocks[0]["predicted"].sum()
        if not predicted or not blocks[0]["others"].sum():
            raise self.half_empty()
        losses = [one["losses"].sum(0) / predicted for one in blocks]
        if not torch.isfinite(losses[0][0]):
            raise self._nothing_to_compare()
        harm = torch.cat([one[1:] - one[:1] for one in losses]).numpy()
        harm = np.where(np.isnan(harm), np.inf, harm)
        before = [choice.dim for choice in self._choices]
        left = [dim for dim in self.recorded["candidates"] if dim not in before]
        sign = -1 if self.recorded["goal"] == "break" else 1
        best, *others = np.argsort(sign * harm, kind="stable").tolist()
        return Choice(
            dim=left[best],
            harm=float(harm[best]),
            runner_up=left[others[0]] if others else None,
            runner_up_harm=float(harm[others[0]]) if others else None,
            tried=len(left),
            documents=int(blocks[0]["documents"].sum()),
            predicted=int(predicted),
        )

    def _nothing_to_compare(self) -> DataError:
        return DataError(
            "model: expected a finite loss on the half of the documents that chooses, before any "
            "dimension is taken out, got NaN or infinity; give --dtype float32, and no --autocast."
        )

    def result(self) -> Chosen:
        """What was chosen, and what that does to the other half.

        Raises:
            DataError: A half of the documents has nothing to predict, or the intact model no loss.
        """
        recorded = self.recorded
        self._chosen(recorded["rounds"])
        measured = self.compared((Variant("intact"), *self._sets()), recorded["rounds"])
        choices = tuple(self._choices)
        return Chosen(self.name, recorded["goal"], choices, measured, recorded["ranked"])
