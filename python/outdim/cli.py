"""The command line: options from dataclasses, results on stdout, messages on stderr."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import docstring_parser
from jsonargparse import SUPPRESS, ActionYesNo, ArgumentParser, Namespace

from outdim import __version__
from outdim.commands import Command, commands
from outdim.errors import Interrupted, OutdimError
from outdim.text import visible

_EPILOG = (
    "--min-chars and --min_chars are the same. "
    "Exit codes: 0 done, 2 usage, 3 data or environment, 4 partial (some shards are missing), "
    "5 the run directory belongs to another run, 130/143 interrupted and resumable."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _let_any_name_through()
    arguments = [_underscored(argument) for argument in (sys.argv[1:] if argv is None else argv)]
    known = commands()
    chosen = next((word for word in arguments if not word.startswith("-")), "")
    command = known[chosen].load() if chosen in known else None
    parser = _parser({name: listed.about for name, listed in known.items()}, chosen, command)
    config = parser.parse_args(arguments)  # leaves with exit code 2 and the usage when it cannot
    assert command is not None
    try:
        _print(command.run(_given(command, config[chosen])))
    except Exception as error:
        code, message = _explain(error)
        if message is None:
            raise
        if message:
            print(f"outdim {chosen}: {visible(message, keep=chr(10))}", file=sys.stderr)
        return code
    except KeyboardInterrupt:  # before there was anything to resume
        print(f"outdim {chosen}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _explain(error: Exception) -> tuple[int, str | None]:
    """Exit code and message of an error; no message for one that is a fault of outdim's own."""
    if isinstance(error, Interrupted):
        said = "; ".join([str(error), *getattr(error, "__notes__", ())])
        return error.exit_code, f"{said}; give the same command again to go on"
    if isinstance(error, OutdimError):
        return error.exit_code, str(error)
    if isinstance(error, BrokenPipeError):  # the reader of stdout left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more
        return 0, ""
    if isinstance(error, MemoryError):
        return OutdimError.exit_code, f"out of memory ({error})"
    if isinstance(error, OSError):  # no permission, an unreadable disk
        return OutdimError.exit_code, str(error)
    return 1, None


def _print(result: Any) -> None:
    if result is not None:
        print(result)
        sys.stdout.flush()  # here, where a reader that left can still be told from an error


def _let_any_name_through() -> None:
    """Names of files need not be text; messages may quote them."""
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def _parser(known: Mapping[str, str], chosen: str, command: Command | None) -> ArgumentParser:
    """The parser; only the command that is run has arguments, for to know them is to load it."""
    parser = ArgumentParser(
        prog="outdim",
        description="Find, explain and test the outlier dimensions of Transformers.",
        epilog=_EPILOG,
        version=__version__,
    )
    subcommands = parser.add_subcommands(required=True, metavar="COMMAND")
    for name, about in known.items():
        options = command.options() if command is not None and name == chosen else {}
        sub = ArgumentParser(description=about, epilog=_EPILOG, usage=_usage(name, options))
        if options:
            sub.add_argument("--config", action="config", help="YAML file with options")
        for prefix, kinds in options.items():
            for kind in kinds:
                _add_options(sub, kind, prefix)
        subcommands.add_subcommand(name, sub, help=about)
    return parser


def _usage(name: str, options: Mapping[str, Sequence[type]]) -> str:
    words = [f"outdim {name}"]
    required = []
    for field in (f for kind in options.get("", ()) for f in dataclasses.fields(kind)):
        if "positional" in field.metadata:
            words.append(field.metadata["positional"])
        elif _is_required(field):
            required.append(f"--{field.name} {field.name.upper()}")
    return " ".join([*words, *required, "[options]"])


def _is_required(field: Any) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _add_options(parser: ArgumentParser, kind: type, prefix: str) -> None:
    """Flags from a dataclass; lists take several words and booleans are --flag, --no_flag."""
    types = typing.get_type_hints(kind)
    documented = docstring_parser.parse(kind.__doc__ or "").params
    help_of = {parameter.arg_name: parameter.description for parameter in documented}
    dot = f"{prefix}." if prefix else ""
    special = {
        field.name: field
        for field in dataclasses.fields(kind)
        if "positional" in field.metadata
        or types[field.name] is bool
        or typing.get_origin(_bare(types[field.name])) is list
    }
    parser.add_class_arguments(kind, prefix or None, skip=set(special))
    for name, field in special.items():
        about: dict[str, Any] = {"help": help_of.get(name)}
        hint = types[name]
        if "positional" in field.metadata:
            _add_positional(parser, field, hint, about)
        elif hint is bool:
            yes_no = ActionYesNo(yes_prefix="", no_prefix="no_")
            parser.add_argument(f"--{dot}{name}", action=yes_no, default=field.default, **about)
        else:
            (item,) = typing.get_args(_bare(hint))
            many: dict[str, Any] = {"nargs": "+", "type": item}
            parser.add_argument(f"--{dot}{name}", **many, **about)


def _add_positional(parser: ArgumentParser, field: Any, hint: Any, about: dict[str, Any]) -> None:
    metavar = field.metadata["positional"]
    if typing.get_origin(hint) is list:
        # An empty list as default would hide the one of a config file.
        (item,) = typing.get_args(hint)
        parser.add_argument(
            field.name, nargs="*", type=item, default=SUPPRESS, metavar=metavar, **about
        )
    else:
        parser.add_argument(field.name, type=hint, metavar=metavar, **about)


def _bare(hint: Any) -> Any:
    """``X | None`` -> ``X``."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and type(None) in typing.get_args(hint) else hint


def _given(command: Command, config: Namespace) -> dict[type, Any]:
    """One object of each dataclass of options."""
    return {
        kind: _object(kind, config[prefix] if prefix else config)
        for prefix, kinds in command.options().items()
        for kind in kinds
    }


def _object(kind: type, config: Namespace) -> Any:
    """An object of options; where nothing was given a field takes its default."""
    names = [field.name for field in dataclasses.fields(kind)]
    given = {name: config.get(name) for name in names}
    return kind(**{name: value for name, value in given.items() if value is not None})


def _underscored(argument: str) -> str:
    """``--min-chars`` and ``--min_chars`` are the same."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value
