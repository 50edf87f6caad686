"""The plan of a study: a log of steps, each planned once and never changed.

Entries are files ``plan/0.json``, ``plan/1.json``, ... A process adds one by creating the next
number, which only one process can: whoever did it has seen every entry before, so that two commands
that race in one directory cannot both win, on any file system, without locks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from outdim.analysis.inputs import SHARED, option_names
from outdim.errors import DataError, ResumeError
from outdim.files import canonical_json, create, digest, json_bytes, read_json

FORMAT = 2

#: Options that may differ between two steps of one study: how the text is cut.
_FREE = ("shard_bytes",)


@dataclass(frozen=True)
class Entry:
    """What one step computes, and from what.

    Attributes:
        step: Its name.
        options: Everything that changes the answer, resolved; not how the work is spread.
        inputs: Hashes: data files, tokenizer, model, attached files, plans of the steps it needs.
        work: The units of its shards, in order.
        presentation: Names of options that do not change a state.
    """

    step: str
    options: Mapping[str, Any]
    inputs: Mapping[str, Any]
    work: tuple[Mapping[str, Any], ...]
    presentation: tuple[str, ...] = ()
    format: int = field(default=FORMAT)

    @cached_property
    def sha256(self) -> str:
        """Identity of the entry."""
        return digest(self.to_json())

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """Identity of each shard: of its unit and of everything that its state depends on.

        A shard of text depends on its own file only: it stays good where others are mended.
        """
        free = {*_FREE, "source", *self.presentation}
        options = {name: value for name, value in self.options.items() if name not in free}
        inputs = dict(self.inputs)
        files = {file["path"]: file for file in inputs.pop("files", ())}
        root = digest([self.format, self.step, options, inputs])
        return tuple(
            digest(
                [root, files.get(unit.get("path")), {k: v for k, v in unit.items() if k != "index"}]
            )
            for unit in self.work
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        value: dict[str, Any] = json.loads(canonical_json(asdict(self)))
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any], place: Path | str = "plan") -> Entry:
        """The inverse of `to_json`.

        Raises:
            ResumeError: Another version of outdim wrote it.
            DataError: It is no entry.
        """
        if value.get("format") != FORMAT:
            raise ResumeError(
                f"{place} has format {value.get('format')!r}, this version of outdim writes "
                f"{FORMAT}: start a new run directory."
            )
        if set(value) != {part.name for part in fields(cls)}:
            raise DataError(f"{place}: it is no plan of a step.")
        return cls(
            **{**value, "work": tuple(value["work"]), "presentation": tuple(value["presentation"])}
        )


class Study:
    """The steps planned in a run directory, in the order in which they were added."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._entries: list[Entry] = []
        self.created: list[Path] = []  # entries that this process added

    def entries(self) -> dict[str, Entry]:
        """All entries by step.

        Raises:
            DataError: One is damaged.
        """
        while (path := self._path(len(self._entries))).exists():
            self._entries.append(Entry.from_json(read_json(path), path))
        return {entry.step: entry for entry in self._entries}

    def __getitem__(self, step: str) -> Entry:
        try:
            return self.entries()[step]
        except KeyError as error:
            raise DataError(f"{self.run} holds no step {step!r}.") from error

    def add(self, entry: Entry) -> None:
        """Add an entry, or check that the one there is the same.

        Raises:
            ResumeError: The directory holds the step with other options, or steps about another
                model, tokenizer or text; the message shows the difference.
        """
        while True:
            known = self.entries()
            if entry.step in known:
                self._check(known[entry.step].to_json(), entry.to_json())
                return
            for other in known.values():
                self._check(shared_part(other, entry), shared_part(entry, other))
            path = self._path(len(self._entries))
            path.parent.mkdir(exist_ok=True)
            if create(path, json_bytes(entry.to_json())):
                self.created.append(path)
                self._entries.append(entry)
                return

    def _path(self, number: int) -> Path:
        return self.run / "plan" / f"{number}.json"

    def _check(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        if old == new:
            return
        found = differences({**old, "work": None}, {**new, "work": None})
        raise ResumeError(
            f"{self.run} holds a run of something else, and continuing it would mix the two. "
            f"{'; '.join(found or differences(old, new))}. Give the options and inputs of that "
            "run, or name a new directory."
        )


def shared_part(entry: Entry, other: Entry) -> dict[str, Any]:
    """What ``entry`` says of the model, tokenizer and text that ``other`` speaks of as well."""
    names = [name for kind in SHARED for name in option_names(kind) if name not in _FREE]
    return {
        "options": {
            name: entry.options[name]
            for name in names
            if name in entry.options and name in other.options
        },
        "inputs": {
            name: entry.inputs[name]
            for name in ("files", "tokenizer", "model")
            if name in entry.inputs and name in other.inputs
        },
    }


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Which leaves differ, as 'name: old -> new' (at most a handful)."""
    found = list(_differences(old, new, name))
    return found if len(found) <= 6 else [*found[:6], f"and {len(found) - 6} more"]


def _differences(old: Any, new: Any, name: str) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted({*old, *new}, key=lambda key: (key not in ("options", "source"), key))
        for key in keys:
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from _differences(left, right, f"{name}[{index}]")
    else:
        yield f"{name}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"{len(value)} entries"
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:28] + "..." + text[-28:]
