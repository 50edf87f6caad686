"""A run: plan the steps, compute what is missing, merge, write the results."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from outdim import manifest
from outdim.analysis.inputs import Inputs, Resources
from outdim.analysis.registry import step_class, usable
from outdim.errors import DataError, Interrupted, PartialRunError
from outdim.files import read_json, remove_stale, write_bytes, write_json
from outdim.run import local
from outdim.run.directory import ATTACHED, check_directory, taken
from outdim.run.plan import Entry, Study
from outdim.run.progress import outlook, read_once
from outdim.run.request import Planned, Request, plan
from outdim.run.results import account_of, locked, write_results
from outdim.run.share import Share, ranks_of
from outdim.run.sources import FILES
from outdim.run.stop import StopSignal
from outdim.run.worker import Worker

_POLL_S = 0.2
_STRAGGLER_NOTICE_S = 30.0


def execute(request: Request) -> Path | None:
    """Do what is asked for; return the run directory.

    None where the results are written by another process that shares the work.

    Raises:
        PartialRunError: This process's share is done, others are not.
        ResumeError: The directory holds something else.
        Interrupted: SIGINT or SIGTERM came.
    """
    check_directory(request.output)
    request.spread.check()
    share = Share.of(request.spread)
    study = Study(request.output)
    _wait_for_plan(study, request, share)
    inputs = Inputs(known_files=_known_files(request.output))
    planned = plan(request, inputs, study.entries())
    with taken(request.output, study, alone=share.count == 1):
        _begin(study, request, inputs, planned)
        with StopSignal().installed() as stop:
            return _run(request, study, inputs, share, stop)


def _known_files(run: Path) -> list[dict[str, Any]]:
    with suppress(OSError, DataError, KeyError):  # none, or a broken one: it only saves time
        found: list[dict[str, Any]] = read_json(run / FILES)["files"]
        return found
    return []


def _begin(study: Study, request: Request, inputs: Inputs, planned: Planned) -> None:
    """Add the entries to the study, and what belongs to them."""
    run = study.run
    study.add(planned.entries)  # first of all: whoever has another plan must not touch the rest
    if "source" in inputs.options:
        write_json(run / FILES, {"files": inputs.files})
    for name, content in planned.attached.items():
        path = run / ATTACHED / name
        path.parent.mkdir(exist_ok=True)
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)
    manifest.begin(run, request.command)
    parts = about(inputs, planned.entries)
    with locked(run):
        there = manifest.read(run)
        if known := there.get("cautions", {}).get("inputs"):  # of other steps' inputs as well
            said = dict.fromkeys([*known, *inputs.cautions])
            parts["cautions"] = {**there["cautions"], "inputs": list(said)}
        if not parts.items() <= there.items():  # others may be at work, or have ended
            manifest.update(run, parts)


def about(inputs: Inputs, entries: Sequence[Entry]) -> dict[str, Any]:
    """What the manifest says of model, tokenizer, text and options."""
    parts: dict[str, Any] = {}
    options = inputs.options
    if "model" in options:
        parts["model"] = inputs.about_model
    if heads := [entry.inputs["head"] for entry in entries if "head" in entry.inputs]:
        parts["heads"] = {head["kind"]: head for head in heads}
    if "tokenizer" in options:
        identity = next(e.inputs["tokenizer"] for e in entries if "tokenizer" in e.inputs)
        parts["tokenizer"] = {"name": options["tokenizer"], "sha256": identity}
    if "source" in options:
        files = next(entry.inputs["files"] for entry in entries if "files" in entry.inputs)
        parts["data"] = {
            "source": " ".join(options["source"]),
            "column": options["column"],
            "files": files,
        }
    if inputs.cautions:
        parts["cautions"] = {"inputs": list(dict.fromkeys(inputs.cautions))}
    parts["options"] = {entry.step: dict(entry.options) for entry in entries}
    parts["plan"] = {entry.step: entry.sha256 for entry in entries}
    return parts


def _run(
    request: Request, study: Study, opened: Inputs, share: Share, stop: StopSignal
) -> Path | None:
    run, spread = request.output, request.spread
    wanted = request.ordered()
    names = [name for name in study.entries() if name in wanted]
    threads = max(study[name].options.get("threads", 1) for name in names)
    model_bytes = 4 * opened.about_model["parameters"] if opened.has_model else 0
    devices = spread.devices(threads, model_bytes)
    resources = Resources(devices[0], spread.memory, spread.counters(), stop.check)
    worker = Worker(run, resources, opened if devices[0] == "cpu" else None)
    for directory in (run, *(worker.store(name).directory for name in names)):
        remove_stale(directory)
    seconds: dict[str, float] = {}
    rate = None  # of the last text that was read by one model
    worked = False  # else every shard was there already: what was measured then stands
    groups = group_steps(study, names)
    parts = [(group, stage) for group in groups for stage in stages(study[group[0]])]
    for group in groups if not share.index else ():
        if said := outlook([study[name] for name in group], _missing(worker, group)):
            print(f"outdim: {said}", file=sys.stderr)
    for number, (group, stage) in enumerate(parts):
        begin = time.monotonic()
        try:
            tokens = _compute(worker, group, stage, request, devices, share)
        except Interrupted as error:
            store = worker.store(group[0])
            done = len(store) - len(store.missing())
            error.add_note(f"{done} of {len(store)} shards of '{'+'.join(group)}' are committed")
            raise
        took, together = time.monotonic() - begin, "+".join(group)
        seconds[together] = seconds.get(together, 0.0) + took
        if tokens and read_once([study[name] for name in group], stage):
            rate = tokens / took
        worked = worked or bool(tokens)
        if number + 1 < len(parts):
            _complete(worker, group, stage, share)
        elif share.waits:
            _wait_for_others(worker, group, stage, share)
        elif missing := _missing(worker, group):
            raise PartialRunError(
                f"this share is done; {len(missing)} of {len(worker.store(group[0]))} shards "
                "belong to others and are not committed yet. Whoever commits the last one writes "
                "the results."
            )
    if share.waits and share.index:
        return None
    measured = {"seconds": seconds, "tokens_per_second": rate} if worked else {}
    _finish(worker, names, measured)
    return run


def group_steps(study: Study, names: Sequence[str]) -> list[list[str]]:
    """Steps that are computed together, in an order in which each has what it needs."""
    groups: list[list[str]] = []
    keys: list[tuple[str, tuple[Any, ...]] | None] = []
    for name in names:
        entry, cls = study[name], step_class(name)
        together = cls.together(entry.options)
        key = None if together is None else (together, entry.work)
        needed = [i for i, group in enumerate(groups) if set(group) & set(cls.needs)]
        first = max(needed, default=-1) + 1
        place = next((i for i in range(first, len(groups)) if key and keys[i] == key), None)
        if place is None:
            groups.append([name])
            keys.append(key)
        else:
            groups[place].append(name)
    return groups


def stages(entry: Entry) -> list[list[int]]:
    """The shards of a step by stage: those of one follow from what the earlier ones found."""
    stage_of = step_class(entry.step).stage
    numbered = range(len(entry.work))
    return [list(same) for _, same in groupby(numbered, lambda n: stage_of(entry.work[n]))]


def _missing(worker: Worker, group: Sequence[str], among: Sequence[int] | None = None) -> list[int]:
    """The shards that any step of a group lacks."""
    return sorted({s for name in group for s in worker.store(name).missing(among)})


def _compute(
    worker: Worker,
    group: Sequence[str],
    stage: Sequence[int],
    request: Request,
    devices: Sequence[str],
    share: Share,
) -> int:
    own = _missing(worker, group, [stage[i] for i in share.own(len(stage))])
    if not own:
        return 0
    entry = worker.study[group[0]]
    model = "model" in entry.options
    if request.spread.engine == "ray" and len(worker.store(group[0])) > 1:
        from outdim.run.ray import compute_on_ray

        device = request.spread.device if model else "cpu"
        threads = entry.options.get("threads", 1)
        return compute_on_ray(worker, group, own, request.spread, threads=threads, device=device)
    # Without a model a step has its own threads, which share what they know: one process is best.
    if not model or len(devices) == 1 or len(own) == 1:
        return local.compute_here(worker, group, own)
    return local.compute_in_processes(worker, group, own, devices[: len(own)])


def _complete(worker: Worker, group: Sequence[str], stage: Sequence[int], share: Share) -> None:
    """Make a stage whole: wait for those who run now, do the work of those who may run later."""
    if share.waits:
        _wait_for_others(worker, group, stage, share)
    elif missing := _missing(worker, group, stage):
        # Each share begins elsewhere, so that those who do this at once divide the work.
        begin = share.index * len(missing) // share.count
        local.compute_here(worker, group, [*missing[begin:], *missing[:begin]])


def _wait_for_plan(study: Study, request: Request, share: Share) -> None:
    """Under torchrun, wait for the plan that the first rank writes.

    So the data is hashed once, not by every rank. If the first fails, torchrun ends the others.
    """
    noticed = time.monotonic()
    while share.waits and share.index and not set(request.steps) <= set(study.entries()):
        if time.monotonic() - noticed > _STRAGGLER_NOTICE_S:
            noticed = time.monotonic()
            print(
                f"outdim: rank {share.index} waits for rank 0 to write the plan in {study.run}, "
                "a directory that all ranks see",
                file=sys.stderr,
            )
        time.sleep(_POLL_S)


def _wait_for_others(
    worker: Worker, group: Sequence[str], stage: Sequence[int], share: Share
) -> None:
    """Wait until every shard of a stage is committed, naming the ranks that are still at work.

    Nothing is exchanged between the processes: the committed shards are the barrier.
    """
    noticed = time.monotonic()
    while missing := _missing(worker, group, stage):
        worker.resources.check_stop()
        if time.monotonic() - noticed > _STRAGGLER_NOTICE_S:
            noticed = time.monotonic()
            ranks = ranks_of(share, [shard - stage[0] for shard in missing], len(stage))
            print(
                f"outdim: rank {share.index} waits for {len(missing)} shards of rank "
                f"{', '.join(map(str, ranks))}",
                file=sys.stderr,
            )
        time.sleep(_POLL_S)


def _finish(worker: Worker, names: Sequence[str], measured: Mapping[str, Any]) -> None:
    """Write the results of the steps, and how long the work took."""
    run = worker.run
    complete = {*names, *_to_mend(worker)}
    found = {name: worker.result(name) for name in worker.study.entries() if name in complete}
    for name in found:
        if mixed := worker.store(name).mixed_versions():
            print(
                f"outdim: the shards of '{name}' were computed by several versions "
                f"({', '.join(mixed)}): their last bits may differ.",
                file=sys.stderr,
            )
    with locked(run):
        hashes = write_results(run, found, list(worker.study.entries()))
        account = account_of(found)
        manifest.update(run, {**account, "results": hashes, "finished": manifest.now(), **measured})


def _to_mend(worker: Worker) -> list[str]:
    """The complete steps, where a result of any is gone or was altered since it was written."""
    written = manifest.read(worker.run)["results"]
    with suppress(DataError):
        for name in written:
            manifest.result_path(worker.run, name)
        if written:
            return []
    known = [name for name in worker.study.entries() if usable(name) is not None]
    return [name for name in known if not worker.store(name).missing()]
