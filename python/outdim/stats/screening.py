"""Whether a screening is to be believed: what it put first, and a random sample of the rest.

Screening ranks M candidates by a score that costs next to nothing. Its K first are measured, and n
drawn at random from the M - K others. The k worst that were found set a mark; what screening missed
are others that do more harm than the mark. With x of n above it, at most A of the M - K are (95 %),
A the largest number under which x or fewer would come with a probability of 5 % (hypergeometric;
for a large M the bound of Clopper and Pearson 1934, and below 3 / n of them where none was above).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outdim.errors import ArgumentError
from outdim.text import counted, number

Floats = NDArray[np.float64]
Verdict = Literal["passed", "failed", "undecided"]

_MOST_MISSED = 0.1  # of those not measured: a bound that says less is none


@dataclass(frozen=True, eq=False)
class Verification:
    """What exact measurements say of a screening; damages are larger where more harm is done.

    Attributes:
        population: M candidates that were screened.
        worst, random: K and n of them that were measured.
        top: k.
        mark: Damage of the k-th worst of the K first.
        last: The place by score of the last of these k, from 1 on: near K there are likely more.
        overlap: How many of the k worst of all that was measured are among the k first by score.
        above: How many of the random ones do more harm than the mark.
        ahead: How many of the K first do more harm than each of the random ones.
        missed: At most so many of those that are not among the K first do (95 %).
        agreement_worst, agreement_random: Spearman's rho of score and damage among the K and among
            the n; NaN where there are fewer than three or one is constant.
    """

    population: int
    worst: int
    random: int
    top: int
    mark: float
    last: int
    overlap: int
    above: int
    ahead: int
    missed: int
    agreement_worst: float
    agreement_random: float

    @property
    def missed_share(self) -> float:
        """`missed` as a share of those that are not among the K first; 0 where there are none."""
        rest = self.population - self.worst
        return self.missed / rest if rest else 0.0

    @property
    def verdict(self) -> Verdict:
        """Whether to believe that the worst are among the K first.

        "failed": a random one does more harm than the mark. "passed": none does, at most 10 % of
        all others could, and the k worst stand in the first half of the K. Else "undecided".
        """
        if self.above:
            return "failed"
        wide = self.missed_share <= _MOST_MISSED
        rest = self.population > self.worst
        return "passed" if wide and (not rest or 2 * self.last <= self.worst) else "undecided"

    def words(self) -> list[str]:
        """The same for people."""
        others = self.population - self.worst
        said = [
            f"Of {self.population:,} candidates the {self.worst:,} first by score were measured; "
            f"the {self.top} worst of these stand at place {self.last} and before, and "
            f"{self.overlap} of the {self.top} worst of all that was measured are among the "
            f"{self.top} first by score.",
        ]
        if not others:
            return [*said, "Nothing was left to be missed."]
        said.append(
            f"Of {counted(self.random, 'random other')}, {self.above} do more harm than "
            f"{number(self.mark, 3)}, that of the last of the {self.top}: of all {others:,} others "
            f"at most {self.missed:,} do ({100 * self.missed_share:.2g} %, at 95 %)."
        )
        if np.isfinite(self.agreement_random):
            said.append(
                f"Score and damage agree in rank by {number(self.agreement_random)} among the "
                f"random ones (Spearman), by {number(self.agreement_worst)} among the first."
            )
        said.append(
            {
                "passed": "The worst are found; what the scores say of the others' order is worth "
                "what that agreement is.",
                "failed": f"That the {self.top} worst were found is not to be believed: a random "
                f"other does more harm than the last of them. {self.ahead} of the first do more "
                "than each of the random ones. Measure more of the first, or all.",
                "undecided": "Whether it found the worst is not certain: "
                + (
                    "the random sample is too small; measure more of it."
                    if self.missed_share > _MOST_MISSED
                    else "they stand up to the end of what was measured; measure more of the first."
                ),
            }[self.verdict]
        )
        return said


def verify(
    worst: tuple[ArrayLike, ArrayLike],
    random: tuple[ArrayLike, ArrayLike],
    population: int,
    *,
    top: int | None = None,
    level: float = 0.95,
) -> Verification:
    """Hold scores against exactly measured damages.

    >>> scores = [9.0, 8.0, 7.0, 6.0]
    >>> found = verify((scores, [3.0, 4.0, 0.5, 0.4]), ([1.0] * 59, [0.1] * 59), 10_000, top=2)
    >>> found.mark, found.last, found.above, found.missed, found.verdict
    (3.0, 2, 0, 493, 'passed')

    Args:
        worst: Scores and damages of the K first by score, [K] each.
        random: Scores and damages of n others, drawn at random from all that are not among these.
        population: How many were screened, M.
        top: k; None takes 10, at most half of K.
        level: Of the bound.

    Raises:
        ArgumentError: Lengths that do not fit, a score or damage that is NaN, a first one with a
            lower score than another, more than there are, or a ``top`` out of range.
    """
    scores, damages = _pair("worst", worst)
    other_scores, other_damages = _pair("random", random)
    count, sample = len(scores), len(other_scores)
    if not count or population < count + sample:
        raise ArgumentError(
            f"population: expected at least the {count} + {sample} that were measured, at least "
            f"one of them by score, got {population}"
        )
    if sample and other_scores.max() > scores.min():
        raise ArgumentError(
            f"random: expected none with a higher score than the {count} first, whose lowest is "
            f"{scores.min():g}, got {other_scores.max():g}"
        )
    top = min(10, max(1, count // 2)) if top is None else top
    if not 1 <= top <= count:
        raise ArgumentError(f"top: expected 1 to {count}, got {top}")
    if not 0 < level < 1:
        raise ArgumentError(f"level: expected 0 < level < 1, got {level}")
    place = np.empty(count, np.int64)
    place[np.argsort(-scores, kind="stable")] = np.arange(1, count + 1)
    by_damage = np.argsort(-damages, kind="stable")
    mark = float(damages[by_damage[top - 1]])
    above = int((other_damages > mark).sum())
    beaten = np.sort(np.concatenate([damages, other_damages]))[::-1][top - 1]
    return Verification(
        population=population,
        worst=count,
        random=sample,
        top=top,
        mark=mark,
        last=int(place[by_damage[:top]].max()),
        overlap=int((damages[place <= top] >= beaten).sum()),
        above=above,
        ahead=int((damages > other_damages.max(initial=-np.inf)).sum()),
        missed=_at_most(above, sample, population - count, level),
        agreement_worst=_agreement(scores, damages),
        agreement_random=_agreement(other_scores, other_damages),
    )


def _at_most(above: int, sample: int, others: int, level: float) -> int:
    """The largest number among the others that is not ruled out by the sample."""
    from scipy.stats import hypergeom

    # Fewer would come as often or more often: the first that is ruled out ends the search.
    low, high = above, others - (sample - above)
    while low < high:
        middle = (low + high + 1) // 2
        if hypergeom.cdf(above, others, middle, sample) > 1 - level:
            low = middle
        else:
            high = middle - 1
    return low


def _agreement(scores: Floats, damages: Floats) -> float:
    from outdim.stats.scores import score

    return score("spearman", scores, damages) if len(scores) > 2 else float("nan")


def _pair(name: str, given: tuple[ArrayLike, ArrayLike]) -> tuple[Floats, Floats]:
    scores, damages = (np.asarray(one, np.float64) for one in given)
    if scores.ndim != 1 or scores.shape != damages.shape:
        raise ArgumentError(
            f"{name}: expected a score and a damage for each, got {scores.shape} and "
            f"{damages.shape}"
        )
    if np.isnan(scores).any() or np.isnan(damages).any():
        raise ArgumentError(f"{name}: expected numbers, got NaN; leave such candidates out")
    return scores, damages
