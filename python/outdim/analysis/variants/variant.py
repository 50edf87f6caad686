"""The variants of a model that stand side by side: intact, ablated, and controls of each kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from outdim.errors import ArgumentError
from outdim.text import those_together

if TYPE_CHECKING:
    from outdim.analysis.inputs import Inputs
    from outdim.models import Ablation

Role = Literal["intact", "ablated", "control"]
Kind = Literal["random", "random_positions", "largest_gamma", "largest_beta", "magnitude_matched"]

_INTACT = "intact"
_OF_TEXT = 0.0  # stands for the means of the text until they are known; options give no others


@dataclass(frozen=True)
class Variant:
    """One of them.

    Attributes:
        role: What it is there for.
        ablation: What is done to the model; None for the intact one.
        group: Ablated variants and controls of one group are alike but for the dimensions.
    """

    role: Role
    ablation: Ablation | None = None
    group: int = 0

    @property
    def label(self) -> str:
        """For people."""
        return _INTACT if self.ablation is None else self.ablation.label

    @property
    def size(self) -> int:
        """How many dimensions are changed."""
        return 0 if self.ablation is None else len(self.ablation.all_dims)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        from outdim.models import Ablation

        ablation = plain["ablation"]
        return cls(plain["role"], ablation and Ablation(**ablation), plain["group"])


def controls_of(variants: Sequence[Variant]) -> dict[int, list[int]]:
    """By the number of an ablated variant those of its controls; see `outdim.stats.paired`.

    None shares a dimension with what it stands beside: a sweep over all draws them among all.
    """
    dims = [
        frozenset() if one.ablation is None else frozenset(one.ablation.all_dims)
        for one in variants
    ]
    by_group: dict[int, list[int]] = {}
    for number, variant in enumerate(variants):
        if variant.role == "control":
            by_group.setdefault(variant.group, []).append(number)
    found = {
        number: [
            other
            for other in by_group.get(variant.group, ())
            if dims[number].isdisjoint(dims[other])
        ]
        for number, variant in enumerate(variants)
        if variant.role == "ablated"
    }
    return {number: others for number, others in found.items() if others}


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """Which dimensions are disabled, how, and beside which others.

    Several values of ablate, at, mode and scale, and windows, make a variant of each combination.

    Args:
        ablate: Dimensions, each word a variant; with + or commas those that go together, as in
            507 507+247.
        at: What is disabled: state (the dimension itself), parameters (its gamma and beta in the
            norms, post-LN models), denominator (its part in the norms' mean and variance) or
            readers (its gamma and beta in the norms that read it, pre-LN models).
        mode: What it is set to: zero, mean (of the text), resample (of parameters and readers) or
            clip; none takes zero, or only scale if given.
        scale: Factors by which the dimensions are multiplied: a dose curve.
        bound: To which clip clips.
        only: Of the parameters, one of the two alone.
        layers: Where they are disabled, 0 for the embeddings; none takes all blocks.
        window: Take so many layers in a row at a time, from every layer on.
        controls: Beside every kind of variant, how many sets of as many other dimensions.
        control_kind: How these are chosen: at random, at random in each layer anew, by the largest
            gamma or beta, or by states of like magnitude.
        seed: Of all that is drawn: controls, masks, documents.
    """

    ablate: list[str] = field(default_factory=list)
    at: list[str] = field(default_factory=lambda: ["state"])
    mode: list[str] | None = None
    scale: list[float] | None = None
    bound: float | None = None
    only: Literal["gamma", "beta"] | None = None
    layers: list[int] | None = None
    window: int | None = None
    controls: int = 10
    control_kind: Kind = "random"
    seed: int = 0

    #: What the plan records besides.
    derived: ClassVar[tuple[str, ...]] = ("variants",)

    def resolve(self, inputs: Inputs) -> dict[str, Any]:
        """What the plan records: the variants, every number of them."""
        from outdim.analysis.variants.text_means import text_means
        from outdim.tokens import special_ids

        asked = self.ablations(inputs.architecture.layers)
        found = variants(
            inputs, asked, controls=self.controls, kind=self.control_kind, seed=self.seed
        )
        if any(_is_mean_of_text(variant) for variant in found):
            if any(variant.ablation and variant.ablation.by_layer for variant in found):
                raise ArgumentError(
                    "control-kind: expected random or magnitude_matched for --mode mean, got "
                    f"{self.control_kind}, which takes other dimensions in each layer."
                )
            means = text_means(inputs) if inputs.means is None else inputs.means(self.seed)
            special = sorted(special_ids(inputs.tokenizer))
            found = [_with_means(variant, means, special) for variant in found]
        return {**dataclasses.asdict(self), "variants": [variant.as_dict() for variant in found]}

    @staticmethod
    def identity(inputs: Inputs) -> dict[str, Any]:
        """Nothing of its own."""
        return {}

    def ablations(self, layers: int) -> list[Ablation]:
        """Each combination, for a model with so many layers."""
        from outdim.models import Ablation

        shared: Any = {"only": self.only}
        return [
            Ablation(dims, where, at, mode, value, **shared)  # type: ignore[arg-type]
            for dims in map(_dims, self.ablate)
            for at in self.at
            for where in self._places(layers)
            for mode, value in self._modes(at)
        ]

    def _modes(self, at: str) -> list[tuple[str, float | None]]:
        modes = self.mode if self.mode is not None else [] if self.scale else ["zero"]
        if "scale" in modes:
            raise ArgumentError("mode: scale needs factors: give them by --scale 0 0.5.")
        if "resample" in modes and at == "state":
            raise ArgumentError(
                "mode: resample needs --at parameters or readers; of the state it takes samples, "
                "which outdim.models.with_samples draws in Python."
            )
        if self.bound is not None and "clip" not in modes:
            raise ArgumentError("bound: it goes with --mode clip alone.")
        doses = [("scale", factor) for factor in self.scale or ()]
        values = {"clip": self.bound, "mean": _OF_TEXT if at == "state" else None}
        return [*((mode, values.get(mode)) for mode in modes), *doses]

    def _places(self, layers: int) -> list[list[int] | None]:
        if self.window is None:
            return [self.layers]
        among = self.layers or list(range(1, layers + 1))
        if not 1 <= self.window <= len(among):
            raise ArgumentError(
                f"window: expected 1 to {len(among)} layers in a row, got {self.window}."
            )
        return [among[i : i + self.window] for i in range(len(among) - self.window + 1)]


def _is_mean_of_text(variant: Variant) -> bool:
    ablation = variant.ablation
    return ablation is not None and ablation.mode == "mean" and ablation.value == _OF_TEXT


def _with_means(
    variant: Variant, means: Mapping[str, Mapping[str, Any]], special: Sequence[int]
) -> Variant:
    from outdim.models import with_means

    if not _is_mean_of_text(variant):
        return variant
    assert variant.ablation is not None
    with_values = with_means(variant.ablation, means, special_ids=special)
    return dataclasses.replace(variant, ablation=with_values)


def _dims(word: str | int) -> list[int]:
    try:
        return those_together(str(word))
    except ValueError:
        raise ArgumentError(
            f"ablate: expected dimensions such as 507, or 507+247 together; got {word!r}."
        ) from None


def variants(
    inputs: Inputs,
    asked: Sequence[Ablation],
    *,
    controls: int = 10,
    kind: Kind = "random",
    seed: int = 0,
) -> list[Variant]:
    """The intact model, what was asked for, and controls for each kind of it.

    Ablations that differ in their dimensions alone share their controls. No control has a dimension
    that is ablated in any variant.

    Raises:
        ArgumentError: The model has no such dimension or layer, or an argument is out of range.
    """
    from outdim.models.ablation_sites import sites

    if controls < 0:
        raise ArgumentError(f"controls: expected 0 or more, got {controls}.")
    if kind not in get_args(Kind):
        raise ArgumentError(f"control-kind: expected one of {', '.join(get_args(Kind))}.")
    if seed < 0:
        raise ArgumentError(f"seed: expected 0 or more, got {seed}.")
    if controls:
        _check_others_can_stand_beside(asked)
    groups: dict[Any, list[Ablation]] = {}
    for ablation in asked:
        sites(inputs.architecture, ablation)  # says what the model does not have
        alike = dataclasses.replace(ablation, dims=tuple(range(len(ablation.all_dims))), name="")
        groups.setdefault(alike, []).append(ablation)
    number_of = {alike: number for number, alike in enumerate(groups)}
    found = [Variant("intact")]
    for alike, members in groups.items():
        found += [Variant("ablated", ablation, number_of[alike]) for ablation in members]
    taken = {dim for ablation in asked for dim in ablation.all_dims}
    for alike, members in groups.items():
        others = _controls(inputs, members[0], taken, kind, controls, seed)
        found += [Variant("control", ablation, number_of[alike]) for ablation in others]
    return found


def _check_others_can_stand_beside(asked: Sequence[Ablation]) -> None:
    for ablation in asked:
        if ablation.by_layer or not isinstance(ablation.value, int | float | None):
            what = "others in each layer" if ablation.by_layer else "values of their own"
            raise ArgumentError(
                f"controls: none can stand beside {ablation.label}: its dimensions have {what}; "
                "pass controls=0."
            )


def _controls(
    inputs: Inputs, ablation: Ablation, taken: set[int], kind: Kind, n: int, seed: int
) -> list[Ablation]:
    """Controls that have none of the dimensions ``taken``."""
    from outdim.models import controls

    if not n:
        return []
    return controls(
        inputs.model,
        ablation,
        kind,
        None if kind in ("largest_gamma", "largest_beta") else n,  # of these there is one
        seed,
        exclude=sorted(taken),
        found=inputs.architecture,
    )
