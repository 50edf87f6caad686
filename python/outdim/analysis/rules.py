"""The published rules that call a dimension an outlier by its hidden states.

A rule judges every dimension of one point over one selection of tokens, from states that one pass
keeps. Each says what it would find among states in which no dimension differs from another: normal
ones, independent, of mean 0 and the size (root mean square) of the point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from outdim.analysis.rule_states import LUO, Floats, States, finite_mean, floats
from outdim.stats.magnitudes import RELATIVE_ERROR

Bools = NDArray[np.bool_]

#: LLM.int8(): the threshold, and the shares of layers and tokens (Dettmers et al. 2022).
INT8_THRESHOLD, INT8_LAYERS, INT8_TOKENS = 6.0, 0.25, 0.06

_MASSIVE, _MASSIVE_RATIO = 100.0, 1000.0
_SIGMAS, _VARIANCE_RATIO, _MADS = 6.0, 5.0, 3.0
_QUANTILE, _OCCUPANCY = 0.99, 0.5
_MEDIAN_OF_NORMAL = 0.6744897501960817  # of |x|, in standard deviations; so is the mean below
_MEAN_OF_NORMAL = float(np.sqrt(2 / np.pi))


class Verdict(NamedTuple):
    """What a rule says of the D dimensions of a point.

    Attributes:
        value: What the rule looks at, [D]; NaN where a dimension has values that are not finite.
        threshold: What it is compared with.
        flagged: Which dimensions are beyond it.
        undecided: Those for which value and threshold are not known well enough to tell.
        share: Share of the tokens that are beyond it, [D]; NaN for a rule that counts no tokens,
            and where what is kept does not say.
    """

    value: Floats
    threshold: float
    flagged: Bools
    undecided: Bools
    share: Floats


@dataclass(frozen=True)
class Rule:
    """A published rule.

    Attributes:
        name: As options, tables and reports name it.
        label: For people.
        definition: When a dimension of one point is flagged.
        source: Paper and section.
        judge: Applies it to one point.
        chance: The share of dimensions that it flags among normal states without outliers.
        min_layers: Share of the layers in which a dimension of the model is flagged; None leaves it
            to the user.
        min_share: Least mean over the layers of the share of tokens of a dimension of the model.
        note: What a reader has to know of it.
        needs_twins: Whether its threshold lies within what the dimensions of any model differ by,
            so that what it finds is worth something only beside models that learned nothing.
    """

    name: str
    label: str
    definition: str
    source: str
    judge: Callable[[States], Verdict]
    chance: Callable[[States], float]
    min_layers: float | None = None
    min_share: float = 0.0
    note: str = ""
    needs_twins: bool = False


def _int8(states: States, least: float) -> Verdict:
    over = floats(states.moments.fraction_over)
    flagged = (over > 0) if not least else over >= least
    return _exact(over, least, flagged, over)


def _massive(states: States) -> Verdict:
    median = states.quantile(0.5)
    low, at, high = (max(_MASSIVE, _MASSIVE_RATIO * float(m)) for m in median)
    value = states.absmax
    undecided = (value > low) & (value <= high) & (low < high)
    return Verdict(value, at, value > at, undecided, states.share_over(at))


def _massive_mean(states: States) -> Verdict:
    at = _MASSIVE_RATIO * finite_mean(states.mean_abs)
    return _exact(states.absmax, at, states.absmax > at, states.share_over(at))


def _six_sigma(states: States) -> Verdict:
    mean = finite_mean(states.mean)
    sigma = float(np.sqrt(max(states.size**2 - mean**2, 0.0)))
    above, below = floats(states.moments.max) - mean, mean - floats(states.moments.min)
    furthest = np.maximum(above, below) / (sigma or np.nan)
    # The histogram is of |h|: it misses those just beyond on the side of 0 that the mean is not on.
    reach = _SIGMAS * sigma
    missed = (below if mean > 0 else above) > reach
    telling = ~missed | (2 * abs(mean) <= RELATIVE_ERROR * reach)
    share = np.where(telling, states.share_over(reach + abs(mean)), np.nan)
    return _exact(furthest, _SIGMAS, furthest > _SIGMAS, share)


def _variance(states: States) -> Verdict:
    ratio = states.variance / (finite_mean(states.variance) or np.nan)
    return _exact(ratio, _VARIANCE_RATIO, ratio >= _VARIANCE_RATIO)


def _median(states: States) -> Verdict:
    at, medians = states.quantile(_QUANTILE), states.medians
    flagged = medians.value > at.value
    undecided = (medians.high > float(at.low)) & (medians.low < float(at.high))
    share = states.share_over(float(at.value))
    return Verdict(medians.value, float(at.value), flagged, undecided, share)


def _extremum(states: States) -> Verdict:
    value = states.ends.max(-1)
    return _exact(value, _OCCUPANCY, value >= _OCCUPANCY, value)


def _mean_state(states: States, k: float) -> Verdict:
    means = states.mean[np.isfinite(states.mean)]
    spread = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    z = np.abs(states.mean - finite_mean(means)) / (spread or np.nan)
    return _exact(z, k, z > k)


def _mad(states: States) -> Verdict:
    finite = states.mean_abs[np.isfinite(states.mean_abs)]
    median = np.median(finite) if len(finite) else np.nan
    mad = np.median(np.abs(finite - median)) if len(finite) else 0.0
    distance = (states.mean_abs - median) / (mad or np.nan)
    return _exact(distance, _MADS, distance > _MADS)


def _exact(value: Floats, threshold: float, flagged: Bools, share: Floats | None = None) -> Verdict:
    none = np.full(len(value), np.nan)
    return Verdict(
        value, threshold, flagged, np.zeros(len(value), bool), none if share is None else share
    )


def _beyond(states: States, threshold: float) -> float:
    """How likely one of the n values of a dimension is beyond a threshold."""
    return float(-np.expm1(states.n * np.log1p(-_tail(threshold / (states.size or np.nan)))))


def _tail(sigmas: float) -> float:
    """How likely a normal value is further than that from its mean."""
    from scipy.special import erfc

    return min(float(erfc(sigmas / np.sqrt(2.0))), 1 - 1e-16)


def _at_least(count: float, n: int, p: float) -> float:
    """How likely at least ``count`` of n independent things of probability p happen."""
    from scipy.special import bdtrc

    return float(bdtrc(np.ceil(count) - 1, n, p)) if count > 0 else 1.0


def _variance_chance(states: States) -> float:
    from scipy.special import chdtrc

    return float(chdtrc(states.n - 1, _VARIANCE_RATIO * (states.n - 1))) if states.n > 1 else 0.0


def _int8_share_chance(states: States) -> float:
    p = _tail(INT8_THRESHOLD / (states.size or np.nan))
    return _at_least(INT8_TOKENS * states.n, states.n, p)


_DETTMERS = "Dettmers et al. 2022 (LLM.int8())"
_INT8_NOTE = (
    "The 6 of LLM.int8() was chosen for one family of models, by the inputs of their matrix "
    "products; hidden states of others are of another size, and it flags nearly all dimensions "
    "of some and none of others."
)
_SUN = "Sun et al. 2024 (Massive Activations), who take the median of each sequence"
_HAEMMERL = "Hämmerl et al. 2023"

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "int8_pooled",
            "LLM.int8(), 6 % of all tokens of all layers",
            "|h| ≥ 6 for some token; of the model: so in 25 % of the layers, and for 6 % of all "
            "tokens over all layers together",
            _DETTMERS,
            lambda s: _int8(s, 0.0),
            lambda s: _beyond(s, INT8_THRESHOLD),
            min_layers=INT8_LAYERS,
            min_share=INT8_TOKENS,
            note=_INT8_NOTE,
        ),
        Rule(
            "int8_by_layer",
            "LLM.int8(), 6 % of the tokens of each layer",
            "|h| ≥ 6 for 6 % of the tokens; of the model: so in 25 % of the layers",
            _DETTMERS,
            lambda s: _int8(s, INT8_TOKENS),
            _int8_share_chance,
            min_layers=INT8_LAYERS,
            note=_INT8_NOTE,
        ),
        Rule(
            "massive",
            "massive activations (median)",
            "|h| > 100 and > 1,000 times the median of |h| of the layer, for some token",
            _SUN,
            _massive,
            lambda s: _beyond(s, max(_MASSIVE, _MASSIVE_RATIO * _MEDIAN_OF_NORMAL * s.size)),
        ),
        Rule(
            "massive_mean",
            "massive activations (mean)",
            "|h| > 1,000 times the mean of |h| of the layer, for some token",
            "An et al. 2025 (Systematic Outliers)",
            _massive_mean,
            lambda s: _beyond(s, _MASSIVE_RATIO * _MEAN_OF_NORMAL * s.size),
        ),
        Rule(
            "six_sigma",
            "beyond 6 σ",
            "|h − μ| > 6 σ for some token, μ and σ of all values of the layer",
            "Bondarenko et al. 2021, who take μ and σ of each tensor",
            _six_sigma,
            lambda s: _beyond(s, _SIGMAS * s.size),
            note="One token in the whole text is enough for the rules massive, massive_mean and "
            "six_sigma: the share of tokens says how common it is.",
        ),
        Rule(
            "variance",
            "variance ≥ 5 × the mean",
            "variance over the tokens ≥ 5 times the mean variance of the dimensions",
            "Rudman et al. 2023, who take one state a sentence",
            _variance,
            _variance_chance,
        ),
        Rule(
            "median",
            "median over the 99 % quantile",
            "median of |h| > the 99 % quantile of |h| of all tokens and dimensions of the layer",
            "Macocco et al. 2025, who take the last layer, one state a text",
            _median,
            lambda s: _at_least(s.n / 2, s.n, 1 - _QUANTILE),
        ),
        Rule(
            "extremum",
            "holds the extreme value",
            "the smallest, or the largest, value of a token is at this dimension for half of the "
            "tokens or more",
            f"{LUO}; they name no threshold",
            _extremum,
            lambda s: 2 * _at_least(_OCCUPANCY * s.n, s.n, 1 / s.dims),
        ),
        Rule(
            "mean_3_sigma",
            "mean state beyond 3 σ",
            "the mean over the tokens is further than 3 σ from the mean of the dimensions' means",
            _HAEMMERL,
            lambda s: _mean_state(s, 3.0),
            lambda s: _tail(3.0),
        ),
        Rule(
            "mean_5_sigma",
            "mean state beyond 5 σ",
            "the mean over the tokens is further than 5 σ from the mean of the dimensions' means",
            _HAEMMERL,
            lambda s: _mean_state(s, 5.0),
            lambda s: _tail(5.0),
        ),
        Rule(
            "mad",
            "mean |h| beyond 3 MAD",
            "mean of |h| larger than the median dimension's by more than 3 median absolute "
            "deviations of the dimensions",
            "the usual rule of 3 MAD; tools that use it differ in what they take it of",
            _mad,
            lambda s: _tail(_MADS * _MEDIAN_OF_NORMAL) / 2,
            note="3 MAD are 2 σ of a normal distribution: the rule flags 2 % of dimensions among "
            "which none differs.",
            needs_twins=True,
        ),
    )
}
