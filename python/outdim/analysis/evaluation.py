"""What an evaluation found: every metric of every variant, beside intact model and controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.compared import GATES, compared_row, others
from outdim.analysis.estimate import Estimate
from outdim.analysis.step import Result
from outdim.analysis.table import EVALUATION
from outdim.analysis.variants import Variant, controls_of
from outdim.errors import one_of
from outdim.stats.paired import Comparison, Interval, Statistic, compare, ratio
from outdim.text import counted, listing, number

Array = NDArray[np.float64]

#: What is added up by document and variant, in this order.
SUMS = ("loss", "correct", "entropy", "kl", "agreement", "top", "shift", "nonfinite")

_FEW_DOCUMENTS, _FEW_CONTROLS = 30, 5
_NAMED = 3  # variants that sentences speak of


def _same(values: Array) -> Array:
    return values


@dataclass(frozen=True)
class Metric:
    """A column ``metric``: a transformed ratio of sums over documents.

    Attributes:
        name: As in the table.
        label: For people.
        of: Which of `SUMS`.
        per: What it is divided by.
        transform: Of the ratio.
        worse: 1 where a larger value is worse, -1 where a smaller one is, 0 for neither.
    """

    name: str
    label: str
    of: str
    per: Literal["tokens", "bytes"] = "tokens"
    transform: Callable[[Array], Array] = field(default=_same, repr=False)
    worse: Literal[1, -1, 0] = 0


METRICS = {
    metric.name: metric
    for metric in (
        Metric("loss", "loss in nats a token", "loss", worse=1),
        Metric("perplexity", "perplexity", "loss", transform=np.exp, worse=1),
        Metric(
            "bits_per_byte", "bits a byte", "loss", "bytes", lambda nats: nats / np.log(2), worse=1
        ),
        Metric("byte_perplexity", "perplexity of a byte", "loss", "bytes", np.exp, worse=1),
        Metric("accuracy", "share of tokens predicted right", "correct", worse=-1),
        Metric("entropy", "entropy of the prediction in nats", "entropy"),
        Metric("kl", "KL(intact || variant) in nats", "kl"),
        Metric("agreement", "share of predictions as those of the intact model", "agreement"),
        Metric("top_agreement", "share of the ten likeliest tokens in common", "top"),
        Metric("frequency_shift", "log(1 + count) of the predicted less the true token", "shift"),
    )
}
LEADING = "loss"


@dataclass(frozen=True, eq=False)
class Evaluation(Result):
    """M variants on N documents.

    Attributes:
        task: "lm" or "mlm".
        masking: How tokens were masked; None for a causal model.
        variants: The intact model first.
        sums: Of `SUMS` over the predicted tokens of each document, float64 [N, M, K].
        tokens: Predicted tokens of each document, int64 [N].
        bytes: UTF-8 bytes of these: those of the document, times the predicted share of its tokens.
        draws, seed: Of the intervals.
        note: What a reader has to know of the model.
        read: What was read and what left out.
    """

    task: str
    masking: str | None
    variants: tuple[Variant, ...]
    sums: Array
    tokens: NDArray[np.int64]
    bytes: Array
    draws: int
    seed: int
    note: str
    read: Mapping[str, Any]

    @property
    def loss(self) -> float:
        """Of the intact model, in nats a token."""
        return self.value("loss")

    @property
    def perplexity(self) -> float:
        """Of the intact model, of a token."""
        return self.value("perplexity")

    @property
    def accuracy(self) -> float:
        """Share of tokens that the intact model predicts right."""
        return self.value("accuracy")

    def value(self, metric: str, variant: int = 0) -> float:
        """One value of `METRICS`.

        Raises:
            ArgumentError: There is no such metric.
        """
        measure = METRICS[one_of("metric", metric, METRICS)]
        return float(self._statistic(measure)(np.ones((1, len(self.tokens))))[0, variant])

    def comparison(self, metric: str) -> Comparison:
        """A metric of all variants, against the intact model and the controls.

        Raises:
            ArgumentError: There is no such metric.
        """
        one_of("metric", metric, METRICS)
        if metric not in self._comparisons:
            self._comparisons[metric] = compare(
                self._statistic(METRICS[metric]),
                len(self.tokens),
                controls=controls_of(self.variants),
                worse=METRICS[metric].worse or 1,
                draws=self.draws,
                seed=self.seed,
            )
        return self._comparisons[metric]

    @cached_property
    def _comparisons(self) -> dict[str, Comparison]:
        return {}

    def _statistic(self, metric: Metric) -> Statistic:
        below = self.tokens if metric.per == "tokens" else self.bytes
        found = ratio(self.sums[:, :, SUMS.index(metric.of)].T, below)
        return lambda weights: metric.transform(found(weights))

    def _number(self, role: str) -> list[int]:
        return [i for i, variant in enumerate(self.variants) if variant.role == role]

    @cached_property
    def ranking(self) -> list[int]:
        """The ablated variants, those that lose most first."""
        harm = self.comparison(LEADING).difference.value
        return sorted(self._number("ablated"), key=lambda i: -np.nan_to_num(harm[i], nan=np.inf))

    def tables(self) -> dict[str, Any]:
        """``evaluate_lm`` or ``evaluate_mlm``: a row a metric and variant."""
        rows = [row for metric in METRICS.values() for row in self.rows(metric.name)]
        return {f"evaluate_{self.task}": pa.Table.from_pylist(rows, EVALUATION)}

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """Rows of `outdim.analysis.table.EVALUATION` of one metric, a row a variant."""
        metric, found = METRICS[name], self.comparison(name)
        for i, variant in enumerate(self.variants):
            yield {
                "task": self.task,
                "metric": metric.name,
                **compared_row(variant, found, i, gated=bool(metric.worse)),
                "documents": len(self.tokens),
                "tokens": int(self.tokens.sum()),
                "reason": self._reason(i),
            }

    def _reason(self, variant: int) -> str:
        amiss = int(self.sums[:, variant, SUMS.index("nonfinite")].sum())
        return f"{counted(amiss, 'token')} with logits that are not finite" if amiss else ""

    def account(self) -> dict[str, Any]:
        """What was predicted."""
        documents = {"with": len(self.tokens), "without": self.read.get("without", 0)}
        return {
            "evaluation": {
                f"evaluate-{self.task}": {
                    "tokens": int(self.tokens.sum()),
                    "bytes": float(self.bytes.sum()),
                    "documents": documents,
                    "excluded": dict(self.read.get("excluded", {})),
                    "loss": self.loss,
                }
            }
        }

    def headline(self) -> list[str]:
        """What the intact model predicts, and what the worst ablations take from it."""
        said = [self.intact_in_words()]
        said += [self.harm_in_words(i) for i in self.ranking[:_NAMED]]
        if len(self.ranking) > _NAMED:
            rest = self.comparison(LEADING).difference.value[self.ranking[_NAMED:]]
            changes = number(rest.min(), 2)
            if len(rest) > 1:
                changes += f" to {number(rest.max(), 2)}"
            verb = "change" if len(rest) > 1 else "changes"
            said.append(f"{counted(len(rest), 'other variant')} {verb} the loss by {changes}.")
        return said

    def intact_in_words(self) -> str:
        """What the intact model predicts, and how well."""
        loss, perplexity, bits, right = (
            self.words(name) for name in ("loss", "perplexity", "bits_per_byte", "accuracy")
        )
        what = {
            None: "the next token",
            "random": "masked tokens",
            "within_word_l2r": "each token, masked with the rest of its word",
        }[self.masking]
        return (
            f"Predicting {what}, the intact model has a loss of {loss} nats (perplexity "
            f"{perplexity}, {bits} bits a byte) and is right {right} of the time, over "
            f"{counted(int(self.tokens.sum()), 'token')} of "
            f"{counted(len(self.tokens), 'document')}."
        )

    def harm_in_words(self, variant: int, *, beside: bool = True) -> str:
        """What a variant does to the loss and, ``beside`` them, its controls."""
        found = self.comparison(LEADING)
        harm = _estimate(found.difference, variant)
        verb = "raises" if not harm.value < 0 else "changes"
        said = f"{self.variants[variant].label}: {verb} the loss by {harm.words()}"
        said += f", to {number(float(found.value.value[variant]), 2)}"
        if not beside or np.isnan(found.control[variant]):
            return f"{said}."
        controls = [self.variants[i] for i in controls_of(self.variants)[variant]]
        change = number(float(found.control[variant]), 3)
        mean = (
            f"change it by {change} on average" if len(controls) > 1 else f"changes it by {change}"
        )
        said += (
            f"; {others(controls)} {mean}, which leaves "
            f"{_estimate(found.beyond, variant).words()}{GATES[found.gate[variant]]}"
        )
        times = found.times[variant]
        return said + (f" ({number(float(times), 1)} times)." if np.isfinite(times) else ".")

    def words(self, metric: str, variant: int = 0, digits: int = 2) -> str:
        """A value with its interval."""
        return _estimate(self.comparison(metric).value, variant).words(digits)

    def cautions(self) -> Sequence[str]:
        """What the numbers rest on."""
        said = []
        if len(self.tokens) < 2:
            said.append("There is one document only: no interval can be given.")
        elif len(self.tokens) < _FEW_DOCUMENTS:
            said.append(
                f"The intervals rest on {len(self.tokens)} documents and may be too narrow: "
                f"{_FEW_DOCUMENTS} or more would be better."
            )
        few = min((len(of_it) for of_it in controls_of(self.variants).values()), default=None)
        if self._number("ablated") and few is None:
            said.append("There are no controls: what random dimensions would do is not known.")
        elif few is not None and few < _FEW_CONTROLS:
            say = "says" if few == 1 else "say"
            said.append(
                f"{counted(few, 'control')} {say} little of what other dimensions would do."
            )
        amiss = [i for i in range(len(self.variants)) if self._reason(i)]
        if amiss:
            names = listing([self.variants[i].label for i in amiss], 3)
            said.append(f"Some logits are not finite, so that metrics have no value: {names}.")
        return [*said, *([self.note] if self.note else [])]


def _estimate(interval: Interval, i: int) -> Estimate:
    return Estimate(interval.value[i], interval.low[i], interval.high[i])
