"""Which tokens the variants of a model predicted: frequency, contributions, parts of speech."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.step import Result
from outdim.analysis.variants.variant import Variant, controls_of
from outdim.errors import one_of
from outdim.stats.jackknife import LeftOut, ratio
from outdim.stats.paired import Interval
from outdim.stats.prediction_measures import (
    FREQUENCY,
    Contributions,
    by_other_blocks,
    contributions,
    measured,
)
from outdim.stats.prediction_sums import Reading
from outdim.text import counted

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TRUTH = "truth"

#: Measures -> what they are, for people.
LABELS = {
    "mean_log_frequency": "mean of log(1 + count) of the predicted tokens",
    "types": "different tokens predicted",
    "entropy": "entropy of the predicted tokens in nats",
    "unseen_share": "share of predictions that the counts do not know",
    "slope": "slope of predicted on corpus frequency",
    "log_slope": "slope of log predicted on log corpus frequency",
    "spearman": "Spearman's ρ of predicted with corpus frequency",
    "logit_gap": "mean logit of frequent less rare tokens, before bias, scale and cap",
    "pos_agreement": "share of predictions with the true word's part of speech",
}
LEADING = "mean_log_frequency"
_SHARES = ("unseen_share", "pos_agreement")


@dataclass(frozen=True, eq=False)
class Comparison:
    """One measure of S series: the truth, the intact model, and the other variants.

    Attributes:
        value: Of each series.
        difference: To the intact model.
        beyond: The difference less the mean difference of the controls, [S]; NaN where there are
            none. Its interval is over documents alone.
        control: The mean difference of the controls, and from the smallest to the largest.
        blocks: Of documents, that were left out in turn, int64 [S].
    """

    value: Interval
    difference: Interval
    beyond: Interval
    control: Interval
    blocks: Ints


@dataclass(frozen=True, eq=False)
class Predictions(Result):
    """What M variants predicted.

    Attributes:
        task: "lm" or "mlm".
        readings: Counts and sums by how documents were read: ``next``; or ``masked`` and
            ``unmasked``.
        variants: The intact model first.
        corpus: Counts to which predictions are related, int64 [V]; 0 for special tokens.
        tokens: Labels of the ids that the tokenizer knows.
        columns: `outdim.stats.prediction_measures.read_out`; empty where logits are not linear.
        tagger: Of the parts of speech; "" for none.
        note: What a reader has to know of the model.
        read: What was read and what left out.
        own_counts: Whether the counts are those of the text itself. A place is then judged by those
            of the other blocks of documents, where a measure is a mean over places.
    """

    task: str
    readings: Mapping[str, Reading]
    variants: tuple[Variant, ...]
    corpus: Ints
    tokens: Sequence[str]
    columns: Floats
    tagger: str
    note: str
    read: Mapping[str, Any]
    own_counts: bool = False

    @property
    def reading(self) -> str:
        """The first of the readings, which leads."""
        return next(iter(self.readings))

    def measure(self, name: str, reading: str | None = None) -> Comparison:
        """One of `LABELS`, of all series.

        Raises:
            ArgumentError: There is no such measure or reading.
        """
        found = self.comparisons[one_of("reading", reading or self.reading, self.readings)]
        return found[one_of("name", name, found)]

    @cached_property
    def contributions(self) -> dict[str, Contributions]:
        """What dimensions add to logits, by reading; none where logits are not linear."""
        if not len(self.columns):
            return {}
        return {
            name: contributions(
                found.states, (found.rows[:, None] - found.amiss).astype(float), self.columns
            )
            for name, found in self.readings.items()
        }

    @cached_property
    def comparisons(self) -> dict[str, dict[str, Comparison]]:
        """Measures by reading and name."""
        return {
            reading: {
                name: self._compared(left_out, name)
                for name, left_out in self._measured(reading, found)
            }
            for reading, found in self.readings.items()
        }

    def _measured(self, reading: str, found: Reading) -> Iterator[tuple[str, LeftOut]]:
        frequency = self.corpus[found.ids].astype(float)
        of_counts = measured(found.counts, frequency, float(self.corpus.sum()))
        measures = {name: of_counts.at(row) for row, name in enumerate(FREQUENCY)}
        if self.own_counts:
            measures |= by_other_blocks(found.counts, self._in_other_blocks(found.ids))
        yield from measures.items()
        if reading in self.contributions:
            yield "logit_gap", _behind_truth(self.contributions[reading].gap)
        if found.classes.size:
            right = found.classes.diagonal(axis1=2, axis2=3).sum(-1).astype(float)
            yield (
                "pos_agreement",
                _behind_truth(ratio(right, found.classes.sum((2, 3)).astype(float))),
            )

    def _in_other_blocks(self, ids: Ints) -> Floats:
        """How often the text has tokens [U] but for each block, [B, U]; NaN where that is all."""
        whole = list(self.readings.values())[-1]  # reads every token
        true = np.where(self.corpus[whole.ids] > 0, whole.counts[:, 0], 0)  # but special ones
        others = true.sum(0) - true
        others[others.sum(1) == 0] = np.nan
        place = np.searchsorted(whole.ids, ids).clip(max=len(whole.ids) - 1)
        known: Floats = np.where(whole.ids[place] == ids, others[:, place], others[:, :1] * 0)
        return known

    def _compared(self, found: LeftOut, name: str) -> Comparison:
        difference = found - found.at(slice(1, 2))
        size = len(found.value)
        holds = difference.held.copy()
        mean = LeftOut(
            np.full(size, np.nan), np.full(found.without.shape, np.nan), found.used, holds
        )
        low, high = np.full(size, np.nan), np.full(size, np.nan)
        for variant, controls in controls_of(self.variants).items():
            theirs = np.array(controls) + 1
            mean.value[variant + 1] = difference.value[theirs].mean()
            mean.without[:, variant + 1] = difference.without[:, theirs].mean(1)
            holds[:, variant + 1] = difference.held[:, theirs].all(1)
            low[variant + 1] = difference.value[theirs].min()
            high[variant + 1] = difference.value[theirs].max()
        return Comparison(
            interval_of(found, share=name in _SHARES, correlation=name == "spearman"),
            interval_of(difference),
            interval_of(difference - mean),
            Interval(mean.value, low, high),
            found.blocks,
        )

    def tables(self) -> dict[str, pa.Table]:
        """Measures, predicted tokens, dimensions, and parts of speech where there are any."""
        from outdim.analysis.results.predictions_tables import tables

        return tables(self)

    def names(self) -> list[str]:
        """Of the series."""
        return [TRUTH, *(variant.label for variant in self.variants)]

    def reason(self, reading: str, series: int) -> str:
        """How many predictions a series lacks, "" where none."""
        amiss = int(self.readings[reading].amiss[:, series - 1].sum()) if series else 0
        return f"{counted(amiss, 'token')} with logits that are not finite" if amiss else ""

    def untagged(self, reading: str, series: int) -> int:
        """How many predictions of a variant have no part of speech, though its logits are finite.

        All of them are in documents that are not tagged.
        """
        found = self.readings[reading]
        return int((found.untagged - found.amiss)[:, series - 1].sum())

    def predicted(self, reading: str, series: int) -> tuple[Ints, Ints]:
        """The tokens of a series and how often they are predicted, the most frequent first."""
        found = self.readings[one_of("reading", reading, self.readings)]
        times = found.counts[:, series].sum(0).astype(np.int64)
        order = np.argsort(-times, kind="stable")[: int((times > 0).sum())]
        return found.ids[order], times[order]

    def label(self, token: int) -> str:
        """A token for people."""
        return self.tokens[token] if token < len(self.tokens) else ""

    def account(self) -> dict[str, Any]:
        """What was predicted."""
        return {
            "predictions": {
                f"predictions-{self.task}": {
                    "tokens": {n: int(found.rows.sum()) for n, found in self.readings.items()},
                    "documents": {
                        "with": self.read.get("documents", 0) - self.read.get("without", 0),
                        "without": self.read.get("without", 0),
                    },
                    "excluded": dict(self.read.get("excluded", {})),
                }
            }
        }

    def headline(self) -> list[str]:
        """What is predicted, and what the ablations change in that."""
        from outdim.analysis.results.predictions_words import headline

        return headline(self)

    def cautions(self) -> list[str]:
        """What the numbers rest on."""
        from outdim.analysis.results.predictions_words import cautions

        return cautions(self)


def interval_of(found: LeftOut, *, share: bool = False, correlation: bool = False) -> Interval:
    """A statistic with the ends of its interval."""
    return Interval(found.value, *found.interval(share=share, correlation=correlation))


def _behind_truth(found: LeftOut) -> LeftOut:
    """Of M variants, behind a truth that has no such measure."""
    nothing = np.full((len(found.without), 1), np.nan)
    return LeftOut(
        np.concatenate([[np.nan], found.value]),
        np.concatenate([nothing, found.without], 1),
        found.used,
        np.concatenate([np.isfinite(nothing), found.held], 1),
    )
