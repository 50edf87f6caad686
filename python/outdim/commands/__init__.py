"""The commands: name -> what it is about and where it is, loaded when used.

Every step of the analysis (`outdim.analysis.registry`) is a command as well. One whose name begins
with that of a group, as ``evaluate-lm``, is the member ``lm`` of it: ``outdim evaluate lm``.
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
    "evaluate-glue": (
        "Evaluate a classifier on a task of GLUE or a labelled file, fine-tuned first if asked.",
        "glue:EvaluateGlue",
    ),
    "compare": ("Compare two token counts.", "compare:Compare"),
    "report": ("Write the HTML report of a run.", "tools:Report"),
    "demo": ("Run everything on a small real model, with nothing to download.", "tools:Demo"),
    "doctor": ("Say what is there, what is missing, and what to do.", "tools:Doctor"),
    "bench": ("Measure the kernels against torch and this machine's memory.", "tools:Bench"),
}

_GROUPS = {
    "evaluate": "Disable dimensions of a model and say what breaks, beside random ones.",
    "greedy": "Choose dimensions one by one that together break a model, or spare it.",
    "predictions": "Say which tokens a model predicts, intact, ablated, and beside random ones.",
    "screen": "Score every dimension of a model by one backward pass.",
    "sweep": "Disable every dimension of a model in turn and say which break it.",
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
        target: ``module:Class``, or the name of a step, which becomes a command of its own.
    """

    about: str
    target: str

    def load(self) -> Command:
        """Import it."""
        module, _, attribute = self.target.partition(":")
        if not attribute:
            from outdim.analysis.registry import step_class
            from outdim.commands.step import StepCommand

            return StepCommand(step_class(self.target))
        command: Command = getattr(importlib.import_module(module), attribute)()
        return command


@dataclass(frozen=True)
class Group:
    """Commands under a common name.

    Attributes:
        about: What they do, in a sentence.
        members: By the word that follows the name.
    """

    about: str
    members: Mapping[str, Listed]


def commands() -> dict[str, Listed | Group]:
    """Every command and group of commands, the steps first."""
    from outdim.analysis.registry import steps

    listed = {name: Listed(about, name) for name, (about, _) in steps().items()}
    for name, (about, target) in _COMMANDS.items():
        listed[name] = Listed(about, f"outdim.commands.{target}")
    found: dict[str, Listed | Group] = {}
    for name, command in listed.items():
        group, _, member = name.partition("-")
        if group in _GROUPS and member:
            inside = found.get(group, Group(_GROUPS[group], {}))
            assert isinstance(inside, Group)
            found[group] = Group(inside.about, {**inside.members, member: command})
        elif name not in _GROUPS:  # which no step of another package may take the place of
            found[name] = command
    return found


def find(
    known: Mapping[str, Listed | Group], words: Sequence[str]
) -> tuple[list[str], Listed | None]:
    """Those of the first words that name a command or a group, and the command that they name."""
    named: list[str] = []
    for word in words:
        found = known.get(word)
        if found is None:
            break
        named.append(word)
        if isinstance(found, Listed):
            return named, found
        known = found.members
    return named, None


def spoken(name: str) -> str:
    """A command as it is given: the name of a group is a word of its own.

    Example:
        >>> spoken("evaluate-lm"), spoken("norm-share")
        ('evaluate lm', 'norm-share')
    """
    group, _, member = name.partition("-")
    return f"{group} {member}" if group in _GROUPS and member else name
