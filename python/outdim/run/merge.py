"""Merging: a pure function of the committed shards, in plan order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from outdim.errors import EmptyCorpusError
from outdim.run.files import replacing
from outdim.run.plan import Plan
from outdim.run.shards import ShardStore
from outdim.run.stages import Worker
from outdim.run.tokens import save_sums

if TYPE_CHECKING:
    from outdim.analysis import Correlation
    from outdim.corpus import Accounting

_SCHEMA = pa.schema(
    [
        ("point", pa.string()),
        ("layer", pa.int16()),
        ("dim", pa.int32()),
        ("selection", pa.string()),
        ("statistic", pa.string()),
        ("covariate", pa.string()),
        ("value", pa.float64()),
        ("n", pa.int64()),
        ("reason", pa.string()),  # why the value is NaN, else empty
    ]
)


def merge_counts(run: Path, plan: Plan, worker: Worker) -> Accounting:
    """Add the counts of every shard, write ``counts.parquet``; return what was read and left out.

    Raises:
        PartialRunError: A shard is missing.
        EmptyCorpusError: There was no token in all of the data.
    """
    from outdim.corpus import Accounting
    from outdim.counting import UnitCounts
    from outdim.tokens import TokenFrequencies

    total: UnitCounts | None = None
    for state in ShardStore(run, plan).states("count"):
        documents = state.tensors.get("documents")
        part = UnitCounts(
            state.tensors["counts"].numpy(),
            None if documents is None else documents.numpy(),
            Accounting.from_dict(dict(state.info)),
        )
        total = part if total is None else total + part
    if total is None or not total.counts.any():
        left_out = {} if total is None else dict(total.accounting.skipped)
        raise EmptyCorpusError(
            f"source: {' '.join(plan.options['source'])}: the corpus has no token (left out: "
            f"{left_out})."
        )
    frequencies = TokenFrequencies.for_tokenizer(worker.tokenizer, total.counts, total.documents)
    with replacing(run / "counts.parquet") as temporary:
        frequencies.to_parquet(temporary)
    return total.accounting + worker.corpus.unreadable


def merge_correlations(run: Path, plan: Plan, worker: Worker) -> tuple[Correlation, dict[str, Any]]:
    """Merge the moments of every shard; return them, and what was padded and left out.

    Sums per token, where the plan asks for them, are written to ``tokens.safetensors``.

    Raises:
        PartialRunError: A shard is missing.
        EmptyCorpusError: There was no token in all of the data.
    """
    from outdim.analysis import Correlation

    total = worker.statistics()
    padded = 0
    excluded = Counter(worker.corpus.unreadable.skipped)
    for state in ShardStore(run, plan).states("correlate"):
        total.merge_state(state.tensors)
        padded += state.info["padded"]
        excluded.update(state.info["skipped"])
    correlation = Correlation.of(total)
    if not correlation.results[correlation.points[0], "all"].n:
        raise EmptyCorpusError(
            f"source: {' '.join(plan.options['source'])}: the corpus has no token."
        )
    if total.tokens is not None:
        save_sums(run / "tokens.safetensors", total.tokens, correlation)
    return correlation, {"padded": padded, "excluded": dict(sorted(excluded.items()))}


def write_stats(path: Path, *tables: dict[str, NDArray[Any]]) -> None:
    """Write ``stats.parquet`` from tidy columns (`Correlation.columns`, `Detection.columns`)."""
    columns = {name: np.concatenate([table[name] for table in tables]) for name in _SCHEMA.names}
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns, schema=_SCHEMA), temporary, compression="zstd")
