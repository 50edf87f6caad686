"""Shards as calls of Ray actors that hold the model: machines may come, go and die."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from outdim.analysis.inputs import Resources
from outdim.errors import BackendError, OutdimError, PartialRunError
from outdim.run.progress import Progress
from outdim.run.share import SpreadOptions
from outdim.run.worker import Worker

_POLL_S = 0.5
_RESTARTS = 10  # of an actor; a shard that kills every one must end the command at some time


class _Actor:
    """A `Worker` somewhere in the cluster; the run directory is on a file system all share."""

    def __init__(self, directory: str, run: Path, resources: Resources) -> None:
        with suppress(OSError):  # the plan's paths may be relative
            os.chdir(directory)
        self._worker = Worker(run, resources)

    def compute(self, steps: list[str], shard: int) -> int:
        """Commit one shard; return its number of tokens."""
        tokens = 0

        def count(done: int) -> None:
            nonlocal tokens
            tokens += done

        self._worker.compute(steps, shard, count)
        return tokens


def compute_on_ray(
    worker: Worker,
    steps: Sequence[str],
    shards: Sequence[int],
    spread: SpreadOptions,
    *,
    threads: int,
    device: str,
) -> int:
    """Compute ``shards`` on the Ray cluster of the environment, or one of this machine's own.

    One actor per GPU of the cluster, or per ``threads`` CPUs where it has none or ``device`` is
    ``cpu``; ``workers`` lowers their number. What this process's own machine has does not matter.
    An actor that dies is started again elsewhere and its shard computed anew.

    Raises:
        BackendError: Ray is not installed, or the cluster has no room for an actor.
        Interrupted: SIGINT or SIGTERM came.
        PartialRunError: An actor died too often.
        Exception: What a shard itself raised, as `outdim.run.local.compute_in_processes`.
    """
    try:
        import ray
    except ImportError as error:
        raise BackendError("--engine ray needs Ray: pip install ray.") from error
    if not ray.is_initialized():
        ray.init(
            address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, include_dashboard=False
        )
    cluster = ray.cluster_resources()
    gpus, cpus = (int(cluster.get(kind, 0)) for kind in ("GPU", "CPU"))
    gpu = device != "cpu" and (gpus > 0 or device != "auto")
    room = gpus if gpu else cpus // threads
    if not room:
        raise BackendError(
            f"the Ray cluster has {gpus} GPUs and {cpus} CPUs, and no room for an actor with "
            + (f"--device {device}." if gpu else f"--threads {threads}.")
        )
    needed = {"num_gpus": 1} if gpu else {"num_cpus": threads}
    resources = Resources("cuda" if gpu else "cpu", memory=spread.memory, counters=threads)
    # Calls are retried without a limit: a few are used up before Ray knows that a node is gone.
    actor = ray.remote(max_restarts=_RESTARTS, max_task_retries=-1, **needed)(_Actor)
    actors = [
        actor.remote(os.getcwd(), worker.run.absolute(), resources)
        for _ in range(min(spread.workers or room, len(shards), room))
    ]
    progress = Progress(worker, steps, shards, at_once=len(actors))
    waiting = list(reversed(shards))
    names = list(steps)
    running = {
        a.compute.remote(names, shard): (a, shard) for a in actors for shard in [waiting.pop()]
    }
    try:
        while running:
            finished, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_S)
            worker.resources.check_stop()
            for reference in finished:
                free, shard = running.pop(reference)
                progress.tokens(ray.get(reference))
                progress.shard(shard)
                if waiting:
                    shard = waiting.pop()
                    running[free.compute.remote(names, shard)] = (free, shard)
                else:  # one that was on a node that died may be waiting for this place
                    ray.kill(free)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(error, ray.exceptions.RayTaskError) and isinstance(cause, Exception):
            if not isinstance(cause, OutdimError):  # these say all in their message
                cause.add_note(f"Raised in another process:\n{error}")
            raise cause from None
        raise PartialRunError(
            f"Ray could not compute a shard of '{'+'.join(steps)}' ({error}). What was committed "
            "is intact: give the same command again to go on."
        ) from error
    finally:
        for a in actors:
            ray.kill(a)
        progress.close()
    return progress.total_tokens
