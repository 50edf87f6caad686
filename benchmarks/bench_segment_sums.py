"""Sums of h, |h| and h^2 by bucket of token ids: index_add_ and segment_reduce of torch, outdim."""

from __future__ import annotations

import common
import torch
from outdim import ops
from outdim.bench.inputs import VOCABULARY, Inputs
from outdim.bench.timing import Case, Variant
from outdim.stats.type_buckets import DEFAULT_BUCKETS, TypeBuckets
from torch import Tensor


def cases(inputs: Inputs, threads: int) -> list[Case]:
    hidden = inputs.hidden
    counts = torch.bincount(inputs.ids.cpu(), minlength=VOCABULARY).numpy()
    buckets = TypeBuckets.of_counts(counts, DEFAULT_BUCKETS)
    T, (N, D) = len(buckets), hidden.shape
    bucket = torch.from_numpy(buckets.bucket).to(hidden.device)[inputs.ids]
    order, starts = ops.segments(bucket, T)
    touched = int((starts.diff() > 0).sum())
    table = torch.zeros(2 * T, 3, D, dtype=torch.float64, device=hidden.device)
    zeros = torch.arange(T, device=hidden.device)
    grown = table[:T].clone()
    exact = _index_add(hidden, bucket, T)

    def another_row() -> Tensor:
        """As a table of types does it, from rows that stay zero here."""
        ops.segment_sums(hidden, order, starts, table, read=zeros, write=zeros + T)
        return table[T:]

    def in_place() -> None:
        ops.segment_sums(hidden, order, starts, grown)

    def check(sums: Tensor) -> dict[str, float]:
        size = exact.abs().amax((0, 2), keepdim=True)
        error = float(((sums - exact).abs() / size).max())
        assert error <= 1e-12, f"the error of sums is {error:.1e}, expected at most 1e-12"
        return {"error": error}

    variants = [
        Variant("outdim", another_row, check, role="ours"),
        Variant("outdim, in place", in_place, lambda _: {}),
        Variant("torch index_add_", lambda: _index_add(hidden, bucket, T), check),
        Variant("torch segment_reduce", lambda: _segment_reduce(hidden, order, starts), check),
    ]
    moved = hidden.element_size() * N * D + 8 * N + 48 * D * touched
    return [Case("segment_sums", hidden, threads, moved, "read", variants, {"touched": touched})]


def _index_add(hidden: Tensor, bucket: Tensor, count: int) -> Tensor:
    h = hidden.double()
    sums = h.new_zeros(count, 3, h.shape[1])
    return sums.index_add_(0, bucket, torch.stack([h, h.abs(), h.square()], 1))


def _segment_reduce(hidden: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    h = hidden[order].double()
    parts = (h, h.abs(), h.square())
    return torch.stack([torch.segment_reduce(p, "sum", offsets=starts) for p in parts], 1)


if __name__ == "__main__":
    common.run("segment_sums", common.options(__doc__), cases)
