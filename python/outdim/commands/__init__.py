"""The commands: name -> what it is about and where it is, loaded when used.

Every step of the analysis (`outdim.analysis.registry`) is a command as well.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

_COMMANDS = {
    "analyze": ("Run all steps that observe a model, in one forward.", "step:Analyze"),
    "recorrelate": (
        "Correlate what a run kept with other token frequencies, without the model.",
        "recorrelate:Recorrelate",
    ),
    "compare": ("Compare two token counts.", "compare:Compare"),
    "report": ("Write the HTML report of a run.", "tools:Report"),
    "demo": ("Run everything on a small real model, with nothing to download.", "tools:Demo"),
    "doctor": ("Say what is there, what is missing, and what to do.", "tools:Doctor"),
    "bench": ("Measure the kernels against torch and this machine's memory.", "tools:Bench"),
}


class Command(Protocol):
    """A command of the command line."""

    def options(self) -> Mapping[str, Sequence[type]]:
        """Frozen dataclasses of options by prefix; those under "" have none.

        A field with the metadata ``positional`` (its name in the usage) is given without a flag.
        """

    def run(self, given: Mapping[type, Any]) -> Path | str | None:
        """Do it, with one object of each of the dataclasses; return what is printed on stdout."""


@dataclass(frozen=True)
class Listed:
    """A command by name.

    Attributes:
        about: What it does, in a sentence.
        target: ``module:Class``; a step becomes a command of its own.
    """

    about: str
    target: str

    def load(self) -> Command:
        """Import it."""
        module, _, attribute = self.target.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if hasattr(found, "merge"):  # a step
            from outdim.commands.step import StepCommand

            return StepCommand(found)
        command: Command = found()
        return command


def commands() -> dict[str, Listed]:
    """Every command, the steps first."""
    from outdim.analysis.registry import steps

    listed = {name: Listed(about, target) for name, (about, target) in steps().items()}
    own = {
        name: Listed(about, f"outdim.commands.{target}")
        for name, (about, target) in _COMMANDS.items()
    }
    return {**listed, **own}
