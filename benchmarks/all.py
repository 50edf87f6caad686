"""Run every benchmark on the CPU, a process each, and write the page of results.

python benchmarks/all.py --out benchmarks/results
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_NAMES = (
    "moments",
    "layer_norm",
    "rank_histogram",
    "segment_sums",
    "unit_sums",
    "sizes",
    "magnitudes",
    "attention_received",
    "comoments",
    "types",
    "precision",
    "forward",
    "steps",
    "sweep",
    "pipeline",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_HERE / "results")
    parser.add_argument("--quick", action="store_true", help="one size each, a small model")
    chosen = parser.parse_args()
    for name in _NAMES:
        start = time.monotonic()
        json = ["--json", str(chosen.out / f"{name}.json")]
        quick = ["--quick"] if chosen.quick else []
        subprocess.run([sys.executable, _HERE / f"bench_{name}.py", *json, *quick], check=True)
        print(f"\n{name}: {time.monotonic() - start:.0f} s\n", flush=True)
    if not chosen.quick:
        subprocess.run([sys.executable, _HERE / "tables.py", str(chosen.out)], check=True)


if __name__ == "__main__":
    main()
