"""What a command asks for, and the entries of the plan that follow from it."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outdim.analysis.inputs import Inputs, TextOptions, option_names
from outdim.analysis.registry import step_class
from outdim.analysis.step import Step
from outdim.errors import DataError
from outdim.files import digest
from outdim.run.plan import Entry
from outdim.run.share import SpreadOptions


@dataclass(frozen=True)
class Request:
    """What a command asks for.

    Attributes:
        command: Its name.
        output: Run directory: new, empty, or a study of the same model and text.
        steps: Options by step.
        reads: Options of what the steps read, one object a kind (`outdim.analysis.inputs`).
        spread: Who does the work.
        others: Options of steps that are run only because they are needed or wanted.
    """

    command: str
    output: Path
    steps: Mapping[str, Any]
    reads: Sequence[Any]
    spread: SpreadOptions = field(default_factory=SpreadOptions)
    others: Mapping[str, Any] = field(default_factory=dict)

    def ordered(self) -> dict[str, bool]:
        """The steps with those they need and want, needed ones first; whether one is wanted only.

        >>> from outdim.analysis.correlate import CorrelateOptions
        >>> Request("demo", Path("run"), {"correlate": CorrelateOptions()}, []).ordered()
        {'count': False, 'detect': True, 'correlate': False}
        """
        ordered: dict[str, bool] = {}

        def visit(name: str, wanted_only: bool) -> None:
            cls = step_class(name)
            for other in cls.needs:
                visit(other, wanted_only)
            for other in cls.wants:
                if other not in self.steps:
                    visit(other, True)
            ordered[name] = ordered.get(name, True) and wanted_only

        for name in self.steps:
            visit(name, False)
        return ordered


@dataclass(frozen=True)
class Planned:
    """What a request adds to a study.

    Attributes:
        entries: Of its steps, in an order in which each follows those it needs.
        attached: Files that the study keeps a copy of, by name.
    """

    entries: tuple[Entry, ...]
    attached: Mapping[str, bytes]


def plan(request: Request, inputs: Inputs, there: Mapping[str, Entry]) -> Planned:
    """Resolve the options of every step, given the entries that are ``there``; nothing is written.

    A step that is only needed or wanted, and about which nothing was said, is taken as it is there.

    Raises:
        ArgumentError: An option is missing or out of range.
        DataError: The text, the tokenizer or the model cannot be used.
    """
    common = inputs.resolve(_cut_as_before(request, there))
    entries: dict[str, Entry] = {}
    new = []
    files: dict[str, bytes] = {}
    for name, wanted_only in request.ordered().items():
        cls = step_class(name)
        options = request.steps.get(name) or request.others.get(name) or cls.Options()
        if name in there and name not in request.steps and options == cls.Options():
            entries[name] = there[name]
            continue
        try:
            recorded = {**_of(cls, common), **cls.resolve(options, inputs)}
        except DataError as error:
            if not wanted_only:
                raise
            print(f"outdim {request.command}: without '{name}': {error}", file=sys.stderr)
            continue
        attached = cls.attach(options, inputs)
        identity = {k: v for kind in cls.reads for k, v in kind.identity(inputs).items()}
        entries[name] = Entry(
            step=name,
            options=recorded,
            inputs={
                **identity,
                "attached": {k: hashlib.sha256(v).hexdigest() for k, v in attached.items()},
                "needs": {n: digest(entries[n].leaves) for n in cls.requires(recorded)},
            },
            work=tuple(cls.work(recorded, inputs)),
            presentation=cls.presentation,
        )
        new.append(entries[name])
        files |= attached
    return Planned(tuple(new), files)


def _of(cls: type[Step], common: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that a step reads."""
    return {name: common[name] for kind in cls.reads for name in option_names(kind)}


def _cut_as_before(request: Request, there: Mapping[str, Entry]) -> list[Any]:
    """What is read; the text cut as it was for the same step, if nothing else was asked for."""
    cuts = [there[name].options.get("shard_bytes") for name in request.steps if name in there]
    cut = next(filter(None, cuts), None)
    return [
        dataclasses.replace(options, shard_bytes=cut)
        if isinstance(options, TextOptions) and options.shard_bytes is None
        else options
        for options in request.reads
    ]
