"""The plan of a study: a log of steps, each planned once and never changed.

What a command adds is one file, ``plan/0.json``, ``plan/1.json``, ... A process adds by creating
the next number, which only one process can: whoever did it has seen all that was there before, so
that of two commands that race in one directory with different options exactly one wins, on any file
system, without locks. All steps of a command are added at once, or none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from outdim.analysis.input_options import SHARED, option_names
from outdim.analysis.registry import usable
from outdim.errors import DataError, ResumeError
from outdim.files import canonical_json, create, digest, json_bytes, read_json

FORMAT = 4  # of states as well: what they mean changed with it
PLAN = "plan"

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
        root = digest([FORMAT, self.step, options, inputs])
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
    def from_json(cls, value: Mapping[str, Any]) -> Entry:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError: It is no entry.
        """
        lists = {name: tuple(value[name]) for name in ("work", "presentation")}
        return cls(**{**value, **lists})


@dataclass(frozen=True)
class Record:
    """What one command added to the plan.

    Attributes:
        path: Where it stands.
        entries: Of the steps that were not there yet.
    """

    path: Path
    entries: tuple[Entry, ...]


class Study:
    """The steps planned in a run directory, in the order in which they were added.

    Attributes:
        run: The run directory.
        added: What this object added.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.added: Record | None = None
        self._entries: dict[str, Entry] = {}
        self._records = 0

    def entries(self) -> dict[str, Entry]:
        """All entries by step.

        Raises:
            DataError: The plan is damaged.
            ResumeError: Another version of outdim wrote it.
        """
        while (path := self._path(self._records)).exists():
            self._take(_read(path))
        return dict(self._entries)

    def __getitem__(self, step: str) -> Entry:
        try:
            return self.entries()[step]
        except KeyError as error:
            raise DataError(f"{self.run} holds no step {step!r}.") from error

    def add(self, entries: Sequence[Entry]) -> None:
        """Add the entries that are not there, all or none; check that the others are the same.

        Raises:
            ResumeError: The directory holds a step with other options, or steps about another
                model, tokenizer or text; the message shows the difference.
        """
        while True:
            known = self.entries()
            new = tuple(entry for entry in entries if entry.step not in known)
            for entry in entries:
                if entry.step in known:
                    _check(self.run, known[entry.step].to_json(), entry.to_json())
                for other in known.values():
                    _check(self.run, shared_part(other, entry), shared_part(entry, other))
            record = Record(self._path(self._records), new)
            record.path.parent.mkdir(exist_ok=True)
            if not new:
                return
            content = {"format": FORMAT, "entries": [entry.to_json() for entry in new]}
            if create(record.path, json_bytes(content)):
                self.added = record
                self._take(record)
                return

    def last(self) -> Path | None:
        """The record that was added last, by whomever."""
        self.entries()
        return self._path(self._records - 1) if self._records else None

    def _take(self, record: Record) -> None:
        self._entries |= {entry.step: entry for entry in record.entries}
        self._records += 1

    def _path(self, number: int) -> Path:
        return self.run / PLAN / f"{number}.json"


def check_reads(run: Path, there: Mapping[str, Entry], options: Mapping[str, Any]) -> None:
    """Refuse another model, tokenizer or text before anything is computed for a plan.

    Args:
        run: Directory of the study.
        there: Its entries.
        options: What is to be read, resolved.

    Raises:
        ResumeError: The entries are about something else.
    """
    given = json.loads(canonical_json(options))
    for other in there.values():
        names = [name for name in _shared_names() if name in given and name in other.options]
        old, new = ({"options": {n: of[n] for n in names}} for of in (other.options, given))
        _check(run, old, new)


def _check(run: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    if old == new:
        return
    found = differences(_told(old), _told(new))
    found = found or differences({**old, "work": None}, {**new, "work": None})
    raise ResumeError(
        f"{run} holds a run of {_what_else(old, new)}, and continuing it would mix the two. "
        f"{'; '.join(found or differences(old, new))}. Give the options and inputs of that run, or "
        "name a new directory."
    )


def _read(path: Path) -> Record:
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise ResumeError(
            f"{path} has format {content.get('format')!r}, this version of outdim writes "
            f"{FORMAT}: start a new run directory."
        )
    try:
        return Record(path, tuple(map(Entry.from_json, content["entries"])))
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: it is no part of a plan ({error}).") from error


def shared_part(entry: Entry, other: Entry) -> dict[str, Any]:
    """What ``entry`` says of the model, tokenizer and text that ``other`` speaks of as well."""
    return {
        "options": {
            name: entry.options[name]
            for name in _shared_names()
            if name in entry.options and name in other.options
        },
        "inputs": {
            name: entry.inputs[name]
            for name in ("files", "tokenizer", "model")
            if name in entry.inputs and name in other.inputs
        },
        "attached": {
            name: checksum
            for name, checksum in entry.inputs.get("attached", {}).items()
            if name in other.inputs.get("attached", {})
        },
    }


def _shared_names() -> list[str]:
    """Options in which the steps of a study agree."""
    return [name for kind in SHARED for name in option_names(kind) if name not in _FREE]


def _told(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options of an entry that a user may tell, not what was made of them."""
    names, cls = _shared_names(), usable(entry.get("step", ""))
    kinds = () if cls is None else (cls.Options, *cls.reads)
    names += [name for kind in kinds for name in option_names(kind) if name not in _FREE]
    return {"options": {name: entry["options"][name] for name in names if name in entry["options"]}}


_ELSE = {
    "model": "another model",
    "dtype": "its model in another dtype",
    "source": "another text",
}


def _what_else(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs first of all, in a user's words."""
    hashes = [one.get("inputs", {}).get("model") for one in (old, new)]
    same_model = None not in hashes and hashes[0] == hashes[1]
    for name, said in _ELSE.items():
        there, here = (one.get("options", {}).get(name) for one in (old, new))
        if there != here and not (same_model and name == "model"):
            there, here = (" ".join(one) if isinstance(one, list) else one for one in (there, here))
            return f"{said} ({there or 'its own'} there, {here or 'its own'} here)"
    if None in hashes or same_model:
        return "something else"
    return f"another model ({new['options'].get('model')} has other weights now)"


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
