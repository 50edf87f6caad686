"""Commands around runs: report, demo, doctor, bench."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Which report.

    Args:
        run: Run directory.
    """

    run: Path = field(metadata={"positional": "RUN", "example": "runs/first"})


class Report:
    """Write the HTML report of a run."""

    def options(self) -> dict[str, list[type]]:
        """The run."""
        return {"": [ReportOptions]}

    def run(self, given: Mapping[type, Any]) -> Path:
        """Write it; its path."""
        from outdim.report import write_report

        return write_report(given[ReportOptions].run)


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Where the demo goes.

    Args:
        output: Run directory; none takes runs/demo-<time>.
    """

    output: Path | None = None


class Demo:
    """Run everything on a small real model."""

    def options(self) -> dict[str, list[type]]:
        """The run directory."""
        return {"": [DemoOptions]}

    def run(self, given: Mapping[type, Any]) -> str:
        """Run it; what it found."""
        from outdim.demo import demo

        return demo(given[DemoOptions].output)


class Doctor:
    """Say what is there, what is missing, and what to do."""

    def options(self) -> dict[str, list[type]]:
        """None."""
        return {}

    def run(self, given: Mapping[type, Any]) -> str:
        """What it says."""
        from outdim.doctor import examine

        return examine()


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured.

    Args:
        device: cpu or cuda.
        json: Write the rows to this file as well.
    """

    device: str = "cpu"
    json: str | None = None


class Bench:
    """Measure the kernels."""

    def options(self) -> dict[str, list[type]]:
        """Device and file."""
        return {"": [BenchOptions]}

    def run(self, given: Mapping[type, Any]) -> None:
        """Print tables."""
        from outdim import bench

        options = given[BenchOptions]
        bench.main(device=options.device, json=options.json)
