"""Steps as commands: ``outdim <step>`` for one, ``outdim analyze`` for all that observe a model."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from outdim.analysis.input_options import GROUPS
from outdim.analysis.registry import step_class, steps, usable
from outdim.analysis.step import Observer, Step
from outdim.commands import spoken
from outdim.errors import ArgumentError
from outdim.run.share import SpreadOptions


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where results go.

    Args:
        output: Run directory: new, empty, or one of the same model and text, which then goes on.
    """

    output: Path = field(metadata={"example": "runs/new"})


@dataclass(frozen=True, kw_only=True)
class AnalyzeOptions:
    """What is run in one forward.

    Args:
        steps: Names of steps; none takes all that observe any model.
    """

    steps: list[str] | None = None


class StepCommand:
    """One step, with those it needs and wants; their options have the step's name as prefix."""

    def __init__(self, step: type[Step]) -> None:
        self._step = step

    def options(self) -> dict[str, list[type]]:
        """Its own options and those of what it reads have no prefix."""
        own = [*_reads([self._step]), self._step.Options, OutputOptions, SpreadOptions]
        return {"": own, **_options_of(_told(self._step))}

    def run(self, given: Mapping[type, Any]) -> Path | None:
        """Run it and write the report."""
        own = given[self._step.Options]
        return _run(spoken(self._step.name), {self._step.name: own}, [self._step], given)


class Analyze:
    """All observing steps in one forward."""

    def options(self) -> dict[str, list[type]]:
        """The options of every step have its name as prefix."""
        observing = _observing()
        around = [other for step in observing for other in (*_told(step), step)]
        return {
            "": [AnalyzeOptions, *_reads(observing), OutputOptions, SpreadOptions],
            **_options_of(around),
        }

    def run(self, given: Mapping[type, Any]) -> Path | None:
        """Run them and write the report."""
        names = given[AnalyzeOptions].steps or [
            step.name for step in _observing() if step.by_default
        ]
        chosen = [step_class(name) for name in names]
        if others := [step.name for step in chosen if not issubclass(step, Observer)]:
            raise ArgumentError(
                f"steps: expected steps that observe a model, got {', '.join(others)}, which are "
                "commands of their own."
            )
        return _run("analyze", {s.name: given[s.Options] for s in chosen}, chosen, given)


def _run(
    command: str, options: dict[str, Any], chosen: Sequence[type[Step]], given: Mapping[type, Any]
) -> Path | None:
    from outdim.run.execute import execute
    from outdim.run.plan import Study
    from outdim.run.request import Request

    there = Study(given[OutputOptions].output).entries()
    around = {other.name: given[other.Options] for step in chosen for other in _told(step)}
    run = execute(
        Request(
            command=command,
            output=given[OutputOptions].output,
            steps=options,
            reads=[given[kind] for kind in _reads(chosen)],
            spread=given[SpreadOptions],
            others=around,
        )
    )
    if run is not None:
        new = [name for name in Study(run).entries() if name not in there]
        report(Found(run, list(options), new))
    return run


class Found(NamedTuple):
    """What a command added to a run.

    Attributes:
        run: Its directory.
        steps: What the command is of; None: all that the run holds.
        new: The steps that the run did not hold before.
    """

    run: Path
    steps: Sequence[str] | None = None
    new: Sequence[str] = ()


def report(found: Found) -> None:
    """Write the report, and say on stderr what the steps found, briefly what else is new."""
    from outdim.report import summary, terminal_width, write_report

    run, steps, new = found
    write_report(run)
    print(summary(run, terminal_width(sys.stderr), steps=steps, briefly=new), file=sys.stderr)


def _observing() -> list[type[Observer]]:
    classes = [step for name in steps() if (step := usable(name)) is not None]
    return [step for step in classes if issubclass(step, Observer)]


def _around(step: type[Step]) -> list[type[Step]]:
    """The steps it needs and wants, and those that they need."""
    found: dict[str, type[Step]] = {}
    for name in (*step.needs, *step.wants):
        other = step_class(name)
        found |= {s.name: s for s in (*_around(other), other)}
    return list(found.values())


def _told(step: type[Step]) -> list[type[Step]]:
    """Those of them that have options to be told."""
    lent = [name for name in step.needs if step.lends(step_class(name))]
    return [other for other in _around(step) if other.name not in lent]


def _reads(chosen: Sequence[type[Step]]) -> list[type]:
    everything = {kind for step in chosen for s in (step, *_around(step)) for kind in s.reads}
    return [kind for kind in GROUPS if kind in everything]


def _options_of(chosen: Sequence[type[Step]]) -> dict[str, list[type]]:
    return {step.name.replace("-", "_"): [step.Options] for step in chosen}
