"""What sweeps share: a grid of variants, or the first of a screening, measured in blocks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

from outdim.analysis.inputs import Inputs
from outdim.analysis.results.compared import Compared
from outdim.analysis.results.screened import LEADING, Screened
from outdim.analysis.results.swept import Sweep
from outdim.analysis.step import Json, Progress, add_accounts
from outdim.analysis.sweeps.grid import Grid, chosen
from outdim.analysis.variants.in_blocks import InBlocks
from outdim.analysis.variants.variant import Variant

_OWN = ("place", "first", "last")  # what a shard says beside its part


class SweepStep(InBlocks):
    """Measures every variant of a grid, a block of one place after the other."""

    presentation = ("draws",)

    @classmethod
    def check(cls, options: Any, inputs: Inputs) -> None:
        """Of the words for dimensions and layers, and of what is counted."""
        options.check_size(*inputs.declared_size)

    @classmethod
    def requires(cls, recorded: Mapping[str, Any]) -> tuple[str, ...]:
        """The screening, where it is verified."""
        return () if recorded.get("verify") is None else cls.needs

    @classmethod
    def work(cls, recorded: Mapping[str, Any], inputs: Inputs) -> list[Json]:
        """Blocks of variants of a place, each with every part of what is read."""
        at_once = recorded["block"]
        blocks = Grid.from_dict(recorded["grid"]).blocks(inputs.architecture.layers, at_once)
        if recorded.get("verify") is not None:
            size = recorded["verify"] + recorded["verify_random"]
            blocks = ((0, i, min(i + at_once, size)) for i in range(0, size, at_once))
        parts = cls.parts(inputs)
        return [
            {**dict(zip(_OWN, block, strict=True)), **part} for block in blocks for part in parts
        ]

    @cached_property
    def screened(self) -> Screened | None:
        """The screening that is verified; None for a sweep of the whole grid."""
        if self.recorded.get("verify") is None:
            return None
        (screening,) = self.needs
        found: Screened = self.inputs.result(screening)
        return found

    @cached_property
    def grid(self) -> Grid:
        """The variants."""
        recorded, whole = self.recorded, Grid.from_dict(self.recorded["grid"])
        if self.screened is None:
            return whole
        ranked = self.screened.ranked(recorded["score"], by_layer=len(whole.places) > 1)
        return chosen(
            whole, ranked, recorded["verify"], recorded["verify_random"], recorded["seed"]
        )

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Take a block of variants on a part of what is read."""
        place, first, last = (unit[name] for name in _OWN)
        some = self.grid.variants(place)[first:last]
        part = {name: value for name, value in unit.items() if name not in _OWN}
        ablations = [variant.ablation for variant in some if variant.ablation is not None]
        found, read = self.measured(part, ablations, progress)
        if not place and not first:  # the other blocks read the same again
            self.account = add_accounts(self.account, read)
        return self.take(place, first, found)

    def result(self) -> Sweep:
        """What every variant does.

        Raises:
            DataError: No token was predicted in all of the text.
        """
        return Sweep(
            self.name,
            tuple(self._place(number) for number in range(len(self.grid.places))),
            self.grid,
            self.screened,
            self.recorded.get("score", LEADING),
            self.recorded["ranked"],
        )

    def _place(self, number: int) -> Compared:
        return self.compared((Variant("intact"), *self.grid.variants(number)), number)
