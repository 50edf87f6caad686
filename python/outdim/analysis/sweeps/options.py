"""Options of sweeps of predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import comb
from typing import Any

from outdim.analysis.input_options import args_of
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import MaskingOptions
from outdim.analysis.results.screened import LEADING, Score
from outdim.analysis.sweeps.grid import Grid, Mode, grid
from outdim.analysis.sweeps.ranking import Ranking
from outdim.analysis.sweeps.words import ALL, EACH, check_words, named_sets, paired
from outdim.analysis.variants.text_means import Means
from outdim.errors import ArgumentError
from outdim.models.ablation import At

_BLOCK = 32  # forwards of all layers a shard, about
_CONTROLS = 10
_LEVEL = 0.05


def check_least(options: Any, **least: int) -> None:
    """Raise ArgumentError for an option below its least value; None is no value."""
    for name, bound in least.items():
        given = getattr(options, name)
        if given is not None and given < bound:
            expected = f"at least {bound}" if bound else "0 or more"
            raise ArgumentError(f"{name.replace('_', '-')}: expected {expected}, got {given}.")


def check_controls(
    count: int, sets: Sequence[tuple[int, ...]], hidden_size: int, *, beside: int | None = None
) -> None:
    """Raise ArgumentError for more controls than there are sets of others, of the smallest size.

    Args:
        count: Controls.
        sets: What they stand beside; where these are most of all dimensions, each control has none
            of one of them.
        hidden_size: Of the model.
        beside: How many dimensions a control has none of then; None: as many as a set has.
    """
    size, taken = min(map(len, sets)), len({dim for one in sets for dim in one})
    others = hidden_size - (taken if 2 * taken <= hidden_size else beside or size)
    most = comb(others, size)
    if count > most:
        raise ArgumentError(
            f"controls: expected at most {most}, the sets of {size} of {others} other "
            f"dimensions; got {count}."
        )


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """Which dimensions are disabled in turn, and where.

    Args:
        dims: Which are tried: all, ranges such as 0-99, single ones, or with + or commas those that
            go together; worst:8 or least:8, those that do most or least harm in the run named by
            ranking.
        layers: Where: all at once; each alone; window:N, so many in a row from every layer on; 4-6
            or 4,6 together; or 4. Several words make a place each; 0 stands for the embeddings.
        at: What is disabled: state (the dimension itself), parameters (its gamma and beta in the
            norms, post-LN models), denominator (its part in the norms' mean and variance) or
            readers (its gamma and beta in the norms that read it, pre-LN models).
        mode: What they are set to: zero, or mean, of the text for the state, of the other
            parameters for those of a norm.
        controls: So many random dimensions beside them at every place, drawn from all where most
            are swept; none takes 10.
        pairs: Beside single dimensions all pairs of them: whether two do more harm than the sum.
        ranking: Run directory of a sweep or a screening, by which dims may be named.
        seed: Of all that is drawn: controls, masks, documents.
        variants_at_once: How many variants share a forward; none takes as many as fill a batch, on
            CPUs up to 512 tokens. 1: each as it is in outdim evaluate, to the bit.
        block: So many forwards of all layers, about, make a shard with a unit of text.
        draws: How often the documents are drawn for the intervals.
    """

    dims: list[str] = field(default_factory=lambda: [ALL])
    layers: list[str] = field(default_factory=lambda: [ALL])
    at: At = "state"
    mode: Mode = "zero"
    controls: int | None = None
    pairs: bool = False
    ranking: str | None = None
    seed: int = 0
    variants_at_once: int | None = None
    block: int = _BLOCK
    draws: int = 2000

    def check_size(self, hidden_size: int | None, layers: int | None) -> None:
        """Raise ArgumentError for what is out of range or does not go together.

        For a model of such a size; None where that is not known.
        """
        check_least(self, variants_at_once=1, block=1, draws=2, controls=0, seed=0)
        dims = self.ranks.named(self.dims, hidden_size)
        check_words(dims, self.layers, hidden_size, layers)
        sets = named_sets(dims, hidden_size)
        if sets and self.pairs:
            sets = paired(sets)  # says how many are too few or too many
        if sets and hidden_size is not None and self.controls is not None:
            check_controls(self.controls, sets, hidden_size)

    @cached_property
    def ranks(self) -> Ranking:
        """What ranks the dimensions that words ask for."""
        return Ranking(self.ranking)

    def grid(self, inputs: Inputs, means: Callable[[], Means] | None = None) -> Grid:
        """The grid of variants; ``means`` as of `outdim.analysis.sweeps.grid.grid`.

        Raises:
            ArgumentError: Options out of range; dimensions or layers that the model does not have;
                more places than so many draws could make sure of.
        """
        self.check_size(inputs.architecture.hidden_size, inputs.architecture.layers)
        found = grid(
            inputs,
            dims=self.ranks.named(self.dims),
            pairs=self.pairs,
            layers=self.layers,
            at=self.at,
            mode=self.mode,
            controls=self.control_count,
            seed=self.seed,
            means=means,
        )
        least = int(len(found.places) / _LEVEL)
        if self.draws < least:
            raise ArgumentError(
                f"draws: expected at least {least} for {len(found.places)} places, where nothing "
                f"could be sure with fewer; got {self.draws}."
            )
        return found

    @property
    def control_count(self) -> int:
        """Controls at a place."""
        return _CONTROLS if self.controls is None else self.controls


@dataclass(frozen=True, kw_only=True)
class SweepOptions(GridOptions):  # noqa: D101 - what a grid says, and of screening
    __doc__ = f"""{(GridOptions.__doc__ or "").rstrip()}
        verify: Measure only so many that come first in a screening by gradients (all layers
            together, or each alone), and a random sample of the others: whether to believe it.
        verify_random: How many others.
        score: By which the screening ranks: absolute |h dL/dh|, its square, or the magnitude |h|.
    """

    verify: int | None = None
    verify_random: int = 40
    score: Score = LEADING

    def check_size(self, hidden_size: int | None, layers: int | None) -> None:
        """As the grid, and whether what is verified is all that a screening scores."""
        super().check_size(hidden_size, layers)
        if self.verify_random < 1:
            raise ArgumentError(f"verify-random: expected at least 1, got {self.verify_random}.")
        if self.verify is not None:
            self._check_verify(hidden_size, layers)

    @property
    def control_count(self) -> int:
        """Of a verified screening the random others take the part of controls."""
        return 0 if self.verify is not None else super().control_count

    def _check_verify(self, hidden_size: int | None, count: int | None) -> None:
        layers = list(self.layers)
        if list(self.dims) != [ALL] or layers not in ([ALL], [EACH]):
            raise ArgumentError(
                "verify: it takes what comes first in a screening: leave --dims out, and --layers, "
                "or give --layers each."
            )
        plain = (self.at, self.mode, self.controls, self.pairs) == ("state", "zero", None, False)
        if not plain:
            raise ArgumentError(
                "verify: the scores are of single states set to zero, and random others stand "
                "beside them: leave --at, --mode, --controls and --pairs out."
            )
        if hidden_size is None or count is None:
            return
        population = hidden_size * (count if layers == [EACH] else 1)
        assert self.verify is not None
        if self.verify < 1 or self.verify + self.verify_random > population:
            raise ArgumentError(
                f"verify, verify-random: expected at least 1 and together at most {population}, "
                f"the dimensions there are, got {self.verify} and {self.verify_random}."
            )


@dataclass(frozen=True, kw_only=True)
class SweepMaskedOptions(MaskingOptions, SweepOptions):  # noqa: D101 - what the two say
    __doc__ = f"{SweepOptions.__doc__}{args_of(MaskingOptions)}"
