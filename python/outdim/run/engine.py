"""Who computes which shard: this process, several local ones, a rank among many, or Ray."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from outdim.errors import ArgumentError, PartialRunError
from outdim.run.plan import Plan, Shard
from outdim.run.shards import ShardStore
from outdim.run.stages import Interrupted, StopSignal, Worker

_POLL_S = 0.2
_STRAGGLER_NOTICE_S = 30.0


@dataclass(frozen=True)
class Share:
    """Which shards are this process's own: those with ``index % count == self.index``.

    Attributes:
        index: Of this process.
        count: Number of processes.
        waits: Whether the others run at the same time (torchrun), so that waiting for them makes
            sense.
    """

    index: int = 0
    count: int = 1
    waits: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ArgumentError(
                f"shard-index, shard-count: expected 0 <= index < count, got {self.index} and "
                f"{self.count}."
            )

    def owns(self, shard: Shard) -> bool:
        """Whether ``shard`` is this process's own."""
        return shard.index % self.count == self.index

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Share:
        """The share that torchrun or a Slurm job array gives; everything outside of them."""
        if "TORCHELASTIC_RUN_ID" in environment:
            return cls(int(environment["RANK"]), int(environment["WORLD_SIZE"]), waits=True)
        if "SLURM_ARRAY_TASK_COUNT" in environment:
            first = int(environment.get("SLURM_ARRAY_TASK_MIN", 0))
            step = int(environment.get("SLURM_ARRAY_TASK_STEP", 1))
            index = (int(environment["SLURM_ARRAY_TASK_ID"]) - first) // step
            return cls(index, int(environment["SLURM_ARRAY_TASK_COUNT"]))
        return cls()


def wait_for_plan(path: Path, share: Share) -> None:
    """Under torchrun, wait for ``path``, which the first rank writes with the plan.

    So the data is hashed once, not by every rank. If the first fails, torchrun ends the others.
    """
    noticed = time.monotonic()
    while share.waits and share.index and not path.exists():
        if time.monotonic() - noticed > _STRAGGLER_NOTICE_S:
            noticed = time.monotonic()
            print(
                f"outdim: rank {share.index} waits for rank 0 to write {path}, in a directory that "
                "all ranks see",
                file=sys.stderr,
            )
        time.sleep(_POLL_S)


class Progress:
    """Tokens/s, time left and shard on stderr; silent when that is not a terminal."""

    def __init__(self, stage: str, shards: Sequence[Shard], done: int) -> None:
        total = sum(int(shard.unit.get("size_bytes") or 1) for shard in shards)
        hidden = None if os.environ.get("LOCAL_RANK", "0") == "0" else True  # one bar a terminal
        self._bar = tqdm(
            total=total, desc=stage, unit="B", unit_scale=True, disable=hidden, leave=False
        )
        self.total_tokens = 0
        self._begin = time.monotonic()
        self._shards = [done, done + len(shards)]

    def tokens(self, count: int) -> None:
        """So many more tokens are done."""
        self.total_tokens += count
        rate = self.total_tokens / max(time.monotonic() - self._begin, 1e-9)
        self._bar.set_postfix_str(
            f"{rate:,.0f} tokens/s, shard {self._shards[0]}/{self._shards[1]}"
        )

    def shard(self, shard: Shard) -> None:
        """One more shard is committed."""
        self._shards[0] += 1
        self._bar.update(int(shard.unit.get("size_bytes") or 1))

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def compute_here(
    worker: Worker, store: ShardStore, stage: str, shards: Sequence[Shard], done: int
) -> int:
    """Compute ``shards`` one after the other in this process; return the number of tokens.

    Raises:
        Interrupted: SIGINT or SIGTERM came; committed shards are intact.
    """
    progress = Progress(stage, shards, done)
    try:
        for shard in shards:
            if store.read(stage, shard) is None:  # another process may have been here meanwhile
                store.commit(stage, shard, worker.compute(stage, shard, progress.tokens))
            progress.shard(shard)
    finally:
        progress.close()
    return progress.total_tokens


