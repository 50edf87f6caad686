"""What a sweep found: every set of dimensions at every place, beside intact model and controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.results.compared import Compared, is_sure, or_null
from outdim.analysis.results.interactions import Interactions
from outdim.analysis.results.screened import LEADING as LEADING_SCORE
from outdim.analysis.results.screened import SCORES, Score, Screened
from outdim.analysis.step import Result
from outdim.analysis.sweeps.grid import Grid
from outdim.stats.paired import adjusted, families
from outdim.stats.verification import Verification, verify
from outdim.text import counted, layers_in_words, listing, number, p_value, together

Array = NDArray[np.float64]

_NAMED, _LISTED = 3, 8
_SURE = 0.05
_OUTLYING = 20.0  # times what half of all variants change


@dataclass(frozen=True, eq=False)
class Sweep(Result):
    """Sets of dimensions at places of a model.

    Attributes:
        step: Name of the step.
        places: What was found at each: the intact model, the sets, the controls.
        grid: The sets and the layers of each place.
        screened: The screening that was verified: its first are the sets, the random others the
            controls; None where there was none.
        score: By which they are first.
        ranked: What a reader has to know of how the dimensions were ranked.
    """

    step: str
    places: tuple[Compared, ...]
    grid: Grid
    screened: Screened | None = None
    score: Score = LEADING_SCORE
    ranked: str = ""

    def value(self, metric: str | None = None) -> Array:
        """A metric of every set, [places, sets]; None takes the one that leads."""
        metric = metric or self.leading
        return np.stack([one.comparison(metric).value.value[self._sets] for one in self.places])

    def harm(self, metric: str | None = None) -> Array:
        """How much more than the intact model's, [places, sets]."""
        metric = metric or self.leading
        return np.stack(
            [one.comparison(metric).difference.value[self._sets] for one in self.places]
        )

    @property
    def leading(self) -> str:
        """The metric that ranks; more of it is worse."""
        return self.places[0].leading

    @property
    def _sets(self) -> slice:
        return slice(1, 1 + len(self.grid.sets))

    @cached_property
    def ranking(self) -> list[tuple[int, int]]:
        """Place and number in its evaluation of every set, what loses most first."""
        harm = np.nan_to_num(self.harm(), nan=np.inf)
        order = np.argsort(-harm, axis=None, kind="stable")
        return [(int(i) // harm.shape[1], 1 + int(i) % harm.shape[1]) for i in order]

    def tables(self) -> dict[str, Any]:
        """``sweep_lm`` and the like: a row a metric, place and set; with a score if screened.

        And ``sweep_lm_pairs``, see `Interactions`, or ``sweep_lm_verification``: what is to be said
        of the screening.
        """
        metrics, stem = self.places[0].swept, self.step.replace("-", "_")
        rows = [row for metric in metrics for row in self._rows(metric)]
        table = pa.Table.from_pylist(rows, self.places[0].schema)
        if self.interactions is not None:
            return {stem: table, f"{stem}_pairs": self.interactions.table()}
        if self.verification is None:
            return {stem: table}
        scores = pa.array([None, *self._scores()] * len(metrics), pa.float64())
        plain = {
            name: value if np.isfinite(value) else None  # JSON has no other numbers
            for name, value in vars(self.verification).items()
        }
        said = {
            "score": SCORES[self.score].label,
            "words": self.verification.words(),
            "verdict": self.verification.verdict,
        }
        return {
            stem: table.append_column("score", scores),
            f"{stem}_verification": {**plain, **said},
        }

    @cached_property
    def interactions(self) -> Interactions | None:
        """Of pairs of dimensions that were swept alone as well; None where there are none."""
        found = Interactions(self.places, self.grid)
        return found if self.screened is None and found.pairs else None

    def _rows(self, metric: str) -> Iterator[dict[str, Any]]:
        q, family = self._adjusted(metric), self._family(metric)
        for place, found in enumerate(self.places):
            for i, row in enumerate(found.rows(metric)):
                over_all = {"q": or_null(q[place, i]), "family": or_null(family[place, i])}
                own = {"group": place, **over_all}
                if i or not place:  # the intact model is one
                    yield {**row, **own}

    def _adjusted(self, metric: str) -> Array:
        """The p of every variant, adjusted for all of the sweep."""
        p = np.stack([one.comparison(metric).p for one in self.places])
        return adjusted(p.ravel()).reshape(p.shape)

    def _family(self, metric: str) -> Array:
        """The p of every variant, that any of the sweep would show as much by chance."""
        return np.stack(families([one.comparison(metric) for one in self.places]))

    def sure(self, sign: int) -> list[tuple[int, int]]:
        """What surely raises (1) or lowers (-1) the loss, and by more than other dimensions do.

        By the p that any variant of the sweep would show as much, below 0.05; the most first.
        """
        found = [
            (place, i)
            for place, i in self.ranking
            if self._least(place, sign)[i] > 0 and self._surely[place, i]
        ]
        return found if sign > 0 else found[::-1]

    def _least(self, place: int, sign: int) -> Array:
        """The change of each variant in a direction, or that beyond its controls if it is less."""
        found = self.places[place].comparison(self.leading)
        return np.fmin(sign * found.difference.value, sign * found.beyond.value)

    @cached_property
    def _surely(self) -> NDArray[np.bool_]:
        """By place and variant."""
        return self._family(self.leading) < _SURE

    def account(self) -> dict[str, Any]:
        """What was read of the text, and how many variants there were."""
        size = {"sets": len(self.grid.sets), "places": len(self.grid.places)}
        return {"evaluation": {self.step: {**self.places[0].measured, **size}}}

    def headline(self) -> list[str]:
        """The intact model, what stands out, and the worst."""
        first, total = self.places[0], len(self.ranking)
        said = [first.intact_in_words()]
        if self.verification is not None:
            said += self.verification.words()
        if self.screened is None:
            said += self._beside_controls()
        said += [
            self.places[p].harm_in_words(i, beside=self.screened is None)
            for p, i in self.ranking[:_NAMED]
        ]
        if self.interactions is not None:
            said += self.interactions.headline()
        elif total > _NAMED and self.screened is None:
            rest = self.harm().ravel()
            median = float(np.nanmedian(np.abs(rest)))
            said.append(f"The median variant changes {first.noun} by {number(median, 3)}.")
        if helping := self.sure(-1):
            said.append(f"Without these the model predicts better: {self._names(helping)}.")
        return said

    def _beside_controls(self) -> list[str]:
        """What surely does harm, and at least five times as much as the controls change."""
        gates = [
            (one, self.places[one[0]].comparison(self.leading).gate[one[1]]) for one in self.ranking
        ]
        if not any(gate for _, gate in gates):
            return []
        passed = [one for one, gate in gates if gate == "passed" and self._surely[one]]
        total = counted(len(gates), "variant")
        if not passed:
            few = self._too_few([one for one, gate in gates if gate == "passed"])
            return [f"Of {total} none surely does five times what random dimensions change{few}."]
        verb = "does" if len(passed) == 1 else "do"
        return [
            f"Of {total}, {len(passed)} surely {verb} harm, and more than five times what random "
            f"dimensions change: {self._names(passed)}.",
            *self._less_by_q(passed),
        ]

    def _too_few(self, by_interval: Sequence[tuple[int, int]]) -> str:
        """That so few documents can make nothing sure of what does as much by its interval."""
        floors = (self.places[place].floor(i) for place, i in by_interval)
        return next((f": {floor}" for floor in floors if floor), "")

    def _less_by_q(self, passed: Sequence[tuple[int, int]]) -> list[str]:
        """That q is not small for what surely does harm, where documents are too few for that."""
        q = self._adjusted(self.leading)
        bound = [
            (q[one], self.places[one[0]].floor(one[1])) for one in passed if not is_sure(q[one])
        ]
        if not (floors := [floor for _, floor in bound if floor]):
            return []
        most = p_value(float(max(q for q, _ in bound)))
        return [f"So says the p of the whole sweep; q is up to {most} here, since {floors[0]}."]

    def _names(self, variants: Sequence[tuple[int, int]]) -> str:
        return listing([self._name(place, i) for place, i in variants], _LISTED)

    def _name(self, place: int, i: int) -> str:
        """The dimensions of a variant and, where there are several places, its layers."""
        dims = together(self.grid.sets[i - 1])
        if len(self.grid.places) == 1 and not any(self.grid.own_layers):
            return dims
        layers = self.grid.layers_of(place, i - 1)
        return f"{dims} ({'all layers' if layers is None else layers_in_words(layers)})"

    @cached_property
    def verification(self) -> Verification | None:
        """Whether to believe the screening; None without one."""
        if self.screened is None:
            return None
        harm = self.places[0].comparison(self.leading).difference.value[1:]
        scores, sets = self._scores(), len(self.grid.sets)
        found = self.screened.screening.scores[self.score]
        population = found.size if any(self.grid.own_layers) else found.shape[1]
        damages = np.nan_to_num(harm, nan=np.inf)
        return verify((scores[:sets], damages[:sets]), (scores[sets:], damages[sets:]), population)

    def _scores(self) -> Array:
        """Of the screening, of each set and then of each control."""
        assert self.screened is not None
        dims = [dim for (dim,) in (*self.grid.sets, *self.grid.controls)]
        layers = [None if one is None else one[0] for one in self.grid.own_layers]
        return np.array(
            [self.screened.score(self.score, *one) for one in zip(layers, dims, strict=True)],
            np.float64,
        )

    def cautions(self) -> Sequence[str]:
        """What the numbers rest on."""
        said = [*([self.ranked] if self.ranked else []), *self.places[0].cautions()]
        if self.screened is None and (amiss := self._outlying_controls()):
            said.append(
                f"Among the random controls are dimensions that are no common ones "
                f"({listing(amiss)}): “controls”, and with them what is beyond and the five times, "
                "are larger than those of most dimensions; give another --seed or more --controls."
            )
        return said

    def _outlying_controls(self) -> list[int]:
        """Dimensions of controls that change the loss by far more than most variants do."""
        if not self.grid.controls:
            return []
        found = set()
        for one in self.places:
            sizes = np.abs(np.nan_to_num(one.comparison(self.leading).difference.value, nan=np.inf))
            usual = np.median(sizes[self._sets])
            for dims, size in zip(self.grid.controls, sizes[self._sets.stop :], strict=True):
                if size > _OUTLYING * usual and size > 0 and set(dims) & self._swept:
                    found |= set(dims)
        return sorted(found)

    @cached_property
    def _swept(self) -> set[int]:
        return {dim for one in self.grid.sets for dim in one}
