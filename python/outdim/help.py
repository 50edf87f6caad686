"""How ``--help`` is written: names with dashes, values as they are given, no type of Python."""

from __future__ import annotations

import re
import typing
from argparse import SUPPRESS, Action
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from jsonargparse import DefaultHelpFormatter

_METAVARS = {int: "N", float: "X", Path: "PATH"}


class Help(DefaultHelpFormatter):
    """The formatter of every parser."""

    def _get_help_string(self, action: Action) -> str:
        said = action.help or ""
        default = action.default
        if not action.option_strings or default in (None, SUPPRESS, []):
            return said
        if isinstance(default, bool):
            default = "yes" if default else "no"
        elif isinstance(default, list):
            default = " ".join(map(str, default))
        return f"{said} (default: {default})".replace("%", "%%")

    def _format_action_invocation(self, action: Action) -> str:
        said: str = super()._format_action_invocation(action)
        return re.sub(r"--[\w.]+", lambda flag: flag[0].replace("_", "-"), said)


def metavar(hint: Any) -> str | None:
    """What stands for the value of an option; None for its name.

    Example:
        >>> metavar(Literal["fail", "skip"] | None), metavar(list[int]), metavar(str)
        ('{fail,skip}', 'N', None)
    """
    if typing.get_origin(hint) is Literal:
        return f"{{{','.join(map(str, typing.get_args(hint)))}}}"
    inner = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return metavar(inner[0]) if len(inner) == 1 else _METAVARS.get(hint)


def as_typed(said: str, names: Iterable[str], prefix: str = "") -> str:
    """What a docstring says of an option, for one who types it: ``names`` are those beside it.

    Example:
        >>> as_typed("With min_fraction; None takes all.", ["min_fraction"], "detect.")
        'With --detect.min-fraction; none takes all.'
    """
    for name in names:
        if "_" in name:
            said = re.sub(rf"\b{name}\b", f"--{prefix}{name}".replace("_", "-"), said)
    return re.sub(r"\bNone\b", "none", said)
