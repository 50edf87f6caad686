"""The plan of a run: made once, never changed, the same from every process that makes it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from outdim.errors import DataError, ResumeError
from outdim.options import RuleOptions
from outdim.run.files import canonical_json, create, digest, readable_json

FORMAT = 1
RULE_OPTIONS = tuple(field.name for field in dataclasses.fields(RuleOptions))

Stage = Literal["count", "correlate"]


@dataclass(frozen=True)
class Shard:
    """One commit unit: a unit of the corpus, as `outdim.corpus.Unit.to_json` gives it.

    Attributes:
        index: Position in the plan; merging goes by it.
        unit: Plain data that names file and range.
        sha256: Of the unit and of everything its states depend on: one that was computed from
            anything else is not taken for this shard's.
    """

    index: int
    unit: Mapping[str, Any]
    sha256: str


@dataclass(frozen=True)
class Plan:
    """What a run computes, and from what.

    Attributes:
        command: ``count`` or ``correlate``.
        stages: Stages in order; a stage begins when every shard of the one before is committed.
        inputs: Hashes: data files, tokenizer, model, token counts.
        options: Everything else that changes the answer. How the work is spread is not in here.
        units: The shards' units in order.
    """

    command: Stage
    stages: tuple[Stage, ...]
    inputs: Mapping[str, Any]
    options: Mapping[str, Any]
    units: tuple[Mapping[str, Any], ...]

    @property
    def sha256(self) -> str:
        """Identity of the plan."""
        return digest(self.to_json())

    def shards(self) -> Iterator[Shard]:
        """The shards in order."""
        inputs = dict(self.inputs)
        options = {k: v for k, v in self.options.items() if k not in RULE_OPTIONS}
        files = {file["path"]: file for file in inputs["files"]}
        if self.stages != ("count", "correlate"):
            # Then a state depends on its own file only, and stays good where others are mended.
            del inputs["files"]
            for name in ("source", "shard_bytes"):
                options.pop(name, None)
        root = digest([FORMAT, self.stages, inputs, options])
        for index, unit in enumerate(self.units):
            where = {key: value for key, value in unit.items() if key != "index"}
            yield Shard(index, unit, digest([root, files[unit["path"]], where]))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        value: dict[str, Any] = json.loads(
            canonical_json({"format": FORMAT, **dataclasses.asdict(self)})
        )
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`."""
        if value.get("format") != FORMAT:
            raise ResumeError(
                f"plan.json has format {value.get('format')!r}, this version of outdim writes "
                f"{FORMAT}: start a new run directory."
            )
        return cls(
            command=value["command"],
            stages=tuple(value["stages"]),
            inputs=value["inputs"],
            options=value["options"],
            units=tuple(value["units"]),
        )

    @classmethod
    def read(cls, run: Path) -> Plan:
        """Read ``plan.json`` of a run directory.

        Raises:
            DataError: There is none, or it is broken.
        """
        try:
            return cls.from_json(json.loads((run / "plan.json").read_text()))
        except FileNotFoundError as error:
            raise DataError(f"{run} holds no plan.json: it is not a run of outdim.") from error
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{run / 'plan.json'} is broken ({error}).") from error

    def commit(self, run: Path) -> None:
        """Write ``plan.json``, or check that the one there is this one; processes may race.

        Raises:
            ResumeError: The directory belongs to another plan; the message shows the difference.
        """
        create(run / "plan.json", readable_json(self.to_json()))
        committed = Plan.read(run)
        if committed.sha256 != self.sha256:
            old, new = committed.to_json(), self.to_json()
            found = differences({**old, "units": None}, {**new, "units": None})
            raise ResumeError(
                f"{run} holds a run of something else, and continuing it would mix the two. "
                f"{'; '.join(found or differences(old, new))}. Give the options and inputs of that "
                "run, or name a new directory."
            )


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Which leaves differ, as 'name: old -> new' (at most a handful)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted({*old, *new}, key=lambda key: (key not in ("options", "source"), key))
        found = [
            difference
            for key in keys
            if old.get(key) != new.get(key)
            for difference in differences(
                old.get(key), new.get(key), f"{name}.{key}" if name else key
            )
        ]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        found = [
            difference
            for index, (left, right) in enumerate(zip(old, new, strict=True))
            if left != right
            for difference in differences(left, right, f"{name}[{index}]")
        ]
    else:
        found = [f"{name}: {_short(old)} -> {_short(new)}"]
    return found if len(found) <= 6 else [*found[:6], f"and {len(found) - 6} more"]


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} entries"
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:28] + "..." + text[-28:]
