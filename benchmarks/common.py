"""What the benchmark programs share: options, sizes, and the commit in their results."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from outdim.bench import check_device, measure_and_print, measured_on, write
from outdim.bench.inputs import Inputs, make_inputs
from outdim.bench.timing import ROUNDS, Case, Row, keep_freed_memory

ROOT = Path(__file__).resolve().parent.parent

_SIZES = {
    "cpu": [(16384, 768), (16384, 1024), (4096, 4096), (65536, 384)],
    # First what the L2 cache may hold, then what it cannot.
    "cuda": [(16384, 1024), (131072, 768), (65536, 1024), (65536, 4096)],
}
_QUICK = {"cpu": [(4096, 768)], "cuda": [(65536, 1024)]}


def options(description: str | None) -> argparse.Namespace:
    """--device, --json, --quick and --rounds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="one size")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args()
    check_device(chosen.device)
    return chosen


def inputs(device: str, quick: bool) -> Iterator[tuple[Inputs, list[int]]]:
    """Inputs of every size and dtype, with the numbers of threads to measure at."""
    cores = torch.get_num_threads()
    threads = [1] if device == "cuda" else sorted({1, min(2, cores), cores})
    for N, D in (_QUICK if quick else _SIZES)[device]:
        for dtype in (torch.float32, torch.bfloat16):
            yield make_inputs(N, D, dtype, device), threads


def run(name: str, chosen: argparse.Namespace, cases: Callable[[Inputs, int], list[Case]]) -> None:
    """Measure the cases of every input, print their tables, write their rows."""
    kept = keep_freed_memory()
    facts = describe(chosen.device) | {"keeps_freed_memory": kept}
    rows: list[Row] = []
    for given, threads in inputs(chosen.device, chosen.quick):
        for number in threads:
            for case in cases(given, number):
                rows += measure_and_print(case, chosen.rounds)
                if chosen.json is not None:  # after each: a run that is cut off leaves its rows
                    write(chosen.json, name, rows, facts)


def quick_options(description: str | None) -> argparse.ArgumentParser:
    """--json and --quick, of programs that run whole models."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="a small model: to try this out")
    return parser


def publish(name: str, given: Iterable[Row], path: Path | None, device: str = "cpu") -> None:
    """Print rows as they come, and write them to a file if one is named."""
    facts, rows = describe(device), []
    for row in given:
        rows.append(row)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        if path is not None:  # what cuts the program off leaves the rows so far
            write(path, name, rows, facts)


def describe(device: str = "cpu") -> dict[str, Any]:
    """The machine, and the commit that is measured; "+" where sources were changed since."""
    return {**measured_on(device), "commit": _commit()}


def _commit() -> str:
    if shutil.which("git") is None:
        return ""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    sources = ("csrc", "python", "benchmarks", ":!benchmarks/results")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *sources)
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
