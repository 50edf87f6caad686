"""Reads a run directory: a study of one model, of which the report shows whatever is there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from outdim import manifest
from outdim.analysis.registry import usable
from outdim.errors import DataError
from outdim.files import read_json
from outdim.report.colours import Palette
from outdim.report.statistics import StepStatistics, read_statistics
from outdim.run import plan
from outdim.run.results import STATS
from outdim.tables import read_parquet
from outdim.text import first_sentence
from outdim.tokens import TokenFrequencies

COUNTS = "counts.parquet"


@dataclass(frozen=True)
class ResultFile:
    """A file of results: its name, size, hash and, of a table, rows and columns."""

    name: str
    size_bytes: int
    sha256: str
    rows: int | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """What a run directory holds.

    Attributes:
        path: The directory.
        manifest: What was run, and what was found in words.
        options: Options by step, in the order in which steps were added.
        statistics: Values by step.
        frequencies: Token counts of the text; None where they were not counted.
        palette: How each dimension is drawn, in all figures alike.
    """

    path: Path
    manifest: dict[str, Any]
    options: dict[str, Mapping[str, Any]]
    statistics: dict[str, StepStatistics] = field(default_factory=dict)
    frequencies: TokenFrequencies | None = None
    palette: Palette = field(default_factory=Palette, compare=False)

    @property
    def steps(self) -> list[str]:
        """Those that ablate first, those that others need last; else as they were added."""
        known = {step: cls for step in self.options if (cls := usable(step)) is not None}
        needed = {name for cls in known.values() for name in cls.needs}
        ablate = {step for step, cls in known.items() if cls.ablates}
        return sorted(self.options, key=lambda step: (step in needed, step not in ablate))

    @property
    def unknown(self) -> list[str]:
        """Steps of packages that are not installed here, or cannot be loaded."""
        return [step for step in self.manifest.get("plan") or {} if usable(step) is None]

    def sentences(self, part: str, step: str) -> list[str]:
        """``headlines``, ``cautions`` or, of these, ``doubts`` of a step."""
        return list((self.manifest.get(part) or {}).get(step) or [])

    def lead(self, step: str) -> str:
        """The first sentence of its headline, which is the most telling; "" where it has none."""
        return next(map(first_sentence, self.sentences("headlines", step)), "")

    def document(self, name: str) -> dict[str, Any] | None:
        """A JSON result, its checksum checked; None where there is none.

        Raises:
            DataError: It was altered since it was written.
        """
        if name not in self.manifest["results"]:
            return None
        return read_json(manifest.result_path(self.path, name))

    def table(self, name: str) -> pa.Table | None:
        """A table of results, its checksum checked; None where there is none.

        Raises:
            DataError: It was altered since it was written.
        """
        if name not in self.manifest["results"]:
            return None
        return read_parquet(manifest.result_path(self.path, name))

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a table of results, as of `table`; none where there is none."""
        table = self.table(name)
        return [] if table is None else table.to_pylist()

    def files(self) -> list[ResultFile]:
        """Every file of results."""
        return [
            _describe(self.path / name, sha256)
            for name, sha256 in sorted(self.manifest["results"].items())
        ]


def read_study(run: str | Path) -> Study:
    """Read a run directory; every file's checksum is checked.

    Raises:
        DataError: It is no run directory, or a file of it is damaged or was altered.
    """
    path = Path(run)
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise DataError(
            f"run: expected a run directory at {path}, got {found}; give the directory that a "
            "command of outdim wrote."
        )
    content = {"results": {}, **manifest.read(path)}
    options = {name: entry.options for name, entry in plan.Study(path).entries().items()}
    if not options:  # what was made of the results of another run
        given = content.get("options", {})
        options = {name: given.get(name, {}) for name in content.get("headlines", {})}
    if not options:
        raise DataError(f"run: {path} holds nothing that an analysis found.")
    for name in options:
        usable(name)  # defines its statistics
    results = content["results"]
    return Study(
        path,
        content,
        options,
        read_statistics(manifest.result_path(path, STATS)) if STATS in results else {},
        TokenFrequencies.from_parquet(manifest.result_path(path, COUNTS))
        if COUNTS in results
        else None,
    )


def _describe(path: Path, sha256: str) -> ResultFile:
    size = path.stat().st_size
    if path.suffix != ".parquet":
        return ResultFile(path.name, size, sha256)
    with path.open("rb") as file:  # Arrow takes no name that is not text
        about = pq.read_metadata(file)
    columns = tuple(about.schema.to_arrow_schema().names)
    return ResultFile(path.name, size, sha256, about.num_rows, columns)
