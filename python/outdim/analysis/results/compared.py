"""Variants that were compared: what every evaluation makes of them, in rows and in words."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from outdim.analysis.results.cautions import few_documents
from outdim.analysis.results.estimate import CHANCE, Estimate
from outdim.analysis.step import Result
from outdim.analysis.variants.variant import Variant, controls_of
from outdim.stats.paired import Comparison, Gate, Interval, Statistic, compare
from outdim.text import counted, number, p_value, significant

_FEW_CONTROLS = 5


def gate_in_words(gate: Gate | None, q: float | None, floor: str = "") -> str:
    """What a sentence about a variant and its controls ends with; sure is only what q says too.

    ``floor`` says why q cannot be smaller, if it cannot.

    >>> gate_in_words("passed", 0.01), gate_in_words("passed", 0.115)[:30]
    (', surely more than five times the size of such a change', ', by its interval more than fi')
    """
    times = "five times the size of such a change"
    if gate == "passed":
        if is_sure(q):
            return f", surely more than {times}"
        return f", by its interval more than {times}, but q is {p_value(q)}" + (
            f", since {floor}" if floor else ""
        )
    if gate == "failed":
        return f", less than {times}"
    return f"; whether that is {times} is open" if gate else ""


def is_sure(p: float | None) -> bool:
    """Whether a p, or q, says that there is an effect."""
    return p is not None and p <= CHANCE  # NaN is not


class Compared(Result):
    """Variants of a model on the same documents; a frozen dataclass says what is measured of them.

    Attributes:
        task: What was asked.
        variants: The intact model first.
        draws, seed: Of the intervals.
        leading: The metric that ranks variants: more of it is worse.
        noun: The same in a sentence.
        drawn: What intervals draw, as a word.
        schema: Of the rows.
    """

    variants: Sequence[Variant]
    draws: int
    seed: int
    leading: ClassVar[str] = "loss"
    noun: ClassVar[str] = "the loss"
    drawn: ClassVar[str] = "document"
    schema: ClassVar[pa.Schema]

    @property
    @abstractmethod
    def swept(self) -> tuple[str, ...]:
        """The metrics that a sweep compares, the leading one first."""

    @property
    @abstractmethod
    def about(self) -> Mapping[str, Any]:
        """Columns that all rows share; ``documents`` is how many of what intervals draw."""

    @property
    @abstractmethod
    def measured(self) -> Mapping[str, Any]:
        """What the manifest says of it."""

    @abstractmethod
    def statistic(self, metric: str) -> Statistic:
        """A metric of every variant, of how often each document is drawn."""

    @abstractmethod
    def worse(self, metric: str) -> Literal[1, -1, 0]:
        """1 where more of it is worse, -1 where less of it is, 0 for neither."""

    @abstractmethod
    def reason(self, metric: str, variant: int) -> str:
        """Why a number of a row is null; "" where each that can be there is."""

    @abstractmethod
    def intact_in_words(self) -> str:
        """What the intact model does."""

    def comparison(self, metric: str) -> Comparison:
        """A metric of all variants, against the intact model and the controls."""
        if metric not in self._comparisons:
            self._comparisons[metric] = compare(
                self.statistic(metric),
                self.about["documents"],
                controls=self._controls,
                worse=self.worse(metric) or 1,
                draws=self.draws,
                seed=self.seed,
            )
        return self._comparisons[metric]

    @cached_property
    def _controls(self) -> dict[int, list[int]]:
        return controls_of(self.variants)

    @cached_property
    def _comparisons(self) -> dict[str, Comparison]:
        return {}

    def rows(self, metric: str) -> Iterator[dict[str, Any]]:
        """Rows of ``schema`` of one metric, a row a variant."""
        found = self.comparison(metric)
        for i, variant in enumerate(self.variants):
            yield {
                "metric": metric,
                **self.about,
                **compared_row(variant, found, i, gated=bool(self.worse(metric))),
                "reason": self.reason(metric, i) or self._no_control(i),
            }

    def _no_control(self, variant: int) -> str:
        """Why a variant has no control where others have some, else ""."""
        if not self._controls or variant in self._controls:
            return ""
        ablated = self.variants[variant].role == "ablated"
        return "every control shares a dimension with it" if ablated else ""

    def cautions(self) -> Sequence[str]:
        """What intervals and controls rest on."""
        return [*self._few_documents(), *self._few_controls()]

    def _few_documents(self) -> list[str]:
        documents, said = self.about["documents"], []
        if documents < 2:
            said.append("There is one document only: no interval can be given.")
        else:
            said += few_documents(documents)
        return said

    def _few_controls(self) -> list[str]:
        said = []
        few = min((len(of_it) for of_it in self._controls.values()), default=None)
        ablated = [variant.role for variant in self.variants].count("ablated")
        alone = ablated - len(self._controls)
        if ablated and few is None:
            said.append("There are no controls: what random dimensions would do is not known.")
        elif alone:
            have = "has" if alone == 1 else "have"
            said.append(
                f"{counted(alone, 'variant')} of {ablated:,} {have} no control, since each "
                "that was drawn shares a dimension with it: give more --controls."
            )
        if few is not None and few < _FEW_CONTROLS:
            say = "says" if few == 1 else "say"
            said.append(
                f"{counted(few, 'control')} {say} little of what other dimensions would do."
            )
        return said

    def harm_in_words(self, variant: int, *, beside: bool = True) -> str:
        """What a variant does and, ``beside`` them, its controls."""
        found = self.comparison(self.leading)
        harm = estimate(found.difference, variant)
        verb = "raises" if not harm.value < 0 else "changes"
        said = f"{self.variants[variant].label}: {verb} {self.noun} by {harm.words()}"
        said += f", to {number(float(found.value.value[variant]), 2)}"
        if not beside or np.isnan(found.control[variant]):
            return f"{said}."
        controls = [self.variants[i] for i in self._controls[variant]]
        change = number(float(found.control[variant]), 3)
        mean = f"changes it by {change}"
        if len(controls) > 1:
            size = number(float(found.size[variant]), 3)
            mean = f"change it by {change} on average, {size} in size"
        said += (
            f"; {others(controls)} {mean}, which leaves "
            f"{estimate(found.beyond, variant).words()}"
            f"{gate_in_words(found.gate[variant], float(found.q[variant]), self.floor(variant))}"
        )
        times = found.times[variant]
        return said + (f" ({significant(float(times))} times)." if np.isfinite(times) else ".")

    def floor(self, variant: int) -> str:
        """Why the q of a variant cannot be smaller, in words; "" where it could."""
        found = self.comparison(self.leading)
        if not found.at_least_p(variant):
            return ""
        documents = counted(self.about["documents"], self.drawn)
        return f"no p of {documents} is below {p_value(found.least)}"


def estimate(interval: Interval, i: int) -> Estimate:
    """Value ``i`` of an interval and its ends."""
    return Estimate(interval.value[i], interval.low[i], interval.high[i])


def compared_row(
    variant: Variant, found: Comparison, i: int, *, gated: bool = True
) -> dict[str, Any]:
    """The columns of `outdim.analysis.table.EVALUATION` that say what variant ``i`` is and does.

    Args:
        variant: Number i of those compared.
        found: The comparison.
        i: 0 for the intact model, whose difference is null.
        gated: Whether more of the metric is worse or better, so that there is harm.
    """
    return {
        **variant_row(variant),
        "value": float(found.value.value[i]),
        "low": or_null(found.value.low[i]),
        "high": or_null(found.value.high[i]),
        **(ends("difference", found.difference, i) if i else {}),
        **ends("beyond", found.beyond, i),
        "control": or_null(found.control[i]),
        "times": or_null(found.times[i]) if gated else None,
        "gate": found.gate[i] if gated else None,
        "p": or_null(found.p[i]),
        "q": or_null(found.q[i]),
        "family": or_null(found.family[i]),
    }


def variant_row(variant: Variant) -> dict[str, Any]:
    """The columns that say what a variant is."""
    ablation = variant.ablation
    dose = ablation.value if ablation is not None and ablation.mode == "scale" else None
    return {
        "variant": variant.label,
        "role": variant.role,
        "group": variant.group,
        "dims": None if ablation is None else list(ablation.all_dims),
        "layers": ablation and ablation.layers and list(ablation.layers),
        "at": ablation and ablation.at,
        "mode": ablation and ablation.mode,
        "dose": dose if isinstance(dose, int | float) else None,
    }


def others(controls: Sequence[Variant]) -> str:
    """Controls of one kind in words, such as "10 sets of 2 other dimensions".

    >>> from outdim import Ablation
    >>> others([Variant("control", Ablation([n])) for n in range(10)])
    '10 other dimensions, each alone,'
    >>> others([Variant("control", Ablation([3, 4]))])
    '1 set of 2 other dimensions'
    >>> others([Variant("control", Ablation([[3], [4]], [1, 2]), 0)] * 2)
    '2 sets of other dimensions, others in each layer,'
    """
    sets, first = counted(len(controls), "set"), controls[0].ablation
    if first is not None and first.by_layer:
        return f"{sets} of other dimensions, others in each layer,"
    if controls[0].size > 1:
        return f"{sets} of {controls[0].size} other dimensions"
    alone = ", each alone," if len(controls) > 1 else ""
    return f"{counted(len(controls), 'other dimension')}{alone}"


def ends(name: str, interval: Interval, i: int | tuple[int, ...]) -> dict[str, float | None]:
    """Value ``i`` of an interval and its ends, as columns."""
    parts = {"": interval.value, "_low": interval.low, "_high": interval.high}
    return {f"{name}{end}": or_null(values[i]) for end, values in parts.items()}


def or_null(value: float) -> float | None:
    """Null for NaN."""
    return None if np.isnan(value) else float(value)
