"""A step that reads the first tokens of a text, so that something can be chosen from them."""

from __future__ import annotations

from typing import TypeVar

from outdim.analysis.step import Observer

Step = TypeVar("Step", bound=Observer)

#: How many tokens are read, and what is left of the batch under way.
PROBED_TOKENS = 2048


class _Enough(Exception):  # noqa: N818 (it ends a probe, and is no error)
    """The probe has read what it needs."""


def read_first(step: Step) -> Step:
    """Let a step read the first `PROBED_TOKENS` tokens of its text, to the end of their batch."""
    tokens = 0

    def progress(more: int) -> None:
        nonlocal tokens
        tokens += more
        if tokens >= PROBED_TOKENS:
            raise _Enough

    try:
        for unit in type(step).work(step.recorded, step.inputs):
            step.inputs.forward.run([step], unit, progress)
    except _Enough:
        pass
    return step
