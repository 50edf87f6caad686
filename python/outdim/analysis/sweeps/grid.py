"""Which variants a sweep is made of: sets of dimensions, at places in the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np

from outdim.analysis.sweeps.words import ALL, paired, places_of, sets_of
from outdim.analysis.variants.variant import Role, Variant
from outdim.errors import ArgumentError

if TYPE_CHECKING:
    from outdim.analysis.inputs import Inputs
    from outdim.analysis.variants.text_means import Means
    from outdim.models import Ablation
    from outdim.models.ablation import At

Mode = Literal["zero", "mean"]


@dataclass(frozen=True)
class Grid:
    """Every set of dimensions at every place, and controls of each size beside them.

    Plain data, and short: a grid of 30 layers x 576 dimensions is 576 sets and 30 places.

    Attributes:
        sets: Dimensions that go together, mostly one.
        places: Layers that are edited together; None for all blocks.
        controls: Sets of other dimensions.
        at, mode: Of `Ablation`.
        means: Of the text by group of tokens and point, for mode mean; else None.
        special_ids: Ids of the special tokens, for means.
        own_layers: Of each set and then of each control, where these are no grid but single
            places, all in one.
    """

    sets: tuple[tuple[int, ...], ...]
    places: tuple[tuple[int, ...] | None, ...]
    controls: tuple[tuple[int, ...], ...]
    at: At = "state"
    mode: Mode = "zero"
    means: Means | None = None
    special_ids: tuple[int, ...] = ()
    own_layers: tuple[tuple[int, ...] | None, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`, through JSON as well."""
        names = ("sets", "controls", "places", "own_layers")
        lists = {
            name: tuple(None if one is None else tuple(one) for one in plain[name])
            for name in names
        }
        return cls(**{**plain, **lists, "special_ids": tuple(plain["special_ids"])})

    @property
    def size(self) -> int:
        """Variants at one place."""
        return len(self.sets) + len(self.controls)

    def variants(self, place: int) -> list[Variant]:
        """Those of a place: the sets, then the controls."""
        kinds: tuple[tuple[Role, int], ...] = (
            ("ablated", len(self.sets)),
            ("control", len(self.controls)),
        )
        roles = [role for role, count in kinds for _ in range(count)]
        layers = self.own_layers or (self.places[place],) * self.size
        every = zip(roles, (*self.sets, *self.controls), layers, strict=True)
        return [Variant(role, self._ablation(dims, at), len(dims)) for role, dims, at in every]

    def layers_of(self, place: int, number: int) -> tuple[int, ...] | None:
        """The layers at which a set is edited."""
        return self.own_layers[number] if self.own_layers else self.places[place]

    def blocks(self, layers: int, at_once: int) -> Iterator[tuple[int, int, int]]:
        """Shards: a place, and its variants from one number to another.

        Each costs about as much as ``at_once`` forwards of all ``layers``: the intact model runs
        once a shard, and a variant that begins late costs less than it does.
        """
        for place, edited in enumerate(self.places):
            first = max(1, min(edited or (1,)))
            step = at_once * layers // (layers - first + 1)
            for start in range(0, self.size, step):
                yield place, start, min(start + step, self.size)

    def _ablation(self, dims: tuple[int, ...], layers: tuple[int, ...] | None) -> Ablation:
        from outdim.models import Ablation, with_means

        plain = Ablation(dims, layers, self.at)
        if self.mode == "zero":
            return plain
        if self.means is None:  # of parameters: the mean of the others in the norm
            return dataclasses.replace(plain, mode="mean")
        return with_means(plain, self.means, special_ids=self.special_ids)


def grid(
    inputs: Inputs,
    *,
    dims: Sequence[str] = (ALL,),
    layers: Sequence[str] = (ALL,),
    at: At = "state",
    mode: Mode = "zero",
    controls: int = 10,
    seed: int = 0,
    pairs: bool = False,
    means: Callable[[], Means] | None = None,
) -> Grid:
    """The grid that words ask for; ``means`` gives those of what is read, None of the text.

    Controls have none of the dimensions that are swept; where these are more than half of all, they
    are drawn from all.

    Raises:
        ArgumentError: Words that say nothing; dimensions or layers that the model does not have.
    """
    from outdim.analysis.variants.text_means import text_means
    from outdim.models import Ablation
    from outdim.models.ablation_sites import sites
    from outdim.tokens import special_ids

    found = inputs.architecture
    sets = _once(one for word in dims for one in sets_of(word, found.hidden_size))
    places = _once(one for word in layers for one in places_of(word, found.layers))
    if pairs:
        sets = _once(paired(sets))
    if not sets or not places:
        raise ArgumentError("dims, layers: expected at least one of each.")
    for one in sets:
        sites(found, Ablation(one, places[0], at))  # says what the model does not have
    for place in places:
        sites(found, Ablation(sets[0], place, at))
    if mode not in get_args(Mode):
        raise ArgumentError(f"mode: expected one of {', '.join(get_args(Mode))}, got {mode!r}.")
    of_text = (means or partial(text_means, inputs)) if (mode, at) == ("mean", "state") else None
    drawn = _controls(inputs, sets, at, controls, seed)
    special = tuple(sorted(special_ids(inputs.tokenizer))) if of_text else ()
    made = Grid(sets, places, drawn, at, mode, of_text and of_text(), special)
    made.variants(0)  # says what cannot go together
    return made


def _once(items: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(items))


def _controls(
    inputs: Inputs, sets: Sequence[tuple[int, ...]], at: At, n: int, seed: int
) -> tuple[tuple[int, ...], ...]:
    """Random sets of each size that is swept."""
    from outdim.models import Ablation, controls

    if not n:
        return ()
    taken = {dim for one in sets for dim in one}
    few = 2 * len(taken) <= inputs.architecture.hidden_size
    found: list[tuple[int, ...]] = []
    for size in sorted({len(one) for one in sets}):
        beside = Ablation(next(one for one in sets if len(one) == size), at=at)
        exclude = sorted(taken) if few else ()
        drawn = controls(
            inputs.model, beside, n=n, seed=seed, exclude=exclude, found=inputs.architecture
        )
        found += [one.one_set for one in drawn]
    return tuple(found)


def chosen(
    whole: Grid, ranked: Sequence[tuple[int | None, int]], worst: int, n: int, seed: int
) -> Grid:
    """The first of a ranking as sets, and n of the others, drawn at random, as their controls.

    Args:
        whole: Says where and how.
        ranked: Layer (None for all) and dimension of every candidate.
        worst: How many are taken from the front.
        n: How many of the rest.
        seed: Of the draw.
    """
    rest = ranked[worst:]
    drawn = np.random.default_rng(seed).permutation(len(rest))[:n]
    # By layer, so that those which begin at the same one can share a forward.
    taken = [
        *sorted(ranked[:worst], key=_layer_and_dim),
        *sorted((rest[i] for i in drawn.tolist()), key=_layer_and_dim),
    ]
    dims = tuple((dim,) for _, dim in taken)
    layers = tuple(None if layer is None else (layer,) for layer, _ in taken)
    return dataclasses.replace(
        whole, sets=dims[:worst], controls=dims[worst:], places=(None,), own_layers=layers
    )


def _layer_and_dim(candidate: tuple[int | None, int]) -> tuple[int, int]:
    layer, dim = candidate
    return layer or 0, dim
