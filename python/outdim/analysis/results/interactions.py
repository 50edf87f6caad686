"""Pairs of a sweep: whether two dimensions do more harm together than the sum of both.

What two redundant dimensions carry is lost with both alone: each does little harm, the pair much
more (interaction above 0). Where one needs the other, the pair does less than the sum (below 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.results.compared import Compared, ends, estimate, or_null
from outdim.analysis.sweeps.grid import Grid
from outdim.stats.paired import Comparison, adjusted, compare, families
from outdim.text import counted, listing, together

Array = NDArray[np.float64]

_SURE, _LISTED = 0.05, 6

SCHEMA = pa.schema(
    [
        ("metric", pa.string()),
        ("group", pa.int32()),  # number of the place
        ("layers", pa.list_(pa.int32())),
        ("dim", pa.int32()),
        ("other", pa.int32()),
        ("harm", pa.float64()),  # of the first alone: its difference to the intact model
        ("other_harm", pa.float64()),
        ("together", pa.float64()),
        ("interaction", pa.float64()),  # together - harm - other_harm
        ("interaction_low", pa.float64()),
        ("interaction_high", pa.float64()),
        ("p", pa.float64()),
        ("q", pa.float64()),  # p adjusted for the number of pairs
        ("family", pa.float64()),  # p that any pair would show as much by chance
        ("reason", pa.string()),  # why numbers are null; "" where each that can be there is
    ]
)


@dataclass(frozen=True, eq=False)
class Interactions:
    """Of all pairs whose two dimensions were swept alone as well.

    Attributes:
        places: What a sweep found at each place.
        grid: Its variants.
    """

    places: Sequence[Compared]
    grid: Grid

    @cached_property
    def pairs(self) -> list[tuple[int, int, int]]:
        """Numbers of the variants of each pair: of both, of the one and of the other."""
        sets = self.grid.sets
        alone = {one[0]: number for number, one in enumerate(sets, 1) if len(one) == 1}
        return [
            (number, alone[one[0]], alone[one[1]])
            for number, one in enumerate(sets, 1)
            if len(one) == 2 and alone.keys() >= set(one)
        ]

    @cached_property
    def found(self) -> list[Comparison]:
        """Of each place; variant 0 stands for no interaction, variant i for pair i - 1."""
        return [self._compared(place) for place in self.places]

    def _compared(self, place: Compared) -> Comparison:
        of_variants = place.statistic(place.leading)
        both, one, other = (list(numbers) for numbers in zip(*self.pairs, strict=True))

        def interaction(weights: Array) -> Array:
            value = of_variants(weights)
            more = value[:, both] - value[:, one] - value[:, other] + value[:, :1]
            return np.concatenate([np.zeros_like(value[:, :1]), more], 1)

        documents = place.about["documents"]
        return compare(interaction, documents, draws=place.draws, seed=place.seed)

    def table(self) -> pa.Table:
        """A row a place and pair."""
        return pa.Table.from_pylist(list(self._rows()), SCHEMA)

    def _rows(self) -> Iterator[dict[str, Any]]:
        q = adjusted(np.concatenate([one.p[1:] for one in self.found])).reshape(-1, len(self.pairs))
        for number, (place, found) in enumerate(zip(self.places, self.found, strict=True)):
            harm = place.comparison(place.leading).difference.value
            for i, variants in enumerate(self.pairs):
                both, one, other = variants
                dim, beside = self.grid.sets[both - 1]
                alone = {"harm": harm[one], "other_harm": harm[other], "together": harm[both]}
                tested = {"p": found.p[i + 1], "q": q[number, i]}
                tested["family"] = self._family[number][i + 1]
                reasons = (place.reason(place.leading, variant) for variant in variants)
                yield {
                    "metric": place.leading,
                    "group": number,
                    "layers": self.grid.places[number],
                    "dim": dim,
                    "other": beside,
                    **{name: or_null(value) for name, value in alone.items()},
                    **ends("interaction", found.difference, i + 1),
                    **{name: or_null(value) for name, value in tested.items()},
                    "reason": next(filter(None, reasons), ""),
                }

    @cached_property
    def _family(self) -> list[Array]:
        """By place and variant of `found`: p that any pair would show as much by chance."""
        return families(self.found)

    def sure(self, sign: int) -> list[tuple[int, int]]:
        """Place and pair of what surely does more (1) or less (-1) than the sum of both.

        By the p that any pair would show as much, below 0.05; the most first.
        """
        found = [
            (place, i)
            for place, one in enumerate(self.found)
            for i in range(len(self.pairs))
            if sign * one.difference.value[i + 1] > 0 and self._family[place][i + 1] < _SURE
        ]
        return sorted(found, key=lambda at: -abs(self.found[at[0]].difference.value[at[1] + 1]))

    def headline(self) -> list[str]:
        """Pairs that are more, or less, than the sum of both."""
        total, said = counted(len(self.pairs) * len(self.places), "pair"), []
        for sign, words in ((1, "more"), (-1, "less")):
            if sure := self.sure(sign):
                verb = "does" if len(sure) == 1 else "do"
                named = listing([self._name(*one) for one in sure], _LISTED)
                said.append(
                    f"Of {total}, {len(sure)} surely {verb} {words} harm together than the sum of "
                    f"both: {named}."
                )
        return said or [f"Of {total} none surely does more or less harm than the sum of both."]

    def _name(self, place: int, i: int) -> str:
        dims = together(self.grid.sets[self.pairs[i][0] - 1])
        layers = self.grid.places[place]
        at = "" if len(self.places) == 1 or layers is None else f" at {listing(layers)}"
        value = estimate(self.found[place].difference, i + 1)
        return f"{dims}{at} ({value.words()})"