def compute_in_processes(
    worker: Worker,
    store: ShardStore,
    stage: str,
    shards: Sequence[Shard],
    devices: Sequence[str],
    done: int,
) -> int:
    """Compute ``shards`` in one process per device (``cpu`` may repeat); return the tokens.

    Raises:
        Interrupted: SIGINT or SIGTERM came; every process stopped after its batch.
        PartialRunError: A process died (killed, out of memory); committed shards are intact.
    """
    context = multiprocessing.get_context("spawn")
    stopping, tokens, queue = context.Event(), context.Value("q", 0), context.Queue()
    for device in devices:
        queue.put(device)
    progress = Progress(stage, shards, done)
    reported = 0
    executor = ProcessPoolExecutor(
        len(devices),
        context,
        _start_process,
        (worker.run, worker.plan.to_json(), queue, stopping, tokens),
    )
    try:
        futures: dict[Future[None], Shard] = {
            executor.submit(_compute_in_process, stage, shard): shard for shard in shards
        }
        waiting = set(futures)
        while waiting:
            finished, waiting = wait(waiting, _POLL_S, FIRST_COMPLETED)
            worker.stop.check()
            for future in finished:
                future.result()
                progress.shard(futures[future])
            seen = tokens.value
            progress.tokens(seen - reported)
            reported = seen
    except BrokenProcessPool as error:
        raise PartialRunError(
            f"a worker of the stage '{stage}' died (killed, or out of memory). What was committed "
            "is intact: give the same command again to go on, with fewer --workers if memory was "
            "short."
        ) from error
    finally:
        stopping.set()
        executor.shutdown(wait=True, cancel_futures=True)
        progress.close()
    return progress.total_tokens


_process: Worker | None = None
_process_store: ShardStore | None = None
_process_tokens: Any = None  # a counter shared with the parent


class _SharedStop(StopSignal):
    """Set by the parent; signals to the process group are the parent's business."""

    def __init__(self, event: Any) -> None:
        super().__init__()
        self._event = event

    def check(self) -> None:
        if self._event.is_set():
            raise Interrupted(signal.SIGTERM)


def _start_process(
    run: Path, plan: dict[str, Any], devices: Any, stopping: Any, tokens: Any
) -> None:
    global _process, _process_store, _process_tokens
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    # An orphan must not go on for hours after its parent was killed.
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    # The processes share the cores already; tokenizers' own threads would fight for them.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    loaded = Plan.from_json(plan)
    _process = Worker(run, loaded, devices.get(), _SharedStop(stopping))
    _process_store = ShardStore(run, loaded)
    _process_tokens = tokens


def _add_tokens(done: int) -> None:
    with _process_tokens.get_lock():
        _process_tokens.value += done


def _die_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _compute_in_process(stage: str, shard: Shard) -> None:
    assert _process is not None
    assert _process_store is not None
    try:
        state = _process.compute(stage, shard, _add_tokens)
    except Interrupted:
        return  # the parent raises its own
    _process_store.commit(stage, shard, state)


def wait_for_others(store: ShardStore, stage: str, share: Share, stop: StopSignal) -> None:
    """Wait until every shard of ``stage`` is committed, naming the ranks that are still at work.

    Nothing is exchanged between the processes: the committed shards are the barrier.
    """
    noticed = time.monotonic()
    while missing := store.missing(stage):
        stop.check()
        if time.monotonic() - noticed > _STRAGGLER_NOTICE_S:
            noticed = time.monotonic()
            ranks = sorted({shard.index % share.count for shard in missing})
            print(
                f"outdim: rank {share.index} waits for {len(missing)} shards of rank "
                f"{', '.join(map(str, ranks))}",
                file=sys.stderr,
            )
        time.sleep(_POLL_S)
