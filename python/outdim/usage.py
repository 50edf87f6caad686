"""What is said of a command line that cannot be understood: what was expected, and what came."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

from jsonargparse import ArgumentParser

_VALUE = re.compile(r'Parser key "([\w.]+)"(?: element \d+)?:.*?(?:Got|Given) value: (.*)', re.S)
_NO_VALUE = re.compile(r"argument (--\w+)/--no_\w+: ignored explicit argument (.*)")
_NO_COMMAND = re.compile(r"argument \S+: invalid choice: '(.*)' \(choose from (.*)\)", re.S)
_PYTHON = re.compile(r"\b(\w+)=(?:'(\w+)'|(\d+))")
_NO_YAML = re.compile(r"(Problems parsing|Unexpected) config: (.*)", re.S)
# Commands of the same last word read models of one kind, small ones of which everybody knows.
_MODELS = {"lm": "gpt2", "glue": "textattack/bert-base-uncased-SST-2"}
# What is likely meant where a command has no such option: names of models for names of tokenizers.
_MEANT = {"model": "tokenizer", "tokenizer": "model"}
_KINDS = {int: "a whole number", float: "a number"}


class Parser(ArgumentParser):
    """A parser that says what is amiss in the words of the usage.

    Attributes:
        named: The parser of the command that was named, to which the one above all leaves it.
        words: The words that named it.
        fields: Of the options of its command, with their types, by the names they are given by.
    """

    named: Parser | None = None
    words: Sequence[str] = ()
    fields: Mapping[str, tuple[Any, Any]] = {}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say it with the usage of the command, and exit with 2."""
        own = ".".join([*self.words, ""])
        message = message.replace(f'"{own}subcommand"', "COMMAND")
        if self.named is None or hasattr(ex, "subcommand_parser"):
            super().error(_plainly(message, self.fields), ex)
        if "are required" in message:
            message = message.replace(own, "")
        self.named.error(message, ex)


def fields_of(options: Mapping[str, Sequence[type]]) -> dict[str, tuple[Any, Any]]:
    """The fields of dataclasses of options by prefix, and their types, by the names of flags."""
    return {
        f"{prefix}.{field.name}" if prefix else field.name: (field, types[field.name])
        for prefix, kinds in options.items()
        for kind in kinds
        for types in [typing.get_type_hints(kind)]
        for field in dataclasses.fields(kind)
    }


def required_of(fields: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """The fields that have to be given.

    Without a default, positional, or those that another one, which is not there, would stand for.
    """
    return {
        name: field
        for name, (field, _) in fields.items()
        if _is_positional(field)
        or field.default is field.default_factory is dataclasses.MISSING
        or field.metadata.get("unless", name) not in fields
    }


def usage(command: Sequence[str], required: Mapping[str, Any], group: bool = False) -> str:
    """A command with what it requires, and one that may be given as it stands."""
    if group:
        return " ".join([*command, "COMMAND"])
    names = {name: field.name.upper() for name, field in required.items()}
    values = {name: field.metadata.get("example", names[name]) for name, field in required.items()}
    if "model" in values:
        values["model"] = _MODELS.get(command[-1], values["model"])
    names |= {n: f.metadata["positional"] for n, f in required.items() if _is_positional(f)}
    example = f"\nexample: {_given(command, required, values)}" if required else ""
    return f"{_given(command, required, names)} [options]{example}"


def _given(command: Sequence[str], required: Mapping[str, Any], values: Mapping[str, str]) -> str:
    """A command with values of what it requires."""
    words = [values[name] for name, field in required.items() if _is_positional(field)]
    flags = [f"--{n} {values[n]}" for n, field in required.items() if not _is_positional(field)]
    return " ".join([*command, *words, *flags])


def _is_positional(field: Any) -> bool:
    return "positional" in field.metadata


def _plainly(message: str, fields: Mapping[str, tuple[Any, Any]]) -> str:
    """A message of jsonargparse in the words of the usage."""
    if "are required" in message:
        said, _, keys = message.partition(": ")
        names = [_in_usage(key, fields) for key in keys.split(", ")]
        return f"{said}: {', '.join(sorted(names, key=lambda name: name.startswith('--')))}"
    if found := _VALUE.match(message):
        name, given = found.groups()
        if name in fields and (expected := _expected(fields[name][1])):
            return f"{name.replace('_', '-')}: expected {expected}; got {given!r}"
    if found := _NO_VALUE.match(message):
        return f"{found[1]}: expected no value, got {found[2]}; --no- before its name says no"
    if found := _NO_COMMAND.match(message):
        known = re.findall(r"'([^']+)'", found[2])
        near = _did_you_mean(difflib.get_close_matches(found[1], known, 1))
        return f"there is no {found[1]!r}{near}; expected {', '.join(known)}"
    if message.startswith("unrecognized arguments: "):
        return _unrecognized(message, fields)
    if found := _NO_YAML.match(message):
        got = repr(found[2].strip()) if found[1] == "Unexpected" else f"YAML amiss: {found[2]}"
        return f"config: expected a file of YAML with lines such as seed: 1; got {got}"
    return message


def in_usage(message: str, fields: Mapping[str, tuple[Any, Any]]) -> str:
    """An error that Python gets as well, in the words of a command line.

    >>> @dataclasses.dataclass
    ... class Options:
    ...     source: str = dataclasses.field(metadata={"positional": "TEXT"})
    ...     on_error: str = "fail"
    >>> in_usage("source: leave it out with on_error='skip'", fields_of({"": [Options]}))
    'TEXT: leave it out with --on-error skip'
    """
    name, colon, rest = message.partition(":")
    if name in fields and _is_positional(fields[name][0]):
        message = f"{fields[name][0].metadata['positional']}{colon}{rest}"
    return _PYTHON.sub(
        lambda at: f"--{at[1].replace('_', '-')} {at[2] or at[3]}" if at[1] in fields else at[0],
        message,
    )


def _unrecognized(message: str, fields: Mapping[str, tuple[Any, Any]]) -> str:
    """The same, with the options that are likely meant."""
    known = [*(name for name, (field, _) in fields.items() if not _is_positional(field)), "config"]
    near = []
    for given in re.findall(r"--([\w.]+)", message):
        if _MEANT.get(given) in known:
            near.append(_MEANT[given])
        else:
            near += difflib.get_close_matches(given, known, 1)
    words = re.sub(r"--[\w.]+", lambda option: option[0].replace("_", "-"), message)
    return words + _did_you_mean([f"--{name.replace('_', '-')}" for name in dict.fromkeys(near)])


def _did_you_mean(near: Sequence[str]) -> str:
    return f"; did you mean {', '.join(near)}?" if near else ""


def _in_usage(name: str, fields: Mapping[str, tuple[Any, Any]]) -> str:
    metadata = fields[name][0].metadata if name in fields else {}
    return str(metadata.get("positional", f"--{name.removeprefix('--')}"))


def _expected(hint: Any) -> str | None:
    """A type for people; of a list, that of an element; None where there are no words for it."""
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    inner = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return _expected(inner[0]) if len(inner) == 1 else _KINDS.get(hint)
