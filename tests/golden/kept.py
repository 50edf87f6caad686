"""The kept values, and the three things by which results of now are compared with them.

A change of the house that leaves the values alone may move these three, and nothing else here.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from golden import jobs
from safetensors import safe_open

# 1. The names of selections: kept -> now.
SELECTION_NOW = {"": "", "text": "text+first", "all": "all"}

# 2. Where results are, and in which form.


def tidy_table(result):
    """`compare.KEY`, value, n and reason of a run directory, or of what `outdim.correlate` gave.

    Selections go by their kept names; those that have none are left out.
    """
    if isinstance(result, Path):
        table = pq.read_table(result / "stats.parquet").to_pandas()
    else:
        table = result.tables()["stats"].to_pandas()
    kept_name = {now: kept for kept, now in SELECTION_NOW.items()}
    table = table[table.selection.isin(kept_name)]
    return table.assign(selection=table.selection.map(kept_name))


def token_counts(run, *, given=False):
    """token, bytes, special, count, documents by id: of the text, or as they were given."""
    path = run / "inputs" / "counts.parquet" if given else run / "counts.parquet"
    return pq.read_table(path).to_pandas().set_index("id")


def kept_sums(run):
    """Of text: ids, n [U]; sums, sums_abs [U, P, S]; m2, m2_abs [P, S]; the names of P and S."""
    table = pq.read_table(run / "token_sums.parquet").to_pandas()
    ids, points, dims = (table[name].unique() for name in ("id", "point", "dim"))
    columns = table[["n", "sum", "sum_abs", "sum_squares"]].to_numpy()
    n, sums, sums_abs, squares = np.moveaxis(
        columns.reshape(len(ids), len(points), len(dims), 4), -1, 0
    )
    total = n[:, 0, 0].sum()
    return {
        "ids": ids,
        "n": n[:, 0, 0].astype(int),
        "sums": sums,
        "sums_abs": sums_abs,
        "m2": squares.sum(0) - sums.sum(0) ** 2 / total,
        "m2_abs": squares.sum(0) - sums_abs.sum(0) ** 2 / total,
        "points": np.array(points),
        "dims": dims,
    }


def detection(run):
    """What detection.json says, without the hash of itself."""
    found = json.loads((run / "detection.json").read_text())
    found.pop("sha256")
    return found


def account(run):
    """Tokens read, used and padded, and what was left out."""
    return json.loads((run / "manifest.json").read_text())["tokens"]


# 3. How near is the same: shares of what `compare.scales` gives, for averages and for extremes.

#: The forward gave the kept bits. Sums are float64: another order of their terms, or a tree of
#: merges, moved them by less than 1e-15.
SAME_FORWARD = (1e-12, 0.0)
#: Another processor, library, batch or place of the statistics rounds a float32 forward otherwise.
#: Single values move by some ulp of the largest (measured over SSE4, AVX2 and AVX-512 in MKL, torch
#: and our kernels: up to 4e-6); in averages most of that cancels (up to 8e-8).
OTHER_FORWARD = (1e-6, 2e-5)


@dataclass(frozen=True)
class Kept:
    """The values of a job."""

    name: str

    @property
    def values(self):
        return jobs.VALUES / self.name

    @cached_property
    def about(self):
        return json.loads((self.values / "about.json").read_text())

    @cached_property
    def table(self):
        return pq.read_table(self.values / "stats.parquet").to_pandas()

    @cached_property
    def counts(self):
        return token_counts(self.values)

    @cached_property
    def sums(self):
        with safe_open(self.values / "tokens.safetensors", "np") as file:
            about = json.loads(file.metadata()["outdim"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {**tensors, **{name: np.array(about[name]) for name in ("points", "dims")}}
