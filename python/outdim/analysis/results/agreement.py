"""What a pass of `criteria` found: dimensions by rule and layer, and how far rules agree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.results.nulls import Untrained, nulls
from outdim.analysis.results.tokens_read import tokens_read
from outdim.analysis.rule_states import States, kurtosis_flat, kurtosis_he
from outdim.analysis.rules import RULES, Rule, Verdict
from outdim.analysis.step import Json, Result
from outdim.analysis.table import SELECTIONS, TidyRows
from outdim.errors import ArgumentError, one_of
from outdim.stats import MomentsResult

#: The tokens over which published rules are applied, and by which rules are compared.
LEADING = "all"

#: The set of outliers by parameters of the norms, beside those of the rules.
PARAMETERS = "parameters"

_PERMUTATIONS = 200
_SCHEMA = pa.schema(
    [
        ("rule", pa.string()),
        ("selection", pa.string()),
        ("point", pa.string()),
        ("layer", pa.int16()),
        ("dim", pa.int32()),
        ("flagged", pa.bool_()),  # by the value; where undecided, the bounds leave it open
        ("undecided", pa.bool_()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("share", pa.float64()),  # of the tokens that are beyond it; null where not known
    ]
)


@dataclass(frozen=True)
class Found:
    """What a rule found in a model, over one selection of tokens.

    Attributes:
        rule: The rule.
        dims: Dimensions flagged in enough layers, those flagged in the most first.
        layers: In which layers each flagged dimension is flagged, also those in too few.
        layers_needed: How many layers are enough.
        a_layer: Dimensions flagged in a layer, in the mean.
        chance_a_layer: The same among normal states without outliers.
        chance: How many ``dims`` there would be if the dimensions of every layer were shuffled, so
            that a rule flags as many, but at the same place by chance alone. NaN where one layer is
            enough, in which nothing has to recur.
        undecided: Pairs of layer and dimension that the bounds of a quantile leave open.
        untrained: The same in twins of the model with random weights; None where none was observed.
    """

    rule: Rule
    dims: tuple[int, ...]
    layers: Mapping[int, tuple[int, ...]]
    layers_needed: int
    a_layer: float
    chance_a_layer: float
    chance: float
    undecided: int
    untrained: Untrained | None = None

    @property
    def unproven(self) -> bool:
        """Whether only models with random weights could tell, and none was observed."""
        return self.rule.needs_twins and self.untrained is None

    @property
    def telling(self) -> bool:
        """Whether most of what it finds in the model is known to be not what it would find anyway.

        Where dimensions have to recur that is a matter of these alone: a rule that flags few more
        in a layer than normal states have may flag the same one in every layer.
        """
        twin = self.untrained
        of_model = [self.chance] if twin is None else [self.chance, twin.of_model]
        by_place = not any(chance >= len(self.dims) / 2 for chance in of_model)  # NaN: not known
        loud = math.isnan(self.chance) and self.as_in_a_layer
        return bool(self.dims) and by_place and not loud and not self.unproven

    @property
    def as_in_a_layer(self) -> bool:
        """Whether at least half of what it flags in a layer is there by chance."""
        twin = self.untrained
        by_chance = [self.chance_a_layer] if twin is None else [self.chance_a_layer, twin.a_layer]
        return any(chance >= self.a_layer / 2 for chance in by_chance)


@dataclass(frozen=True)
class Criteria(Result):
    """Dimensions by every rule, layer and selection of tokens.

    Attributes:
        layers: Layer of each point.
        states: What the rules judge, by (point, selection); selections without a token are not
            there.
        tokens: The kurtosis within a token, by (point, selection), D = 1.
        rules: Names of the rules.
        min_fraction: Share of the layers in which a dimension has to be flagged, for rules that
            name none themselves.
        parameters: Outliers by parameters of the norms; None where those say nothing.
        twins: The same of models of this architecture with random weights, seeds 0, 1, ...
    """

    layers: Mapping[str, int]
    states: Mapping[tuple[str, str], States]
    tokens: Mapping[tuple[str, str], MomentsResult]
    rules: tuple[str, ...]
    min_fraction: float
    parameters: tuple[int, ...] | None
    twins: tuple[Criteria, ...] = ()

    @cached_property
    def verdicts(self) -> dict[tuple[str, str, str], Verdict]:
        """What each rule says, by (rule, selection, point)."""
        return {
            (rule, selection, point): RULES[rule].judge(states)
            for rule in self.rules
            for (point, selection), states in self.states.items()
        }

    @cached_property
    def found(self) -> dict[tuple[str, str], Found]:
        """What each rule found in the model, by (rule, selection)."""
        selections = dict.fromkeys(selection for _, selection in self.states)
        return {(r, s): self._of_model(RULES[r], s) for r in self.rules for s in selections}

    def dims(self, rule: str, selection: str = LEADING) -> tuple[int, ...]:
        """Dimensions that a rule flags in enough layers.

        Raises:
            ArgumentError: No such rule, or no token of that selection.
        """
        if (rule, selection) not in self.found:
            raise ArgumentError(
                f"rule, selection: expected one of {', '.join(self.rules)} and one of "
                f"{', '.join(SELECTIONS)} that has tokens, got {rule!r}, {selection!r}."
            )
        return self.found[rule, selection].dims

    def flagged(self, rule: str, point: str, selection: str = LEADING) -> list[int]:
        """Dimensions that a rule flags at one point.

        Raises:
            ArgumentError: No such rule or point, or no token of that selection.
        """
        one_of("rule", rule, self.rules)
        at = one_of("point, selection", (point, selection), self.states)
        return [int(d) for d in np.flatnonzero(self.verdicts[rule, at[1], at[0]].flagged)]

    def agreement(
        self, selection: str = LEADING, **others: Iterable[int]
    ) -> tuple[list[str], NDArray[np.float64]]:
        """Jaccard index |A and B| / |A or B| of the dimensions of every two rules.

        Args:
            selection: Of tokens.
            others: Dimensions by a name of their own, as those whose removal does damage.

        Returns:
            The names, then `PARAMETERS` where there are outliers by parameters to compare with,
            then those of others; and the matrix, NaN for two that find nothing.
        """
        sets = {rule: set(self.dims(rule, selection)) for rule in self.rules}
        if self.parameters is not None:
            sets[PARAMETERS] = set(self.parameters)
        sets |= {name: set(dims) for name, dims in others.items()}
        matrix = [[jaccard(one, other) for other in sets.values()] for one in sets.values()]
        return list(sets), np.array(matrix)

    @property
    def _behind(self) -> list[str]:
        """The points that count as layers: all but the embeddings, where there are others."""
        return [p for p, layer in self.layers.items() if layer] or list(self.layers)

    def _of_model(self, rule: Rule, selection: str) -> Found:
        points = self._behind
        verdicts = [self.verdicts[rule.name, selection, point] for point in points]
        flagged = np.stack([verdict.flagged for verdict in verdicts])
        shares = np.stack([verdict.share for verdict in verdicts])
        needed = layers_needed(rule, self.min_fraction, len(points))
        enough = _enough(rule, flagged, shares, needed)
        recurring = np.flatnonzero(enough)
        recurring = recurring[np.argsort(-flagged[:, recurring].sum(0), kind="stable")]
        numbers = np.array([self.layers[point] for point in points])
        chances = [rule.chance(self.states[point, selection]) for point in points]
        return Found(
            rule,
            tuple(int(dim) for dim in recurring),
            {
                int(dim): tuple(numbers[flagged[:, dim]].tolist())
                for dim in np.flatnonzero(flagged.any(0))
            },
            needed,
            float(flagged.sum(1).mean()),
            float(np.mean(chances)) * flagged.shape[1],
            by_chance(rule, flagged, shares, needed) if needed > 1 else np.nan,
            int(sum(verdict.undecided.sum() for verdict in verdicts)),
            Untrained.of([twin.found[rule.name, selection] for twin in self.twins], len(enough)),
        )

    def tables(self) -> dict[str, pa.Table | Json]:
        """Tables of what is flagged and of what chance gives; rules, and how they agree."""
        return {
            "stats": self._stats(),
            "criteria": self._flagged(),
            "criteria_nulls": nulls(self),
            "agreement": self.to_dict(),
        }

    def _stats(self) -> pa.Table:
        rows = TidyRows()
        for (point, selection), states in self.states.items():
            at: Any = {"point": point, "layer": self.layers[point], "selection": selection}
            at["n"] = states.n
            median = states.medians
            rows.add("median_abs", median.value, low=median.low, high=median.high, **at)
            for side, name in enumerate(("argmin_share", "argmax_share")):
                rows.add(name, states.ends[:, side], **at)
            token = self.tokens[point, selection]
            for name, value in (
                ("kurtosis_he", kurtosis_he(states.squares)),
                ("kurtosis_flat", kurtosis_flat(states)),
                ("kurtosis_token", float(token.mean)),
            ):
                rows.add(name, value, reason="nonfinite values" if np.isnan(value) else "", **at)
        return rows.table()

    def _flagged(self) -> pa.Table:
        """Every (rule, selection, point, dimension) that is flagged or undecided."""
        blocks = []
        for (rule, selection, point), verdict in self.verdicts.items():
            dims = np.flatnonzero(verdict.flagged | verdict.undecided)
            size = len(dims)
            columns = [
                *([name] * size for name in (rule, selection, point)),
                np.full(size, self.layers[point], np.int16),
                dims.astype(np.int32),
                verdict.flagged[dims],
                verdict.undecided[dims],
                verdict.value[dims],
                np.full(size, verdict.threshold),
                pa.array(verdict.share[dims], pa.float64(), from_pandas=True),
            ]
            blocks.append(pa.table(dict(zip(_SCHEMA.names, columns, strict=True)), _SCHEMA))
        return pa.concat_tables(blocks) if blocks else _SCHEMA.empty_table()

    def to_dict(self) -> Json:
        """The content of ``agreement.json``."""
        selections = list(dict.fromkeys(selection for _, selection in self.states))
        return {
            "points": self._behind,
            "min_fraction": self.min_fraction,
            "parameters": None if self.parameters is None else list(self.parameters),
            "twins": list(range(len(self.twins))),  # the seeds
            "rules": [_about(RULES[rule]) for rule in self.rules],
            "found": [
                {"rule": rule, "selection": selection, **_words(found)}
                for (rule, selection), found in self.found.items()
            ],
            "votes": {s: _votes(self.votes(s)) for s in selections},
            "agreement": {s: _matrix(*self.agreement(s)) for s in selections},
        }

    def votes(self, selection: str = LEADING) -> dict[int, list[str]]:
        """Rules by the dimension they find, the one that most find first; telling rules only."""
        votes: dict[int, list[str]] = {}
        for found in self.of(selection):
            for dim in found.dims if found.telling else ():
                votes.setdefault(dim, []).append(found.rule.name)
        return dict(sorted(votes.items(), key=lambda vote: (-len(vote[1]), vote[0])))

    def of(self, selection: str) -> list[Found]:
        """What each rule found over one selection of tokens."""
        return [self.found[rule, selection] for rule in self.rules]

    def account(self) -> Json:
        """How many tokens the rules judge."""
        first = next(iter(self.layers))
        return tokens_read(
            {name: s.moments.n for (point, name), s in self.states.items() if point == first}
        )

    def headline(self) -> list[str]:
        """The dimensions that most rules agree on, and whether the parameters say so too."""
        from outdim.analysis.results.criteria_words import headline

        return headline(self)

    def cautions(self) -> list[str]:
        """Rules that say more of a threshold than of a model, and quantiles that leave it open."""
        from outdim.analysis.results.criteria_words import cautions

        return cautions(self)


def jaccard(one: set[int], other: set[int]) -> float:
    """|A and B| / |A or B|; NaN where both are empty.

    >>> jaccard({1, 2}, {2, 3})
    0.3333333333333333
    """
    return len(one & other) / len(one | other) if one or other else float("nan")


def layers_needed(rule: Rule, min_fraction: float, layers: int) -> int:
    """In how many layers a dimension has to be flagged."""
    fraction = min_fraction if rule.min_layers is None else rule.min_layers
    return max(1, int(np.ceil(fraction * layers - 1e-9)))


def by_chance(
    rule: Rule, flagged: NDArray[np.bool_], shares: NDArray[np.float64], needed: int
) -> float:
    """How many dimensions recur in ``needed`` layers if those of every layer are shuffled.

    Exact (the number of layers that flag a dimension is then a sum of independent draws), but for a
    rule on the shares of all layers together, of which it is the mean of 200 shuffles.
    """
    layers, dims = flagged.shape
    if not rule.min_share:
        counts = np.zeros(layers + 1)
        counts[0] = 1.0
        for p in flagged.mean(1):
            counts[1:] = counts[1:] * (1 - p) + counts[:-1] * p
            counts[0] *= 1 - p
        return float(dims * counts[needed:].sum())
    rng = np.random.default_rng(0)
    places = np.broadcast_to(np.arange(dims), flagged.shape)
    found = 0
    for _ in range(_PERMUTATIONS):
        order = rng.permuted(places, axis=1)
        moved = np.take_along_axis(flagged, order, 1), np.take_along_axis(shares, order, 1)
        found += int(_enough(rule, *moved, needed).sum())
    return found / _PERMUTATIONS


def _enough(
    rule: Rule, flagged: NDArray[np.bool_], shares: NDArray[np.float64], needed: int
) -> NDArray[np.bool_]:
    enough: NDArray[np.bool_] = flagged.sum(0) >= needed
    return enough & (shares.mean(0) >= rule.min_share) if rule.min_share else enough


def _about(rule: Rule) -> Json:
    names = ("name", "label", "definition", "source", "note")
    return {name: getattr(rule, name) for name in names}


def _words(found: Found) -> Json:
    return {
        "dims": list(found.dims),
        "layers": [len(found.layers.get(dim, ())) for dim in found.dims],
        "telling": found.telling,
        "layers_needed": found.layers_needed,
        "a_layer": found.a_layer,
        "chance_a_layer": found.chance_a_layer,
        "chance": None if np.isnan(found.chance) else found.chance,
        "undecided": found.undecided,
        "untrained": None if found.untrained is None else found.untrained.to_dict(),
    }


def _votes(votes: Mapping[int, Sequence[str]]) -> list[Json]:
    return [{"dim": dim, "rules": list(rules)} for dim, rules in votes.items()]


def _matrix(names: Sequence[str], matrix: NDArray[np.float64]) -> Json:
    jaccards = [[None if np.isnan(x) else x for x in row] for row in matrix.tolist()]
    return {"names": list(names), "jaccard": jaccards}
