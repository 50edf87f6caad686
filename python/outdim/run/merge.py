"""Merging: a pure function of the committed shards, in plan order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import save

from outdim.errors import DataError
from outdim.run import manifest
from outdim.run.files import replacing, write_bytes
from outdim.run.plan import Plan
from outdim.run.shards import ShardState, ShardStore
from outdim.run.stages import Worker

if TYPE_CHECKING:
    from outdim.analysis import Correlation
    from outdim.corpus import TokenFrequencies


def merge_run(run: Path, plan: Plan, worker: Worker) -> None:
    """Write the results of a complete run: ``counts.parquet``, ``stats.parquet``, the manifest's accounting.

    Raises:
        PartialRunError: A shard is missing.
        DataError: There was no token in all of the data.
    """
    if "count" in plan.stages:
        merge_counts(run, plan, worker)
    if "correlate" in plan.stages:
        merge_correlations(run, plan, worker)
    manifest.update(run, finished=manifest.now())


def merge_counts(run: Path, plan: Plan, worker: Worker) -> TokenFrequencies:
    """Add the counts of every shard and write ``counts.parquet``."""
    from outdim.corpus import merge_counted

    counted = merge_counted(
        (state.tensors, state.info) for state in ShardStore(run, plan).states("count")
    )
    frequencies = counted.frequencies(worker.tokenizer)
    if frequencies.total_tokens == 0:
        raise DataError(f"{plan.options['source']}: the corpus has no token: it is empty, or all was left out.")
    with replacing(run / "counts.parquet") as temporary:
        frequencies.to_parquet(temporary)
    manifest.update(run, counting=counted.summary())
    return frequencies


def merge_correlations(run: Path, plan: Plan, worker: Worker) -> Correlation:
    """Merge the moments of every shard and write ``stats.parquet`` (and ``tokens.safetensors``)."""
    from outdim.analysis import Correlation
    from outdim.analysis.statistics import PointStatistics

    total = PointStatistics(
        worker.points,
        worker.covariates,
        accum=plan.options["accum"],
        token_dims=plan.options["per_token"],
    )
    accounting: Counter[str] = Counter()
    for state in ShardStore(run, plan).states("correlate"):
        total.merge_state(state.tensors, worker.covariates)
        accounting.update({key: value for key, value in state.info.items() if isinstance(value, int)})
    correlation = Correlation.of(total)
    write_table(run / "stats.parquet", correlation.columns())
    if total.tokens is not None:
        names = {"points": "\n".join(total.tokens.points), "dims": " ".join(map(str, total.tokens.dims))}
        write_bytes(run / "tokens.safetensors", save(total.tokens.state_dict(), names))
    manifest.update(run, tokens=_account(correlation, accounting))
    return correlation
