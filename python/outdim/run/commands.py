"""The commands that make runs: plan, compute what is missing, merge, report."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outdim.errors import ArgumentError, DataError, EmptyCorpusError, OutdimError
from outdim.options import (
    CorrelateOptions,
    CountOptions,
    DetectOptions,
    RuleOptions,
    SpreadOptions,
)
from outdim.run import engine, manifest, merge, setup
from outdim.run.engine import Share
from outdim.run.files import (
    check_run_directory,
    is_empty,
    remove_stale,
    replacing,
    sha256_of,
    write_json,
)
from outdim.run.plan import Plan
from outdim.run.shards import ShardStore
from outdim.run.stages import Interrupted, StopSignal, Worker

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from outdim.analysis import Detection


def count(source: Sequence[str], options: CountOptions) -> Path | None:
    """``outdim count``: the run directory, with ``counts.parquet`` and the report.

    None where the results are not written by this process, but by others that share the work.
    """
    check_run_directory(options.output, "count")
    share = setup.choose_share(options)
    engine.wait_for_plan(options.output / setup.FILES, share)
    planned = setup.plan_count(source, options)
    devices = setup.choose_devices(options, "cpu")
    with _directory(options.output, alone=share.count == 1) as run:
        _begin(run, planned)
        finished = _execute(run, planned.plan, options, devices, share)
    return options.output if finished else None


def correlate(source: Sequence[str], options: CorrelateOptions) -> Path | None:
    """``outdim correlate``: the run directory, with ``stats.parquet`` and the report.

    None where the results are not written by this process, but by others that share the work.
    """
    if options.from_run is not None:
        from outdim.run.tokens import correlate_kept_sums

        if source:
            raise ArgumentError(
                f"source, from-run: give one of the two; with --from-run no text is read, got "
                f"{' '.join(source)}."
            )
        return correlate_kept_sums(options)
    check_run_directory(options.output, "correlate")
    share = setup.choose_share(options)
    engine.wait_for_plan(options.output / setup.FILES, share)
    planned = setup.plan_correlate(source, options)
    assert planned.model is not None
    devices = setup.choose_devices(options, options.device, 4 * planned.model["parameters"])
    with _directory(options.output, alone=share.count == 1) as run:
        _begin(run, planned)
        if options.counts is not None:
            with replacing(run / "counts.parquet") as temporary:
                shutil.copyfile(setup.counts_path(options.counts), temporary)
        finished = _execute(run, planned.plan, options, devices, share)
    return options.output if finished else None


def detect(options: DetectOptions) -> Path:
    """``outdim detect``: the run directory, with ``detection.json`` and the report."""
    from outdim.models import architecture, describe, load_model

    check_run_directory(options.output, "detect")
    model = load_model(options.model)
    detection = _detect(model, options)
    about = {"options": setup.plain(options), "model": describe(model, architecture(model))}
    with _directory(options.output) as run:
        manifest.begin(run, "detect", **about)
        manifest.check(run, **about)
        merge.write_stats(run / "stats.parquet", detection.columns())
        write_json(run / "detection.json", detection.to_dict())
        manifest.update(run, finished=manifest.now())
        _report(run)
    return options.output


def _detect(model: PreTrainedModel, options: RuleOptions) -> Detection:
    from outdim.analysis import detect

    return detect(
        model,
        rule=options.rule,
        k=options.k,
        min_fraction=options.min_fraction,
        permutations=options.permutations,
    )


def compare(first: str, second: str, output: Path) -> Path:
    """``outdim count --compare``: the page that compares two counts."""
    from outdim.report import write_comparison
    from outdim.tokens import TokenFrequencies, compare

    check_run_directory(output, "count --compare")
    paths = [setup.counts_path(Path(given)) for given in (first, second)]
    comparison = compare(*(TokenFrequencies.from_parquet(path) for path in paths))
    output.mkdir(parents=True, exist_ok=True)
    inputs = {"counts": [sha256_of(path) for path in paths]}
    manifest.begin(output, "count --compare", options={"compare": [first, second]}, inputs=inputs)
    manifest.check(output, inputs=inputs)
    return write_comparison(comparison, output, names=(first, second))


@contextmanager
def _directory(path: Path, *, alone: bool = True) -> Iterator[Path]:
    """The run directory; one made for nothing is removed again.

    So it is where this process has made it, found no token or failed before a shard was committed,
    and is ``alone``: other shares of the run may be at work in it.
    """
    new = alone and is_empty(path)
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    except OutdimError as error:
        nothing = isinstance(error, EmptyCorpusError) or not any(path.glob("state/*.safetensors"))
        if new and nothing:
            shutil.rmtree(path)
        raise


def _begin(run: Path, planned: setup.Planned) -> None:
    plan = planned.plan
    plan.commit(run)
    write_json(run / setup.FILES, planned.files)
    options = plan.options
    manifest.begin(
        run,
        plan.command,
        options=dict(options),
        plan=plan.sha256,
        model=planned.model,
        tokenizer={"name": options["tokenizer"], "sha256": plan.inputs["tokenizer"]},
        data={
            "source": " ".join(options["source"]),
            "column": options["column"],
            "files": plan.inputs["files"],
        },
    )


def _execute(
    run: Path,
    plan: Plan,
    options: CountOptions | CorrelateOptions,
    devices: Sequence[str],
    share: Share,
) -> bool:
    """Compute this process's share of every stage; whoever finds the run complete finishes it.

    Returns:
        Whether that was this process.
    """
    store = ShardStore(run, plan)
    for directory in (run, store.directory):
        remove_stale(directory)
    seconds: dict[str, float] = {}
    rate = None
    with StopSignal().installed() as stop:
        counters = setup.counting_threads(options)
        worker = Worker(run, plan, devices[0], stop, options.memory, counters)
        for stage in plan.stages:
            begin = time.monotonic()
            try:
                tokens = _compute(worker, store, stage, options, devices, share)
            except Interrupted as error:
                done = len(store.shards) - len(store.missing(stage))
                error.add_note(f"{done} of {len(store.shards)} shards of '{stage}' are committed")
                raise
            seconds[stage] = time.monotonic() - begin
            rate = tokens / seconds[stage] if tokens else None
            if stage != plan.stages[-1]:
                _complete(worker, store, stage, share)
                merge.merge_counts(run, plan, worker)
        if share.waits:
            engine.wait_for_others(store, plan.stages[-1], share, stop)
            if share.index:
                return False
        elif missing := store.missing(plan.stages[-1]):
            print(
                f"outdim {plan.command}: this share is done; {len(missing)} of {len(store.shards)} "
                "shards belong to others and are not committed yet. Whoever commits the last one "
                "writes the results.",
                file=sys.stderr,
            )
            return False
        _finish(worker, options, seconds, rate)
    return True


def _compute(
    worker: Worker,
    store: ShardStore,
    stage: str,
    options: SpreadOptions,
    devices: Sequence[str],
    share: Share,
) -> int:
    mine = [shard for shard in store.shards if share.owns(shard)]
    own = store.missing(stage, mine)
    done = len(mine) - len(own)
    if not own:
        return 0
    if options.engine == "ray":
        from outdim.run.ray_engine import compute_on_ray

        device = "cpu"
        if isinstance(options, CorrelateOptions) and stage == "correlate":
            device = options.device
        return compute_on_ray(worker, store, stage, own, options, device, done)
    # Counting has its own threads, which share what they have tokenised: one process is best.
    if stage == "count" or len(devices) == 1 or len(own) == 1:
        return engine.compute_here(worker, store, stage, own, done)
    return engine.compute_in_processes(worker, store, stage, own, devices[: len(own)], done)


def _complete(worker: Worker, store: ShardStore, stage: str, share: Share) -> None:
    """Make the stage whole: wait for those who run now, do the work of those who may run later."""
    if share.waits:
        engine.wait_for_others(store, stage, share, worker.stop)
    elif missing := store.missing(stage):
        # Each share begins elsewhere, so that those who do this at once divide the work.
        begin = share.index * len(missing) // share.count
        order = [*missing[begin:], *missing[:begin]]
        engine.compute_here(worker, store, stage, order, len(store.shards) - len(missing))


def _finish(
    worker: Worker,
    options: CountOptions | CorrelateOptions,
    seconds: dict[str, float],
    rate: float | None,
) -> None:
    run, plan = worker.run, worker.plan
    parts: dict[str, Any] = {}
    if "count" in plan.stages:
        accounting = merge.merge_counts(run, plan, worker)
        parts["counting"] = {**plan.options["method"], "accounting": accounting.as_dict()}
        parts["tokens"] = {
            "read": accounting.tokens,
            "special": accounting.special,
            "documents": accounting.documents,
            "excluded": dict(accounting.skipped),
        }
    if isinstance(options, CorrelateOptions):
        parts["tokens"] = {
            **parts.get("tokens", {}),
            **_finish_correlation(run, plan, worker, options),
        }
    before = manifest.read(run)
    if rate is None:  # every shard was there already: what was measured then stands
        rate, seconds = before.get("tokens_per_second"), before.get("seconds", seconds)
    manifest.update(run, finished=manifest.now(), seconds=seconds, tokens_per_second=rate, **parts)
    _report(run)


def _finish_correlation(
    run: Path, plan: Plan, worker: Worker, options: RuleOptions
) -> dict[str, Any]:
    correlation, account = merge.merge_correlations(run, plan, worker)
    tables = [correlation.columns()]
    try:
        detection = _detect(worker.model, options)
    except DataError as error:
        print(f"outdim correlate: no detection by parameters: {error}", file=sys.stderr)
    else:
        tables.append(detection.columns())
        write_json(run / "detection.json", detection.to_dict())
    merge.write_stats(run / "stats.parquet", *tables)
    first = correlation.points[0]
    used, everything = (correlation.results[first, selection].n for selection in ("text", "all"))
    return {"read": everything, "special": everything - used, "used": used, **account}


def _report(run: Path) -> None:
    from outdim.report import write_report

    write_report(run)
