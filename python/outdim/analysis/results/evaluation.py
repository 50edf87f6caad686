"""What an evaluation found: every metric of every variant, beside intact model and controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.results.compared import Compared, estimate
from outdim.analysis.table import EVALUATION
from outdim.analysis.variants.variant import Variant
from outdim.errors import one_of
from outdim.stats.paired import Statistic, ratio
from outdim.text import counted, listing, number

Array = NDArray[np.float64]

#: What is added up by document and variant, in this order.
SUMS = ("loss", "correct", "entropy", "kl", "agreement", "top", "shift", "nonfinite")

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
        Metric(
            "frequency_shift",
            "log(1 + count) of the predicted less the true token, too low where counts are those "
            "of the text itself",
            "shift",
        ),
    )
}
LEADING = "loss"
#: Metrics that a sweep compares.
SWEPT = (LEADING, "accuracy", "kl", "agreement")


@dataclass(frozen=True, eq=False)
class Evaluation(Compared):
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
    schema = EVALUATION

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
        return float(self.statistic(metric)(np.ones((1, len(self.tokens))))[0, variant])

    @property
    def swept(self) -> tuple[str, ...]:
        """What a sweep tells of each of its variants; `outdim.evaluate` has all."""
        return SWEPT

    @property
    def about(self) -> dict[str, Any]:
        """What was predicted, of how much."""
        size = {"documents": len(self.tokens), "tokens": int(self.tokens.sum())}
        return {"task": self.task, **size}

    def statistic(self, metric: str) -> Statistic:
        """One of `METRICS` of every variant."""
        asked = METRICS[one_of("metric", metric, METRICS)]
        below = self.tokens if asked.per == "tokens" else self.bytes
        found = ratio(self.sums[:, :, SUMS.index(asked.of)].T, below)
        return lambda weights: asked.transform(found(weights))

    def worse(self, metric: str) -> Literal[1, -1, 0]:
        """As `METRICS` say."""
        return METRICS[metric].worse

    def reason(self, metric: str, variant: int) -> str:
        """How many logits were not finite."""
        amiss = int(self.sums[:, variant, SUMS.index("nonfinite")].sum())
        return f"{counted(amiss, 'token')} with logits that are not finite" if amiss else ""

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

    @property
    def measured(self) -> dict[str, Any]:
        """How much was predicted, and how well."""
        documents = {"with": len(self.tokens), "without": self.read.get("without", 0)}
        return {
            "tokens": int(self.tokens.sum()),
            "bytes": float(self.bytes.sum()),
            "documents": documents,
            "excluded": dict(self.read.get("excluded", {})),
            "loss": self.loss,
        }

    def account(self) -> dict[str, Any]:
        """What was predicted."""
        return {"evaluation": {f"evaluate-{self.task}": self.measured}}

    def headline(self) -> list[str]:
        """What the worst ablations take from the intact model, and what that predicts."""
        said = [self.harm_in_words(i) for i in self.ranking[:_NAMED]]
        if len(self.ranking) > _NAMED:
            rest = self.comparison(LEADING).difference.value[self.ranking[_NAMED:]]
            changes = number(rest.min(), 2)
            if len(rest) > 1:
                changes += f" to {number(rest.max(), 2)}"
            verb = "change" if len(rest) > 1 else "changes"
            said.append(f"{counted(len(rest), 'other variant')} {verb} the loss by {changes}.")
        return [*said, self.intact_in_words()]

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

    def words(self, metric: str, variant: int = 0, digits: int = 2) -> str:
        """A value with its interval."""
        return estimate(self.comparison(metric).value, variant).words(digits)

    def cautions(self) -> Sequence[str]:
        """What the numbers rest on."""
        said = list(super().cautions())
        amiss = [i for i in range(len(self.variants)) if self.reason(LEADING, i)]
        if amiss:
            names = listing([self.variants[i].label for i in amiss], 3)
            said.append(f"Some logits are not finite, so that metrics have no value: {names}.")
        return [*said, *([self.note] if self.note else [])]
