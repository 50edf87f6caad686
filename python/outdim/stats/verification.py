"""Whether a screening is to be believed: what it put first, and a random sample of the rest.

Screening ranks M candidates by a score that costs next to nothing. Its K first are measured, and n
drawn at random from the M - K others. No sample shows that nothing was missed, but its largest
damage bounds how much: at most A of the M - K others do more harm than each of the n (95 %), A the
largest number of them that n draws would miss altogether with a probability of 5 % or more
(hypergeometric; below 3 / n of them, the bound of Clopper and Pearson 1934 for 0 of n, whatever the
damages are like; Wilks 1941). Where to draw the line between harm and noise nobody has to know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outdim.errors import ArgumentError
from outdim.text import counted, number

Floats = NDArray[np.float64]
Verdict = Literal["passed", "failed", "undecided"]

_RULED_OUT = 0.05


@dataclass(frozen=True, eq=False)
class Verification:
    """What exact measurements say of a screening; damages are larger where more harm is done.

    Attributes:
        population: M candidates that were screened.
        worst, random: K and n of them that were measured.
        highest: The largest damage of a random one: infinite where one breaks the model, minus
            infinity without any.
        ahead: How many of the K first do more harm than that.
        missed: At most so many of those that are not among the K first do (95 %).
        needed: So many random ones, none of which does more harm, would make `missed` K or fewer.
        agreement_worst, agreement_random: Spearman's rho of score and damage among the K and among
            the n; NaN where there are fewer than three or one is constant.
    """

    population: int
    worst: int
    random: int
    highest: float
    ahead: int
    missed: int
    needed: int
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

        "failed": a random one does as much harm as all that were put first. "passed": some do more
        than any random one, and at most as many as were put first could have been missed. Else
        "undecided": not found wanting, by a sample that is too small to say more.
        """
        if not self.ahead:
            return "failed"
        return "passed" if self.missed <= self.worst else "undecided"

    def words(self) -> list[str]:
        """The same for people."""
        others = self.population - self.worst
        first = f"Of {self.population:,} candidates the {self.worst:,} first by score were measured"
        if not others:
            return [f"{first}: nothing was left to be missed."]
        said = [
            f"{first}, and {counted(self.random, 'random other')}. {self.ahead} of the first do "
            f"more harm than each of the random ones, the worst of which does "
            f"{number(self.highest, 3)}."
        ]
        if np.isfinite(self.agreement_random):
            said.append(
                f"Score and damage agree in rank by {number(self.agreement_random)} among the "
                f"random ones (Spearman), by {number(self.agreement_worst)} among the first."
            )
        said.append(self._conclusion(others))
        return said

    def _conclusion(self, others: int) -> str:
        if self.verdict == "failed":
            return (
                "The screening found nothing: a random candidate does as much harm as all that it "
                "put first, or nothing does any. Take another score, or measure all."
            )
        small = "" if self.verdict == "passed" else ", but the sample is small"
        said = (
            f"The screening was not found wanting{small}: at most {self.missed:,} of all "
            f"{others:,} others do more harm than the random ones (95 %)"
        )
        if not small:
            return f"{said}."
        return (
            f"{said}, more than were put first. About {self.needed:,} random ones would show that "
            "no more were missed than that."
        )


def verify(
    worst: tuple[ArrayLike, ArrayLike], random: tuple[ArrayLike, ArrayLike], population: int
) -> Verification:
    """Hold scores against exactly measured damages.

    >>> scores = [9.0, 8.0, 7.0, 6.0]
    >>> found = verify((scores, [3.0, 4.0, 0.1, 0.2]), ([1.0] * 59, [0.3] * 59), 1000)
    >>> found.ahead, found.highest, found.missed, found.needed, found.verdict
    (2, 0.3, 47, 449, 'undecided')

    Args:
        worst: Scores and damages of the K first by score, [K] each; a damage may be infinite.
        random: Scores and damages of n others, drawn at random from all that are not among these.
        population: How many were screened, M.

    Raises:
        ArgumentError: Lengths that do not fit, a score or damage that is NaN, a first one with a
            lower score than another, more than there are.
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
    highest = float(other_damages.max(initial=-np.inf))
    others = population - count
    return Verification(
        population=population,
        worst=count,
        random=sample,
        highest=highest,
        ahead=int((damages > highest).sum()),
        missed=_unseen(sample, others),
        needed=_needed(count, others),
        agreement_worst=_agreement(scores, damages),
        agreement_random=_agreement(other_scores, other_damages),
    )


def _unseen(sample: int, others: int) -> int:
    """The largest number among the others that a sample misses altogether in 5 % of all cases."""
    from scipy.stats import hypergeom

    low, high = 0, others - sample
    while low < high:
        middle = (low + high + 1) // 2
        if hypergeom.pmf(0, others, middle, sample) > _RULED_OUT:
            low = middle
        else:
            high = middle - 1
    return low


def _needed(missed: int, others: int) -> int:
    """About how large a sample rules out that more than ``missed`` of the others are worse than it.

    Guenther 1969 on the hypergeometric with acceptance number 0.
    """
    more = missed + 1
    if more > others:
        return 0
    share = 1 - math.pow(_RULED_OUT, 1 / more)
    return math.ceil(share * (others - missed / 2))


def _agreement(scores: Floats, damages: Floats) -> float:
    from scipy.stats import rankdata

    from outdim.stats.scores import score

    if len(scores) < 3:
        return float("nan")
    return score("pearson", rankdata(scores), rankdata(damages))  # ranks, since damages may be inf


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
