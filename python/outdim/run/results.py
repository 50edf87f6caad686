"""The files of results: what steps found, each written whole, with its hash in the manifest."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from outdim import manifest
from outdim.analysis.results.cautions import Doubt
from outdim.analysis.step import Result
from outdim.analysis.table import SCHEMA
from outdim.errors import DataError
from outdim.files import naming, replacing, sha256_of, write_json
from outdim.run.directory import RESULTS_LOCK
from outdim.tables import PARQUET, read_parquet

STATS = "stats.parquet"


def write_results(run: Path, found: Mapping[str, Result], order: Sequence[str]) -> dict[str, str]:
    """Write the tables of steps; return the hash of each file.

    ``stats.parquet`` holds the tidy rows of all steps of the study, in the ``order`` of its plan:
    those of the steps at hand take the place of what they wrote before.
    """
    hashes: dict[str, str] = {}
    tidy: dict[str, pa.Table] = {}
    for step, result in found.items():
        for stem, table in result.tables().items():
            if stem == Path(STATS).stem:
                tidy[step] = table
            elif isinstance(table, Mapping):
                write_json(run / f"{stem}.json", table)
                hashes[f"{stem}.json"] = sha256_of(run / f"{stem}.json")
            else:
                hashes[f"{stem}.parquet"] = write_parquet(run / f"{stem}.parquet", table)
    if tidy:
        rows = {**_tidy_rows(run), **tidy}
        known = [step for step in order if step in rows]
        names = [name for step in known for name in [step] * rows[step].num_rows]
        whole = pa.concat_tables([rows[step] for step in known])
        step_column = pa.array(names, pa.string()).dictionary_encode()
        hashes[STATS] = write_parquet(run / STATS, whole.add_column(0, "step", step_column))
    return hashes


def write_parquet(path: Path, table: pa.Table) -> str:
    """Write a table, whole or not at all; return the hash of the file."""
    # Arrow takes no name that is not text, and names no file where the disk is full.
    with replacing(path) as temporary, naming(path), temporary.open("wb") as file:
        pq.write_table(table, file, **PARQUET)
    return sha256_of(path)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """One process at a time writes results, where the file system has locks.

    Where it has none, two commands that end together may each leave out the other's rows of
    ``stats.parquet``; giving either again mends it.
    """
    with (run / RESULTS_LOCK).open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _tidy_rows(run: Path) -> dict[str, pa.Table]:
    """The tidy rows that are there, by step; none where they cannot be trusted."""
    try:
        table = read_parquet(manifest.result_path(run, STATS))
    except DataError:
        return {}
    column = table["step"]
    return {
        step: table.filter(pc.equal(column, step)).select(SCHEMA.names).cast(SCHEMA)
        for step in column.unique().to_pylist()
    }


def account_of(found: Mapping[str, Result]) -> dict[str, Any]:
    """The sections of the manifest that steps give, their headlines and cautions.

    Doubts are those of the cautions that take a headline back.
    """
    sections: dict[str, Any] = {"headlines": {}, "cautions": {}, "doubts": {}}
    for step, result in found.items():
        for name, value in result.account().items():
            old = sections.get(name)
            sections[name] = {**old, **value} if isinstance(old, dict) else value
        sections["headlines"][step] = list(result.headline())
        sections["cautions"][step] = cautions = list(result.cautions())
        sections["doubts"][step] = [said for said in cautions if isinstance(said, Doubt)]
    return sections
