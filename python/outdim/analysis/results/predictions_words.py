"""What is said of the tokens that the variants of a model predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from outdim.analysis.parts_of_speech import LONGEST
from outdim.analysis.results.cautions import few_blocks
from outdim.analysis.results.compared import estimate, others
from outdim.analysis.results.estimate import Estimate
from outdim.analysis.variants.variant import controls_of
from outdim.text import counted, listing, number

if TYPE_CHECKING:
    from outdim.analysis.results.predictions import Comparison, Predictions
    from outdim.stats.paired import Interval

_NAMED = 3  # ablated variants, and dimensions, that sentences speak of
_FEW_TOKENS = 1000
_WHAT = {
    "next": "the next token",
    "masked": "masked tokens",
    "unmasked": "tokens that are there to be seen",
}


def headline(found: Predictions) -> list[str]:
    """What the ablations change in what is predicted, and what that is."""
    change = found.measure("mean_log_frequency").difference.value
    ablated = [i for i, v in enumerate(found.variants) if v.role == "ablated"]
    order = sorted(ablated, key=lambda i: -np.nan_to_num(abs(change[i + 1]), nan=np.inf))
    said = [_ablated(found, i) for i in order[:_NAMED]]
    if len(order) > _NAMED:
        rest = change[[i + 1 for i in order[_NAMED:]]]
        said.append(
            f"{counted(len(rest), 'other variant')}: the mean log frequency changes by "
            f"{number(rest.min(), 2)} to {number(rest.max(), 2)}."
        )
    said += [_intact(found, reading) for reading in found.readings]
    if found.contributions:
        said.append(_dimensions(found))
    if found.tagger:
        said.append(_parts_of_speech(found, order[:_NAMED]))
    return said


def _intact(found: Predictions, reading: str) -> str:
    log, types = (found.measure(name, reading) for name in ("mean_log_frequency", "types"))
    # The difference of the truth to the model, turned round.
    truth = log.difference
    more = Estimate(-truth.value[0], -truth.high[0], -truth.low[0])
    said = (
        f"Predicting {_WHAT[reading]}, the intact model gives {_types(types, 1)} where the text "
        f"has {number(types.value.value[0], 0)}, in {counted(_rows(found, reading), 'place')}"
    )
    if np.isnan(truth.value[0]):
        return f"{said}; how frequent they are is not known."
    return (
        f"{said}; the mean of {_log(found)} is {estimate(log.value, 1).words()} for what it "
        f"predicts and {estimate(log.value, 0).words()} for the text, a difference of "
        f"{more.words()}: {_direction(more)} than the true ones."
    )


def _log(found: Predictions) -> str:
    """What the leading measure is the mean of: no place is judged by its own text."""
    return "log(1 + count in the other documents)" if found.own_counts else "log(1 + count)"


def _types(types: Comparison, series: int) -> str:
    return counted(int(np.nan_to_num(types.value.value[series])), "different token")


def _direction(change: Estimate) -> str:
    """What a change of the mean log frequency means, where it is sure."""
    if change.low is not None and change.high is not None:
        if change.low > 0:
            return "more frequent tokens"
        if change.high < 0:
            return "rarer tokens"
    return "not surely more frequent or rarer tokens"


def _ablated(found: Predictions, variant: int) -> str:
    i = variant + 1
    log, types = (found.measure(name) for name in ("mean_log_frequency", "types"))
    slope, rho = (found.measure(name) for name in ("slope", "spearman"))
    change = estimate(log.difference, i)
    said = f"{found.variants[variant].label}: "
    if not np.isnan(change.value):
        said += (
            f"the mean of {_log(found)} changes by {change.words()}, {_direction(change)} than "
            f"the intact model's{_controls(found, log, variant)}; "
        )
    said += f"{_types(types, i)} after {number(types.value.value[1], 0)}"
    if found.own_counts:  # in which what is predicted is counted through its own text
        return f"{said}."
    return (
        f"{said}, slope against the corpus {_from_to(slope.value, i)}, Spearman's ρ "
        f"{_from_to(rho.value, i)}."
    )


def _controls(found: Predictions, log: Comparison, variant: int) -> str:
    """What controls do, in brackets; "" where there are none."""
    change = float(log.control.value[variant + 1])
    if not np.isfinite(change):
        return ""
    controls = [found.variants[c] for c in controls_of(found.variants)[variant]]
    verb, mean = ("change", " on average") if len(controls) > 1 else ("changes", "")
    return f" ({others(controls)} {verb} it by {number(change, 3)}{mean})"


def _from_to(value: Interval, i: int) -> str:
    return f"{number(float(value.value[1]), 2)} to {number(float(value.value[i]), 2)}"


def _dimensions(found: Predictions) -> str:
    adds = found.contributions[found.reading]
    gap = found.measure("logit_gap", found.reading).value
    size = np.abs(adds.difference.value[0])
    low, high = adds.difference.interval()
    parts = []
    for d in np.argsort(-size, kind="stable")[:_NAMED]:
        part = Estimate(adds.difference.value[0, d], low[0, d], high[0, d])
        parts.append(f"dimension {d} adds {part.words()}")
    return (
        "The states before the output layer make the mean logit (without a bias, and before a "
        "scale or cap of the model) of the most frequent tenth of the tokens differ from that of "
        f"the rarest tenth by {estimate(gap, 1).words()}; of that, {listing(parts)}."
    )


def _parts_of_speech(found: Predictions, ablated: list[int]) -> str:
    value = found.measure("pos_agreement").value
    said = (
        f"{_percent(value, 1)} of what the intact model predicts has the part of speech of the "
        "true word"
    )
    changed = [f"{_percent(value, i + 1)} with {found.variants[i].label}" for i in ablated]
    return f"{said}; {listing(changed)}." if changed else f"{said}."


def _percent(value: Interval, i: int) -> str:
    share = Estimate(100 * value.value[i], 100 * value.low[i], 100 * value.high[i])
    return f"{share.words(0)} %"


def cautions(found: Predictions) -> list[str]:
    """What the numbers rest on."""
    said = few_blocks(int(found.measure("types").blocks.max()))
    rows = min(_rows(found, reading) for reading in found.readings)
    if rows < _FEW_TOKENS:
        said.append(
            f"There are {counted(rows, 'prediction')} only: how many different tokens there are, "
            "and slopes against the corpus, grow with their number. Compare variants, not texts."
        )
    if found.own_counts:
        said.append(
            "The counts are this text's own. The mean log frequency and the share of unseen tokens "
            "are by those of the other documents; slopes, ρ, and what counts as frequent or rare "
            "are by all of them, in which what is true here, and with it what is predicted, is "
            "counted itself. Give counts of a larger text (--counts)."
        )
    elif not found.measure("unseen_share").value.value[0]:
        said.append(
            "The counts know every true token, as where this text is among what was counted: the "
            "true tokens then seem more frequent than they are, and what is predicted rarer than "
            "they. Give counts of other text (--counts)."
        )
    if any(v.role == "ablated" for v in found.variants) and not controls_of(found.variants):
        said.append("There are no controls: what random dimensions would do is not known.")
    for reading in found.readings:
        amiss = [name for i, name in enumerate(found.names()) if i and found.reason(reading, i)]
        if amiss:
            said.append(
                f"Some logits are not finite, and count for nothing ({_WHAT[reading]}): "
                f"{listing(amiss, 3)}."
            )
        untagged = max(found.untagged(reading, 1 + i) for i in range(len(found.variants)))
        if found.tagger and untagged:
            said.append(
                f"{counted(untagged, 'prediction')} of {_rows(found, reading):,} "
                f"({_WHAT[reading]}) have no part of speech: documents of more than {LONGEST:,} "
                "characters are not tagged."
            )
    if not found.contributions:
        said.append("What dimensions add to logits is not said: logits are not linear in them.")
    if found.task == "mlm" and found.contributions:
        said.append(
            "Dimensions of contributions are those of the states that the output layer reads. "
            "Where the head transforms hidden states first, as BERT's does, they are not those of "
            "the hidden states that are ablated."
        )
    return [*said, *([found.note] if found.note else [])]


def _rows(found: Predictions, reading: str) -> int:
    return int(found.readings[reading].rows.sum())
