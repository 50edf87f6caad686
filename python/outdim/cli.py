"""The command line: options from dataclasses, results on stdout, messages on stderr."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import docstring_parser
import yaml  # type: ignore[import-untyped]
from jsonargparse import (
    SUPPRESS,
    ActionYesNo,
    ArgumentParser,
    Namespace,
    get_loader,
    set_loader,
)

from outdim import __version__
from outdim.commands import Command, Group, Listed, commands, find
from outdim.errors import Interrupted, OutdimError
from outdim.help import Help, as_typed, metavar
from outdim.text import visible
from outdim.usage import Parser, fields_of, in_usage, required_of, usage

_EPILOG = (
    "Exit codes: 0 done, 2 usage, 3 data or environment, 4 partial (some shards are missing), "
    "5 the run directory belongs to another run, 130/143 interrupted and resumable."
)


_LOAD_YAML = get_loader("yaml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _open_streams()
    arguments = [_underscored(argument) for argument in (sys.argv[1:] if argv is None else argv)]
    known = commands()
    words, listed = find(known, [word for word in arguments if not word.startswith("-")])
    name, command = " ".join(["outdim", *words]), None
    try:
        command = listed.load() if listed else None
        config = _parse(_parser(known, words, command), command, arguments)
        assert command is not None
        for word in words:
            config = config[word]
        _print(command.run(_given(command, config)))
    except Exception as error:
        code, message = _explain(error)
        if message is None:
            raise
        if message:
            message = in_usage(message, fields_of(command.options()) if command else {})
            print(f"{name}: {visible(message, keep=chr(10))}", file=sys.stderr)
        return code
    except KeyboardInterrupt:  # before there was anything to resume
        print(f"{name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _parse(parser: ArgumentParser, command: Command | None, arguments: Sequence[str]) -> Namespace:
    """The options; leaves with exit code 2 and the usage where they cannot be understood."""
    kinds = [kind for kinds in command.options().values() for kind in kinds] if command else []
    hints = [hint for kind in kinds for hint in typing.get_type_hints(kind).items()]
    lists = {name for name, hint in hints if _is_list(hint)}
    set_loader("yaml", lambda text: _listed(_load(text), lists), (yaml.YAMLError,))
    try:
        return parser.parse_args(arguments)
    except UnicodeDecodeError as error:
        parser.error(f"--config: the file is not UTF-8 ({error})")


def _load(text: str) -> Any:
    try:
        return _LOAD_YAML(text)
    except UnicodeEncodeError:  # a name of a file that is not text
        return text


def _listed(value: Any, lists: Collection[str]) -> Any:
    """In YAML, one value may stand for a list of one, as on the command line."""
    if not isinstance(value, dict):
        return value
    return {
        name: [inside]
        if name in lists and isinstance(inside, str | int)
        else _listed(inside, lists)
        for name, inside in value.items()
    }


def _explain(error: Exception) -> tuple[int, str | None]:
    """Exit code and message of an error; no message for one that is a fault of outdim's own."""
    if isinstance(error, Interrupted):
        said = "; ".join([str(error), *getattr(error, "__notes__", ())])
        return error.exit_code, f"{said}; give the same command again to go on"
    if isinstance(error, OutdimError):
        return error.exit_code, str(error)
    if isinstance(error, BrokenPipeError):  # the reader of stdout left, as `head` does
        return 0, ""
    if isinstance(error, MemoryError):
        return OutdimError.exit_code, f"out of memory ({error})"
    if isinstance(error, OSError):  # no permission, an unreadable disk
        return OutdimError.exit_code, str(error)
    return 1, None


