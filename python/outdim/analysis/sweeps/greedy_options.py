"""Options of greedy choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from outdim.analysis.input_options import args_of
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import MaskingOptions
from outdim.analysis.sweeps.grid import Grid, grid
from outdim.analysis.sweeps.options import GridOptions, check_controls, check_least
from outdim.analysis.sweeps.ranking import Ranking
from outdim.analysis.sweeps.words import ALL, check_words, named_sets, places_of, sets_of
from outdim.errors import ArgumentError
from outdim.models.ablation import At

Goal = Literal["break", "spare"]


@dataclass(frozen=True, kw_only=True)
class GreedyOptions:
    """Which dimensions are tried, and how many are chosen one after the other.

    Args:
        rounds: How many are chosen.
        goal: To break it take what does most harm beside those chosen before, to spare it what
            does least.
        dims: Candidates: all, ranges such as 0-99, single ones; worst:32 or least:32, those that do
            most or least harm in the run named by ranking. A round tries each.
        ranking: Run directory of a sweep or a screening.
        layers: Where they are disabled: all at once, 4-6 or 4,6 together, or 4.
        at: What is disabled: state (the dimension itself), parameters (its gamma and beta in the
            norms, post-LN models), denominator (its part in the norms' mean and variance) or
            readers (its gamma and beta in the norms that read it, pre-LN models).
        controls: So many random sets of each size stand beside the chosen ones.
        seed: Of all that is drawn: halves, controls, masks, documents.
        variants_at_once: How many variants share a forward; none takes as many as fill a batch, on
            CPUs up to 512 tokens.
        block: So many variants make a shard with a unit of text.
        draws: How often the documents are drawn for the intervals.
    """

    rounds: int = 5
    goal: Goal = "break"
    dims: list[str] = field(default_factory=lambda: [ALL])
    ranking: str | None = None
    layers: str = ALL
    at: At = "state"
    controls: int = 10
    seed: int = 0
    variants_at_once: int | None = None
    block: int = GridOptions.block
    draws: int = 2000

    def check_size(self, hidden_size: int | None, layers: int | None) -> None:
        """Raise ArgumentError for what is out of range or does not go together.

        For a model of such a size; None where that is not known.
        """
        if self.goal not in get_args(Goal):
            raise ArgumentError(f"goal: expected break or spare, got {self.goal!r}.")
        check_least(self, rounds=1, variants_at_once=1, block=1, draws=2, controls=0, seed=0)
        dims = self.ranks.named(self.dims, hidden_size)
        check_words(dims, [self.layers], hidden_size, layers)
        self._check_single(dims, layers)
        self._check_rounds(dims, hidden_size)

    def _check_single(self, dims: Sequence[str], layers: int | None) -> None:
        for word in dims:
            if word != ALL and len(sets_of(word, 1)[0]) > 1:
                raise ArgumentError(
                    f"dims: expected single dimensions, such as 507 or 0-99; got {word!r}, which "
                    "is several together."
                )
        if layers is not None and (count := len(places_of(self.layers, layers))) > 1:
            raise ArgumentError(
                "layers: expected layers at one place: all, 4-6 or 4,6 together, or 4; got "
                f"{self.layers!r}, which is {count} places."
            )

    def _check_rounds(self, dims: Sequence[str], width: int | None) -> None:
        sets = named_sets(dims, width)
        if sets is not None and self.rounds > len(sets):
            raise ArgumentError(
                f"rounds: expected at most {len(sets)}, the candidates there are, got "
                f"{self.rounds}."
            )
        if width is not None and self.controls and 2 * self.rounds > width:
            raise ArgumentError(
                f"rounds: expected at most {width // 2} of {width} dimensions, for random sets of "
                f"as many others stand beside the chosen ones; got {self.rounds}. --controls 0 "
                "leaves these out."
            )
        if sets and width is not None:
            check_controls(self.controls, sets, width, beside=self.rounds)

    @cached_property
    def ranks(self) -> Ranking:
        """What ranks the candidates that words ask for."""
        return Ranking(self.ranking)

    def candidates(self, inputs: Inputs) -> Grid:
        """What is tried in the first round.

        Raises:
            ArgumentError: Options out of range; dimensions or layers that the model does not have.
        """
        self.check_size(inputs.architecture.hidden_size, inputs.architecture.layers)
        dims = self.ranks.named(self.dims)
        return grid(inputs, dims=dims, layers=[self.layers], at=self.at, controls=0, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class GreedyMaskedOptions(MaskingOptions, GreedyOptions):  # noqa: D101 - what the two say
    __doc__ = f"{GreedyOptions.__doc__}{args_of(MaskingOptions)}"
