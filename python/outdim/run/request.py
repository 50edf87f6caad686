"""What a command asks for, and the entries of the plan that follow from it."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outdim.analysis.input_options import TextOptions, cut_by_work, option_names
from outdim.analysis.inputs import Inputs
from outdim.analysis.registry import step_class
from outdim.analysis.step import Json, Step
from outdim.errors import DataError
from outdim.files import digest
from outdim.run.plan import Entry, check_reads
from outdim.run.share import SpreadOptions


@dataclass(frozen=True)
class Request:
    """What a command asks for.

    Attributes:
        command: Its name.
        output: Run directory: new, empty, or a study of the same model and text.
        steps: Options by step.
        reads: Options of what the steps read, one object a kind (`outdim.analysis.input_options`).
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

        Example:
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
        ResumeError: Those there are about another model, tokenizer or text.
    """
    options, reads = _options(request, there), _cut_as_before(request, there)
    inputs.name(reads)
    planned = {name: entry.options for name, entry in there.items()}
    inputs.asked = planned | {name: dataclasses.asdict(one) for name, one in options.items()}
    for name in request.steps:
        step_class(name).check(options[name], inputs)
    common = inputs.resolve(reads)
    check_reads(request.output, there, common)
    recorded = _resolved(request, inputs, common, options, there)
    if any(isinstance(one, TextOptions) and one.shard_bytes is None for one in reads):
        _cut_by_work({name: recorded[name] for name in recorded if name in options}, inputs)
    entries: dict[str, Entry] = {}
    files: dict[str, bytes] = {}
    for name in reversed(recorded):
        if name not in options:
            entries[name] = there[name]
            continue
        cls = step_class(name)
        attached = cls.attach(options[name], inputs)
        identity = {k: v for kind in cls.reads for k, v in kind.identity(inputs).items()}
        entries[name] = Entry(
            step=name,
            options=recorded[name],
            inputs={
                **identity,
                "attached": {k: hashlib.sha256(v).hexdigest() for k, v in attached.items()},
                "needs": {n: digest(entries[n].leaves) for n in cls.requires(recorded[name])},
            },
            work=tuple(cls.work(recorded[name], inputs)),
            presentation=cls.presentation,
        )
        files |= attached
    return Planned(tuple(entry for name, entry in entries.items() if name in options), files)


def _options(request: Request, there: Mapping[str, Entry]) -> dict[str, Any]:
    """Options of the steps that are planned; the others are taken as they are there."""
    given = {**_lent(request), **request.steps}
    found = {}
    for name in request.ordered():
        if name in given:
            found[name] = given[name]
            continue
        default = step_class(name).Options()
        options = request.others.get(name) or default
        if name not in there or options != default:
            found[name] = options
    return found


def _lent(request: Request) -> dict[str, Any]:
    """Options of needed steps that those of the steps that need them say."""
    found = {}
    for name, options in request.steps.items():
        step = step_class(name)
        for needed in map(step_class, step.needs):
            if step.lends(needed):
                found[needed.name] = step.lent(needed, options)
    return found


def _resolved(
    request: Request,
    inputs: Inputs,
    common: Mapping[str, Any],
    options: Mapping[str, Any],
    there: Mapping[str, Entry],
) -> dict[str, Json]:
    """Resolved options of every step that is to be run; each stands before those it needs."""
    found: dict[str, Json] = {}
    ordered = request.ordered()
    required = set(request.steps)  # of those that steps need, some not with these options
    for name in reversed(ordered):
        if name not in required:
            continue
        cls = step_class(name)
        try:
            found[name] = (
                {
                    **_of(cls, common),
                    **cls.resolve(options[name], inputs),
                    **_kept(cls, options[name], there),
                }
                if name in options
                else dict(there[name].options)
            )
        except DataError as error:
            if not ordered[name]:
                raise
            print(f"outdim {request.command}: without '{name}': {error}", file=sys.stderr)
            continue
        required |= {*cls.requires(found[name]), *cls.wants}
    return found


def _kept(cls: type[Step], options: Any, there: Mapping[str, Entry]) -> dict[str, Any]:
    """Defaults that were planned before."""
    before = there[cls.name].options if cls.name in there else {}
    return {
        name: before[name]
        for name in cls.stays
        if name in before and getattr(options, name) is None
    }


def _of(cls: type[Step], common: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that a step reads."""
    return {name: common[name] for kind in cls.reads for name in option_names(kind)}


def _cut_as_before(request: Request, there: Mapping[str, Entry]) -> list[Any]:
    """What is read; the text cut as it was for the same steps, if nothing else was asked for."""
    told = (*request.steps, *_lent(request))
    cuts = [there[name].options.get("shard_bytes") for name in told if name in there]
    cut = next(filter(None, cuts), None)
    return [
        dataclasses.replace(options, shard_bytes=cut)
        if isinstance(options, TextOptions) and options.shard_bytes is None
        else options
        for options in request.reads
    ]


def _cut_by_work(recorded: Mapping[str, Json], inputs: Inputs) -> None:
    """Cut the text finer where many variants of a model read it: the finest cut serves all steps.

    Not for what shares a pass with other steps: their states may be large, of twins there are few.
    The cut follows from what is planned, which records it: whoever goes on cuts as was cut before.
    """
    units = len(inputs.corpus.units)
    on_text = {name: own for name, own in recorded.items() if "shard_bytes" in own}
    cuts = []
    for name, own in on_text.items():
        cls = step_class(name)
        work = cls.work(own, inputs) if cls.together(own) is None else []
        if (forwards := max((cls.forwards(own, unit) for unit in work), default=1)) > 1:
            cuts.append(cut_by_work(inputs, forwards, len(work) // units))
    if cuts and min(cuts) < inputs.options["shard_bytes"]:
        inputs.recut(min(cuts))
        for own in on_text.values():
            own["shard_bytes"] = min(cuts)
