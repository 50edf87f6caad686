"""``outdim recorrelate``: what a run kept against other token frequencies, without the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outdim.commands.step import OutputOptions
from outdim.errors import DataError
from outdim.files import sha256_of


@dataclass(frozen=True, kw_only=True)
class RecorrelateOptions:
    """What is correlated with what.

    Args:
        run: Run directory of outdim correlate --per-token DIMS.
        counts: counts.parquet, or a run that counted; None takes those of the run itself.
    """

    run: Path = field(metadata={"positional": "RUN"})
    counts: Path | None = None


class Recorrelate:
    """Correlate kept sums."""

    def options(self) -> dict[str, list[type]]:
        """The run, the counts, and where tables go."""
        return {"": [RecorrelateOptions, OutputOptions]}

    def run(self, given: Mapping[type, Any]) -> Path:
        """Write ``correlations.csv``, ``bins.csv`` and ``drivers.csv``."""
        import pyarrow.parquet as pq

        from outdim.analysis.recorrelate import KeptSums, check_vocabulary, recorrelate
        from outdim.run import manifest
        from outdim.run.derived import derived, given_counts
        from outdim.run.results import STATS
        from outdim.tables import write_csv
        from outdim.tokens import TokenFrequencies

        options: RecorrelateOptions = given[RecorrelateOptions]
        output: Path = given[OutputOptions].output
        run = options.run
        if "token_sums.parquet" not in manifest.read(run)["results"]:
            raise DataError(f"{run} kept no sums per token: run it with --per-token DIMS.")
        counts = given_counts(options.counts or run)
        frequencies = TokenFrequencies.from_parquet(counts)
        kept = KeptSums.of_tables(
            pq.read_table(manifest.result_path(run, "token_sums.parquet")),
            pq.read_table(manifest.result_path(run, STATS)),
        )
        own = TokenFrequencies.from_parquet(given_counts(run))
        check_vocabulary(kept.ids.tolist(), own.tokens, frequencies.tokens)
        tables = recorrelate(kept, frequencies)
        names = {"run": str(run), "counts": str(counts)}
        inputs = {"plan": manifest.read(run)["plan"], "counts": sha256_of(counts)}
        with derived(output, "recorrelate", names, inputs) as hashes:
            for stem, table in tables.items():
                path = output / f"{stem}.csv"
                write_csv(path, table)
                hashes[path.name] = sha256_of(path)
        return output
