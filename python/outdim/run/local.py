"""Shards in this process, or in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from outdim.analysis.inputs import Resources
from outdim.errors import Interrupted, PartialRunError
from outdim.run.failure import Failure
from outdim.run.progress import Progress
from outdim.run.worker import Worker

_POLL_S = 0.2
_GRACE_S = 20.0  # for a batch to end after a signal; what is not committed is computed again


def compute_here(worker: Worker, steps: Sequence[str], shards: Sequence[int]) -> int:
    """Compute ``shards`` one after the other in this process; return the number of tokens.

    Raises:
        Interrupted: SIGINT or SIGTERM came; committed shards are intact.
    """
    progress = Progress(worker, steps, shards)
    worker.resources = replace(worker.resources, note=progress.note)
    try:
        for progress.current in shards:
            worker.compute(steps, progress.current, progress.tokens)
            progress.shard(progress.current)
    finally:
        progress.close()
    return progress.total_tokens


def compute_in_processes(
    worker: Worker, steps: Sequence[str], shards: Sequence[int], devices: Sequence[str]
) -> int:
    """Compute ``shards`` in one process per device (``cpu`` may repeat); return the tokens.

    Raises:
        Interrupted: SIGINT or SIGTERM came; every process stopped after its batch, or was ended.
        PartialRunError: A process died (killed, out of memory); committed shards are intact.
        Exception: What a shard itself raised, such as DataError; where it is a fault of outdim's or
            of a step's own, with the traceback of the process that it came from.
    """
    context = multiprocessing.get_context("spawn")
    stopping, tokens = context.Event(), context.Value("q", 0)
    taken, done = context.Value("q", 0), context.Queue()
    processes = [
        context.Process(
            target=_work,
            args=(worker.run, device, list(steps), list(shards), taken, done, stopping, tokens),
            daemon=True,
        )
        for device in devices
    ]
    progress = Progress(worker, steps, shards, at_once=len(devices))
    try:
        for process in processes:
            process.start()
        for _ in shards:
            progress.shard(_next(done, processes, worker, steps))
            progress.tokens(tokens.value - progress.total_tokens)
    finally:
        stopping.set()
        _end(processes)
        progress.close()
    return progress.total_tokens


def _next(done: Any, processes: Sequence[Any], worker: Worker, steps: Sequence[str]) -> int:
    """The number of the next shard that is committed."""
    while True:
        worker.resources.check_stop()
        try:
            found = done.get(timeout=_POLL_S)
        except queue.Empty:
            if any(process.exitcode for process in processes):
                raise PartialRunError(
                    f"a worker of '{'+'.join(steps)}' died (killed, or out of memory). What was "
                    "committed is intact: give the same command again to go on, with fewer "
                    "--workers if memory was short."
                ) from None
            continue
        if isinstance(found, Failure):
            raise found.error()
        return int(found)


def _end(processes: Sequence[Any]) -> None:
    """Wait for processes to end, and end those that do not: one that is stopped never would."""
    until = time.monotonic() + _GRACE_S
    for process in processes:
        if process.pid is not None:
            process.join(max(0.0, until - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()


def _work(
    run: Path,
    device: str,
    steps: list[str],
    shards: list[int],
    taken: Any,
    done: Any,
    stopping: Any,
    tokens: Any,
) -> None:
    """A process: takes the next of the shards until there is none; says to ``done`` what it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the process group: the parent's business
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None
    # An orphan must not go on for hours after its parent was killed.
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    # The processes share the cores already; tokenizers' own threads would fight for them.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def check_stop() -> None:
        if stopping.is_set():
            raise Interrupted(signal.SIGTERM)

    def count(number: int) -> None:
        with tokens.get_lock():
            tokens.value += number

    try:
        worker = Worker(run, Resources(device, check_stop=check_stop))
        while True:
            with taken.get_lock():
                number, taken.value = taken.value, taken.value + 1
            if number >= len(shards):
                return
            worker.compute(steps, shards[number], count)
            done.put(shards[number])
    except Interrupted:
        return  # the parent raises its own
    except Exception as error:  # whatever it is, the command raises it
        done.put(Failure.of(error))


def _die_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
