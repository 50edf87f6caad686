"""Variants that were compared: their rows in tables, and the words that both evaluations use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from outdim.analysis.variants import Variant
from outdim.stats.paired import Comparison, Gate, Interval
from outdim.text import counted

#: What a sentence about a variant and its controls ends with.
GATES: dict[Gate | None, str] = {
    None: "",
    "passed": ", surely more than five times the size of such a change",
    "failed": ", surely less than five times the size of such a change",
    "undecided": "; whether that is five times the size of such a change is open",
}


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
        "low": _or_null(found.value.low[i]),
        "high": _or_null(found.value.high[i]),
        **(ends("difference", found.difference, i) if i else {}),
        **ends("beyond", found.beyond, i),
        "control": _or_null(found.control[i]),
        "times": _or_null(found.times[i]) if gated else None,
        "gate": found.gate[i] if gated else None,
        "p": _or_null(found.p[i]),
        "q": _or_null(found.q[i]),
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
    return {f"{name}{end}": _or_null(values[i]) for end, values in parts.items()}


def _or_null(value: float) -> float | None:
    """Null for NaN."""
    return None if np.isnan(value) else float(value)
