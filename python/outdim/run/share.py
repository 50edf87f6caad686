"""How the work of a run is spread: none of it changes the answer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from outdim.errors import ArgumentError, BackendError
from outdim.machine import usable_cores

if TYPE_CHECKING:
    import torch

_MIN_MEMORY = 1 << 20
_MAX_WORKERS = 1024


@dataclass(frozen=True, kw_only=True)
class SpreadOptions:
    """Who does the work. None of this changes the answer.

    Args:
        workers: Processes on this machine, or threads for counting; None takes one per GPU, or
            one per core as memory allows.
        device: cpu, cuda, cuda:1; auto takes a GPU where there is one.
        shard_index: Which share of the shards is this process's, from 0; give it with shard_count,
            as in a Slurm array. torchrun sets both by itself.
        shard_count: How many shares there are. A share that ends before the others has exit code 4;
            whoever commits the last shard writes the results.
        memory: Bytes the table of chunks may take while counting.
        engine: local or ray (needs pip install ray).
    """

    workers: int | None = None
    device: str = "auto"
    shard_index: int | None = None
    shard_count: int | None = None
    memory: int = 1 << 30
    engine: Literal["local", "ray"] = "local"

    def check(self) -> None:
        """Raise ArgumentError for a value out of range, BackendError for a device not there."""
        import torch

        if self.workers is not None and not 1 <= self.workers <= _MAX_WORKERS:
            raise ArgumentError(f"workers: expected 1 to {_MAX_WORKERS}, got {self.workers}.")
        if self.memory < _MIN_MEMORY:
            raise ArgumentError(f"memory: expected at least 1 MiB (1048576), got {self.memory}.")
        kind = _device(self.device)
        if self.engine == "ray" and kind.index is not None:
            raise ArgumentError(
                f"device: expected auto, cpu or cuda with Ray, got {self.device!r}."
            )
        if self.engine == "local" and kind.type == "cuda":
            there = torch.cuda.device_count()
            if (kind.index or 0) >= there:
                raise BackendError(
                    f"device: {self.device}: torch sees {there} CUDA devices; `outdim doctor` says "
                    "why."
                )
        Share.of(self)

    def devices(self, threads: int, model_bytes: int) -> list[str]:
        """The device of every process on this machine.

        ``auto`` takes the GPUs there are (under torchrun the local rank's), else the CPU with one
        process per core, as many as have room for three times the model. With Ray this process only
        merges, and the cluster's devices are not its own.
        """
        import torch

        if self.engine == "ray":
            return ["cpu"]
        gpus = torch.cuda.device_count() if self.device in ("auto", "cuda") else 0
        rank = _number("LOCAL_RANK")
        if self.device not in ("auto", "cpu") and not gpus:
            return [self.device] * (1 if rank is not None else self.workers or 1)
        if rank is not None:
            return [f"cuda:{rank % gpus}" if gpus else "cpu"]
        if gpus:
            return [f"cuda:{index % gpus}" for index in range(self.workers or gpus)]
        cores = max(1, usable_cores() // threads)
        room = max(1, _free_bytes() // max(1, 3 * model_bytes))
        return ["cpu"] * (self.workers or min(cores, room))

    def counters(self) -> int:
        """Threads that count: ``workers``, or all cores, divided among local ranks of torchrun."""
        ranks = _number("LOCAL_WORLD_SIZE") or 1
        return self.workers or max(1, usable_cores() // ranks)


@dataclass(frozen=True)
class Share:
    """Which shards are this process's own: a range of them, so that their states merge.

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

    def own(self, shards: int) -> range:
        """The numbers of this process's shards, of so many."""
        return range(shards * self.index // self.count, shards * (self.index + 1) // self.count)

    def owner(self, shard: int, shards: int) -> int:
        """Whose a shard is."""
        return ((shard + 1) * self.count - 1) // shards

    @classmethod
    def of(cls, options: SpreadOptions, environment: Mapping[str, str] = os.environ) -> Share:
        """The share that was asked for, or that torchrun gives.

        An array of jobs shares nothing unless it is asked to: its tasks may be different runs.
        """
        if (options.shard_index is None) != (options.shard_count is None):
            raise ArgumentError("shard-index, shard-count: give both or none.")
        if options.shard_index is not None and options.shard_count is not None:
            return cls(options.shard_index, options.shard_count)
        if "TORCHELASTIC_RUN_ID" not in environment:
            return cls()
        try:
            return cls(int(environment["RANK"]), int(environment["WORLD_SIZE"]), waits=True)
        except (KeyError, ValueError) as error:
            raise ArgumentError(
                "RANK, WORLD_SIZE: expected the numbers that torchrun sets with "
                f"TORCHELASTIC_RUN_ID ({error!r}); start the command with torchrun, or unset it."
            ) from error


def ranks_of(share: Share, missing: Sequence[int], shards: int) -> list[int]:
    """The processes whose shards are missing."""
    return sorted({share.owner(shard, shards) for shard in missing})


def _number(variable: str) -> int | None:
    """The value of an environment variable that torchrun sets; None where it is not set."""
    text = os.environ.get(variable)
    if text is not None and not text.isdecimal():
        raise ArgumentError(f"{variable}: expected a number, as torchrun sets it, got {text!r}.")
    return None if text is None else int(text)


def _device(device: str) -> torch.device:
    import torch

    try:
        found = torch.device("cpu" if device == "auto" else device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ArgumentError(f"device: expected auto, cpu, cuda or cuda:N, got {device!r}.")
    return found


def _free_bytes() -> int:
    """Memory that may be taken, that of file caches included; half of all where it is not known."""
    with suppress(OSError):  # of systems other than Linux
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        if found:
            return int(found[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
