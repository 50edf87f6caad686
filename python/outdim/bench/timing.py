"""Interleaved timing: every variant in every round, in shuffled order, next to the roofline."""

from __future__ import annotations

import ctypes
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from outdim.bench.roofline import Bound, probes

Row = dict[str, Any]

ROUNDS = 15
# Rivals that take a second a call run in fewer rounds, but never in fewer than these.
MIN_ROUNDS = 3
SECONDS_PER_VARIANT = 0.25

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


@dataclass(frozen=True)
class InCache:
    """A kernel on one row again and again, which never leaves the L1 cache: instructions alone.

    elements: of one run.
    """

    run: Callable[[], Any]
    elements: int


@dataclass(frozen=True)
class Variant:
    """One way to compute what a case asks for.

    name: as printed.
    run: computes; what it returns goes to `check`.
    check: verifies a result before anything is timed (raises AssertionError), and returns what is
        to be printed beside the time, such as the error of r.
    role: "ours" for the variant that ratios refer to.
    compiled: by torch.compile, which needs a compiler; a failure is a note, not the end.
    in_cache: the kernels it consists of, timed in the same rounds; the row gets `in_cache_ns`, the
        sum of their times an element.
    """

    name: str
    run: Callable[[], Any]
    check: Callable[[Any], dict[str, float]]
    role: Literal["ours", "other"] = "other"
    compiled: bool = False
    in_cache: tuple[InCache, ...] = ()


@dataclass(frozen=True)
class Case:
    """Variants of one operation on one input.

    rows: the input, [N, D].
    bytes: what any implementation must move: input read once, output written once.
    bound: the bandwidth that limits it, "copy" where as much is written as is read, else "read".
    """

    op: str
    rows: torch.Tensor
    threads: int
    bytes: int
    bound: Bound
    variants: Sequence[Variant]
    facts: dict[str, Any] = field(default_factory=dict)


def measure(case: Case, rounds: int = ROUNDS) -> list[Row]:
    """Verify and time all variants of a case; one row each, after those of the roofline."""
    device = case.rows.device.type
    with num_threads(case.threads):
        errors: dict[str, dict[str, float]] = {}
        skipped: dict[str, str] = {}
        for variant in case.variants:
            try:
                errors[variant.name] = variant.check(variant.run())
            except AssertionError as error:
                raise AssertionError(f"{case.op}, {variant.name}: {error}") from error
            except Exception as error:
                if not variant.compiled:
                    raise
                skipped[variant.name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        roofline = probes(device, case.threads)
        runs = {v.name: v.run for v in case.variants if v.name in errors}
        runs |= {probe.name: probe.run for probe in roofline}
        runs |= {_part(v, i): p.run for v in case.variants for i, p in enumerate(v.in_cache)}
        times, faults = interleave(runs, device, rounds)
    limits = {
        bound: max(
            probe.bytes / statistics.median(times[probe.name]) / 1e6
            for probe in roofline
            if probe.bound == bound
        )
        for bound in ("read", "copy")
    }
    ours = next(v.name for v in case.variants if v.role == "ours")
    common = {
        "op": case.op,
        "dtype": str(case.rows.dtype).removeprefix("torch."),
        "N": case.rows.shape[0],
        "D": case.rows.shape[1],
        "device": device,
        "threads": case.threads,
        **case.facts,
    }
    rows = [
        {
            **common,
            "variant": probe.name,
            "role": "roofline",
            "bound": probe.bound,
            **_timing(times[probe.name], probe.bytes, limits[probe.bound]),
        }
        for probe in roofline
    ]
    for variant in case.variants:
        row = {**common, "variant": variant.name, "role": variant.role, "bound": case.bound}
        if variant.name in skipped:
            rows.append({**row, "skipped": skipped[variant.name]})
            continue
        row |= _timing(times[variant.name], case.bytes, limits[case.bound])
        row["page_faults"] = faults[variant.name]
        row["times_ours"] = row["median_ms"] / statistics.median(times[ours])
        if variant.in_cache:
            row["in_cache_ns"] = sum(
                statistics.median(times[_part(variant, i)]) * 1e6 / part.elements
                for i, part in enumerate(variant.in_cache)
            )
        rows.append(row | errors[variant.name])
    return rows


def _part(variant: Variant, i: int) -> str:
    return f"{variant.name}, in cache {i}"


def interleave(
    runs: dict[str, Callable[[], Any]], device: str, rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Times in ms and page faults a call of each, taken in rounds."""
    clock = _CudaClock() if device == "cuda" else _cpu_ms
    order = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in runs}
    faults = dict.fromkeys(runs, 0.0)
    warm = {name: clock(run) for name, run in runs.items()}
    wanted = {
        name: min(rounds, max(MIN_ROUNDS, int(SECONDS_PER_VARIANT * 1e3 / max(ms, 1e-3))))
        for name, ms in warm.items()
    }
    for _ in range(rounds):
        names = [name for name in runs if len(times[name]) < wanted[name]]
        # So that none always runs behind the same one and finds the caches as that one left them.
        order.shuffle(names)
        for name in names:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            times[name].append(clock(runs[name]))
            faults[name] += resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return times, {name: faults[name] / len(times[name]) for name in runs}


def _timing(times: list[float], moved: int, limit: float) -> Row:
    median = statistics.median(times)
    return {
        "median_ms": median,
        "min_ms": min(times),
        "rounds": len(times),
        "bytes": moved,
        "gb_per_s": moved / median / 1e6,
        "roofline_gb_per_s": limit,
        "share": moved / median / 1e6 / limit,
    }


def _cpu_ms(run: Callable[[], Any]) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6


class _CudaClock:
    """CUDA events around a call.

    Before each, 1 GiB is read: the L2 cache holds nothing of the inputs, no dirty lines are left to
    be written during the call, and the host has a quarter of a millisecond to queue the kernels.
    """

    def __init__(self) -> None:
        self._flush = torch.zeros(2**28, device="cuda")

    def __call__(self, run: Callable[[], Any]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self._flush.sum()
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))


@contextmanager
def num_threads(threads: int) -> Iterator[None]:
    """Run with this number of threads, which the kernels take from torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed, and say whether it does.

    By default it gives blocks of 32 MiB and more back to the system at once, and the page faults
    of every new output cost more than a LayerNorm. No variant shall pay them. Changes the process:
    for programs that measure, not for libraries.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