def _print(result: Any) -> None:
    """Print here, where a reader that left can still be told from an error."""
    if result is None:
        return
    try:
        print(result, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more when it ends
        raise


def _open_streams() -> None:
    """Messages may quote names of files, which need not be text, and a stream may be closed."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def _parser(
    known: Mapping[str, Listed | Group], chosen: Sequence[str], command: Command | None
) -> Parser:
    """The parser; only the command that is run has arguments, for to know them is to load it."""
    parser = Parser(
        prog="outdim",
        description="Find, explain and test the outlier dimensions of Transformers.",
        epilog=_EPILOG,
        version=__version__,
        formatter_class=Help,
        allow_abbrev=False,  # --mode of another command would be --model here
    )
    parser.words = chosen
    parser.named = _add_commands(parser, known, ["outdim"], chosen, command)
    return parser


def _add_commands(
    parser: ArgumentParser,
    known: Mapping[str, Listed | Group],
    above: Sequence[str],
    chosen: Sequence[str],
    command: Command | None,
) -> Parser | None:
    """Add the commands of a group; ``above`` are the words before them, ``chosen`` those after.

    Returns the parser of the one that is chosen, or of the group that is.
    """
    named = None
    subcommands = parser.add_subcommands(required=True, metavar="COMMAND", prog=" ".join(above))
    for name, listed in known.items():
        words, here = [*above, name], chosen[:1] == [name]
        options = command.options() if command and here and isinstance(listed, Listed) else {}
        fields = fields_of(options)
        required = required_of(fields)
        sub = Parser(
            description=listed.about,
            epilog=_EPILOG,
            usage=usage(words, required, group=isinstance(listed, Group)),
            formatter_class=Help,
            allow_abbrev=False,
        )
        sub.fields = fields
        if options:
            sub.add_argument("--config", action="config", help="YAML file of options, _ for -")
        for prefix, kinds in options.items():
            for kind in kinds:
                _add_options(sub, kind, prefix, required)
        subcommands.add_subcommand(name, sub, help=listed.about)
        named = sub if here else named
        if isinstance(listed, Group):  # whose members come after it, as jsonargparse wants them
            inner = _add_commands(sub, listed.members, words, chosen[1:] if here else (), command)
            named = inner or named
    return named


def _add_options(
    parser: ArgumentParser, kind: type, prefix: str, required: Collection[str]
) -> None:
    """Flags from a dataclass; lists take several words and booleans are --flag, --no_flag.

    (`add_class_arguments` would import all that the module of the class imports for its types.)
    """
    documented = docstring_parser.parse(kind.__doc__ or "")
    help_of = {parameter.arg_name: parameter.description for parameter in documented.params}
    group = parser.add_argument_group((documented.short_description or kind.__name__).rstrip("."))
    types = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, name = types[field.name], f"{prefix}.{field.name}" if prefix else field.name
        said = as_typed(help_of.get(field.name) or "", types, prefix and f"{prefix}.")
        about: dict[str, Any] = {"help": said}
        if "positional" in field.metadata:
            _add_positional(group, field, hint, about)
            continue
        if name in required:
            about["required"] = True
        elif field.default is not dataclasses.MISSING:
            about["default"] = field.default
        if hint is bool:
            about["action"] = ActionYesNo(yes_prefix="", no_prefix="no_")
        elif _is_list(hint):
            about |= {
                "nargs": "*",
                "type": typing.get_args(_bare(hint))[0],
                "metavar": metavar(hint),
            }
        else:
            about |= {"type": hint, "metavar": metavar(hint)}
        group.add_argument(f"--{name}", **about)


def _add_positional(group: Any, field: Any, hint: Any, about: dict[str, Any]) -> None:
    metavar = field.metadata["positional"]
    if _is_list(hint):
        # An empty list as default would hide the one of a config file.
        (item,) = typing.get_args(hint)
        added = group.add_argument(
            field.name, nargs="*", type=item, default=SUPPRESS, metavar=metavar, **about
        )
        added.required = True  # one of a command line or of a config file
    else:
        group.add_argument(field.name, type=hint, metavar=metavar, **about)


def _is_list(hint: Any) -> bool:
    return typing.get_origin(_bare(hint)) is list


def _bare(hint: Any) -> Any:
    """``X | None`` -> ``X``."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and type(None) in typing.get_args(hint) else hint


def _given(command: Command, config: Namespace) -> dict[type, Any]:
    """One object of each dataclass of options; those of a step without any have no prefix there."""
    return {
        kind: _object(kind, config.get(prefix, {}) if prefix else config)
        for prefix, kinds in command.options().items()
        for kind in kinds
    }


def _object(kind: type, config: Namespace | dict[str, Any]) -> Any:
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
