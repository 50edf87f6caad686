"""What the tests of runs share."""

import dataclasses
from pathlib import Path

from outdim.options import CorrelateOptions


def results(run: Path) -> dict[str, bytes]:
    """Every file whose bytes must not depend on who did the work."""
    names = ["counts.parquet", "stats.parquet", "detection.json", "plan.json"]
    states = sorted(path.relative_to(run) for path in run.glob("state/*"))
    return {
        str(name): (run / name).read_bytes() for name in [*names, *states] if (run / name).exists()
    }


def replaced(options: CorrelateOptions, **changes) -> CorrelateOptions:
    return dataclasses.replace(options, **changes)
