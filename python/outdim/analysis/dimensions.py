"""Dimensions that steps look at: those named, those that stand out, and others beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from outdim.analysis.detect import detect
from outdim.analysis.inputs import Inputs
from outdim.analysis.results.detection import Detection
from outdim.errors import ArgumentError, DataError

_BESIDE = 10  # random ones, so that a rank correlation has something to be read against
_MOST, _NEAREST = 16, 3  # of the outliers, and of what comes next where there is none
_RULE = ("rule", "k", "min_fraction")


def named_dims(name: str, dims: Sequence[int], size: int) -> list[int]:
    """Dimensions that an option names, each once, in order.

    Raises:
        ArgumentError: The model has no such dimension.
    """
    if outside := [dim for dim in dims if not 0 <= dim < size]:
        raise ArgumentError(f"{name}: expected dimensions 0 to {size - 1}, got {outside}.")
    return sorted(set(dims))


def random_dims(size: int, count: int, but: Sequence[int] = ()) -> list[int]:
    """Dimensions to read others against: so many but some, the same ones in every run."""
    order = np.random.default_rng(0).permutation(size)
    found: list[int] = order[~np.isin(order, but)][:count].tolist()
    return found


def random_beside(size: int) -> list[int]:
    """Those that stand by default beside what stands out."""
    return random_dims(size, _BESIDE)


def outliers_by_parameters(inputs: Inputs) -> list[int] | None:
    """The outliers of the model at hand; None where its norms say nothing."""
    found = _detected(inputs, {})
    return None if found is None else list(found.dims)


def default_dims(inputs: Inputs) -> list[int]:
    """What stands out by the rule that was asked for, and ten random dimensions beside it.

    At most 16 outliers, or the three dimensions that are nearest to being one.
    """
    asked = inputs.asked.get("detect", {})
    beside = random_beside(inputs.architecture.hidden_size)
    found = _detected(inputs, {name: asked[name] for name in _RULE if name in asked})
    if found is None:
        return beside
    first = np.argsort(-found.reach, kind="stable")[: min(len(found.dims), _MOST) or _NEAREST]
    return [*first.tolist(), *beside]


def _detected(inputs: Inputs, rule: Mapping[str, Any]) -> Detection | None:
    """What a rule finds in the parameters, once; None where the norms say nothing."""

    def find() -> Detection | None:
        try:
            return detect(inputs.model, permutations=0, found=inputs.architecture, **rule)
        except DataError:
            return None

    return inputs.keep(f"detected by parameters, {dict(rule)}", find)
