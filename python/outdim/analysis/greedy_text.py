"""Greedy sets: dimensions taken out one after the other, each time what then does most harm.

Forward selection: a round tries every candidate beside those that are chosen already. To "break" a
model it takes what does most harm, to "spare" it what does least, so that as many as possible go.
The worst of hundreds of noisy measurements looks worse than it is, and five rounds choose among
thousands of sets: a half of the documents is for the choice alone, and what is said of the chosen
sets, beside random ones of the same sizes, is measured on the other half.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch

from outdim.analysis.heads import LanguageModel, MaskedLanguageModel
from outdim.analysis.input_options import MODEL_ON_TEXT
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import MaskedTokens, NextTokens
from outdim.analysis.results.chosen import Choice, Chosen
from outdim.analysis.step import Json, Progress, State, add_accounts
from outdim.analysis.sweep_text import SweepText
from outdim.analysis.sweeps.greedy_options import GreedyMaskedOptions, GreedyOptions
from outdim.analysis.variants.by_block import ByBlock
from outdim.analysis.variants.scoring import Documents
from outdim.analysis.variants.variant import Variant
from outdim.errors import DataError
from outdim.files import digest
from outdim.models.ablation import Ablation
from outdim.tokens import Piece
from outdim.tokens.targets import Item

_OWN = ("round", "first", "last", "follows")  # what a shard says beside the unit of text
_LOSS = 0  # of the sums that are kept
_OTHER = "other_tokens"  # of the half that measures, in the first block of the first round


class Greedy(SweepText):
    """Rounds of candidates on one half of the documents, then the chosen sets on the other.

    A round is a stage of the run: its shards, blocks of candidates with units of text, follow from
    those of the rounds before.
    """

    Options: ClassVar[type] = GreedyOptions
    needs = ()

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> Json:
        """Candidates, and random orders of other dimensions."""
        found = options.candidates(inputs)
        candidates = [dim for (dim,) in found.sets]
        width = inputs.architecture.hidden_size
        others = np.setdiff1d(np.arange(width), candidates)
        if len(others) < width / 2:  # as in a sweep of most dimensions
            others = np.arange(width)
        rng = np.random.default_rng(options.seed)
        # Of so many, as many as there are rounds are left whatever is chosen.
        drawn = [rng.permutation(others)[: 2 * options.rounds] for _ in range(options.controls)]
        return {
            **super().resolve(options, inputs),
            "candidates": candidates,
            "place": found.places[0],
            "orders": [one.tolist() for one in drawn],
        }

    @classmethod
    def gridded(cls, options: Any, inputs: Inputs) -> Json:
        """No grid: what is measured follows from the rounds."""
        return {}

    @classmethod
    def work(cls, recorded: Mapping[str, Any], inputs: Inputs) -> list[Json]:
        """Blocks of variants of each round, and of the sets that are measured at last."""
        rounds, tried = recorded["rounds"], len(recorded["candidates"])
        sizes = [tried - number for number in range(rounds)]
        sizes.append(rounds * (1 + len(recorded["orders"])))
        units = [unit.as_dict() for unit in inputs.corpus.units]
        text = digest([[file["sha256"] for file in inputs.files], units])
        step = recorded["block"]
        return [
            {
                "round": number,
                "first": first,
                "last": min(first + step, size),
                "follows": text if number else "",  # all of it decided what is tried
                **unit,
            }
            for number, size in enumerate(sizes)
            for first in range(0, size, step)
            for unit in units
        ]

    @classmethod
    def stage(cls, unit: Mapping[str, Any]) -> int:
        """Its round."""
        return int(unit["round"])

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        super().__init__(recorded, inputs)
        self._earlier = ByBlock()
        self._half = 0
        self._other_tokens = 0
        self._choices: list[Choice] = []

    def resume(self, earlier: State) -> None:
        """What the earlier rounds found."""
        self._earlier = ByBlock().merge(earlier.tensors)

    def items(self, piece: Piece, documents: Documents) -> Iterable[Item]:
        """Of documents of the half that is read; equal texts are in the same half."""
        found = super().items(piece, documents)
        if documents.keys[piece.document] % 2 == self._half:
            return found
        self._other_tokens += sum(int((item.labels >= 0).sum()) for item in found)
        return ()

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Take a block of variants over the documents of their half in a unit of text."""
        number, first = unit["round"], unit["first"]
        last_round = number == self.recorded["rounds"]
        self._half, self._other_tokens = int(last_round), 0
        tried = [v.ablation for v in self._sets()] if last_round else self._tried(number)
        text = {name: value for name, value in unit.items() if name not in _OWN}
        some = [one for one in tried[first : unit["last"]] if one is not None]
        found, read = self.measured(text, some, progress)
        if last_round and not first:
            self.account = add_accounts(self.account, {"excluded": read["excluded"]})
        found["sums"] = found["sums"][..., self.kept]
        if not last_round:  # what chooses is the mean over all of the half
            documents = torch.tensor([len(found["tokens"])])
            found = {name: one.sum(0, keepdim=True) for name, one in found.items()}
            found["documents"] = documents
            if not number and not first:
                found[_OTHER] = torch.tensor([self._other_tokens])
        return self.merge({f"{number}.{first}/{name}": one for name, one in found.items()})

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
        rounds, orders = self.recorded["rounds"], self.recorded["orders"]
        chosen, sizes = self._chosen(rounds), range(1, 1 + rounds)
        found = [Variant("ablated", self._ablation(chosen[:size]), size) for size in sizes]
        others = [[dim for dim in order if dim not in chosen] for order in orders]
        return found + [
            Variant("control", self._ablation(one[:size]), size) for size in sizes for one in others
        ]

    def _chosen(self, rounds: int) -> list[int]:
        """The dimensions chosen in the first rounds."""
        while len(self._choices) < rounds:
            self._choices.append(self._choose(len(self._choices)))
        return [choice.dim for choice in self._choices[:rounds]]

    def _choose(self, number: int) -> Choice:
        blocks = self._blocks.blocks(number) or self._earlier.blocks(number)
        tokens = blocks[0]["tokens"].sum()
        if not tokens or (not number and not blocks[0][_OTHER].sum()):
            raise self._one_half_empty()
        sums = [one["sums"].sum(0)[:, _LOSS] / tokens for one in blocks]
        if not torch.isfinite(sums[0][0]):
            raise self._nothing_to_compare()
        harm = torch.cat([one[1:] - one[:1] for one in sums]).numpy()
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
            tokens=int(tokens),
        )

    def _one_half_empty(self) -> DataError:
        return DataError(
            f"source: {self.inputs.corpus.source}: a half of the documents, drawn at random, has "
            "no token to predict; give more documents, or another --seed."
        )

    def _nothing_to_compare(self) -> DataError:
        return DataError(
            "model: expected a finite loss on the half of the documents that chooses, before any "
            "dimension is taken out, got NaN or infinity; give --dtype float32, and no --autocast."
        )

    def result(self) -> Chosen:  # type: ignore[override]
        """What was chosen, and what that does to the other half.

        Raises:
            DataError: A half of the documents has no token to predict, or the intact model no loss.
        """
        rounds = self.recorded["rounds"]
        self._chosen(rounds)
        blocks = self._blocks.blocks(rounds)
        sums = torch.cat([blocks[0]["sums"][:, :1], *(one["sums"][:, 1:] for one in blocks)], 1)
        variants = (Variant("intact"), *self._sets())
        found = self.compared(variants, sums, blocks[0])
        return Chosen(
            self.name,
            self.recorded["goal"],
            tuple(self._choices),
            found,
            self.recorded["ranked"],
        )


class GreedyLm(Greedy, NextTokens):
    """A causal language model."""

    name = "greedy-lm"
    reads = (*MODEL_ON_TEXT, LanguageModel)


class GreedyMlm(Greedy, MaskedTokens):
    """A masked language model."""

    name = "greedy-mlm"
    Options = GreedyMaskedOptions
    reads = (*MODEL_ON_TEXT, MaskedLanguageModel)
