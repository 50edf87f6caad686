"""The table of types: sums of hidden states by bucket of token ids, from whole forwards only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from outdim.errors import ArgumentError, DataError
from outdim.ops.segment_sums import SUM_ROWS, segment_sums, segments
from outdim.stats.type_buckets import TypeBuckets


class _Batch(NamedTuple):
    """Rows of the forward under way by bucket, and where their sums go; all on the device."""

    order: Tensor
    starts: Tensor
    read: Tensor  # [T] rows of the sums as they are, -1 where there are none yet
    write: Tensor  # [T] rows that get the new sums; the same as before where the batch has no token
    spare: Tensor  # [T] which spare row that is, T for none
    tokens: Tensor  # [V] int64


class TypeTable:
    """Sums of h, |h| and h^2 by (point, bucket of token ids), of one group of tokens.

    From it, without the model: how far an r would move with other types (`stats.type_units`).

    A bucket that a batch touches is read from one row of the sums and written to another, and
    `commit` exchanges the two; so a forward that fails half-way leaves nothing behind, at the cost
    of a second row for the buckets of one batch, and of no copy. Rows that were never written are
    never looked at, and take no memory on the CPU.

    Args:
        points: Names of the points.
        buckets: Of the token ids.
        group: The value of ``group`` whose rows count; those of others are left out.
        device: Where the hidden states are.
    """

    def __init__(
        self,
        points: Sequence[str],
        buckets: TypeBuckets,
        *,
        group: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.points, self.buckets, self.group = tuple(points), buckets, group
        size = len(buckets)
        self._bucket = torch.from_numpy(buckets.bucket).to(device)
        self._tokens = torch.zeros(len(buckets.bucket), dtype=torch.int64, device=device)
        self._outside = torch.zeros((), dtype=torch.int64, device=device)
        self._seen = torch.zeros(size, dtype=torch.bool, device=device)
        self._row = torch.arange(size, device=device)
        # The last one stands for "none", so that shapes depend on no data: nothing waits for the
        # device.
        self._spare = torch.arange(size, 2 * size + 1, device=device)
        self._sums: dict[str, Tensor] = {}
        self._batch: _Batch | None = None
        self._added: set[str] = set()

    def begin(self, ids: Tensor, group: Tensor, rows: Tensor | None = None) -> None:
        """The next forward has these N rows: ids [N] int64, group [N] uint8, on the device.

        Raises:
            ArgumentError: A counted id has no bucket. (On CUDA, where to look would be to wait,
                `state_dict` says so.)
        """
        self._added.clear()
        size, vocabulary = len(self.buckets), len(self._tokens)
        ids, counted = ids.reshape(-1), group.reshape(-1) == self.group
        outside = counted & ((ids < 0) | (ids >= vocabulary))
        if not ids.is_cuda and bool(outside.any()):
            raise ArgumentError(
                f"ids: expected token ids in [0, {vocabulary}), got {int(ids[outside][0])}"
            )
        self._outside = self._outside + outside.sum()
        counted &= ~outside
        ids = ids.clamp(0, vocabulary - 1)
        order, starts = segments(torch.where(counted, self._bucket[ids], -1), size)
        touched = starts[1:] > starts[:-1]
        spare = torch.where(touched, touched.cumsum(0) - 1, size)
        self._batch = _Batch(
            order,
            starts,
            read=torch.where(self._seen, self._row, -1),
            write=torch.where(touched, self._spare[spare], self._row),
            spare=spare,
            tokens=torch.zeros_like(self._tokens).index_add_(0, ids, counted.long()),
        )

    def add(self, point: str, hidden: Tensor) -> None:
        """Add ``hidden`` [..., D] at ``point``, the rows in the order of `begin`."""
        if self._batch is None:
            raise RuntimeError("TypeTable.begin was not called before the forward")
        sums = self._sums.get(point)
        if sums is None:
            sums = self._sums[point] = self._empty(point, hidden.shape[-1])
        order, starts, read, write, _, _ = self._batch
        segment_sums(hidden, order, starts, sums, read=read, write=write)
        self._added.add(point)

    def commit(self) -> None:
        """The forward is complete: what it gave counts."""
        if self._batch is None:
            return
        if missing := set(self.points) - self._added:
            raise RuntimeError(f"TypeTable: no hidden states at {', '.join(sorted(missing))}")
        spare, write = self._batch.spare, self._batch.write
        self._spare = self._spare.scatter(0, spare, self._row)
        self._row = write
        self._seen = self._seen | (spare < len(self.buckets))
        self._tokens = self._tokens + self._batch.tokens
        self.discard()

    def discard(self) -> None:
        """The forward failed: nothing of it counts."""
        self._batch = None
        self._added.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors on the CPU.

        ``digest`` of the buckets, ``tokens`` int64 [V] (how often each id was counted) and
        ``<point>/sums`` float64 [B, 3, D], rows of the B buckets with tokens, ascending.

        Raises:
            DataError: An id without a bucket was counted on CUDA.
        """
        if outside := int(self._outside):
            raise DataError(
                f"ids: {outside} counted tokens have ids outside of [0, {len(self._tokens)}); the "
                "tokenizer does not belong to the counts"
            )
        rows = self._row[self._seen]
        state = {"digest": self.buckets.digest.clone(), "tokens": self._tokens.cpu().clone()}
        for point in self.points:
            empty = torch.zeros(0, SUM_ROWS, 0, dtype=torch.float64)
            sums = self._sums.get(point)
            state[f"{point}/sums"] = empty if sums is None else sums[rows].cpu()
        return state

    def merge(self, state: Mapping[str, Tensor]) -> TypeTable:
        """Add what `state_dict` of another one gave, as of later rows.

        Raises:
            DataError: A state of other points or buckets, or a damaged one.
        """
        expected = {"digest", "tokens", *(f"{point}/sums" for point in self.points)}
        if state.keys() != expected:
            raise DataError(f"state: expected the keys {sorted(expected)}, got {sorted(state)}")
        if not torch.equal(state["digest"], self.buckets.digest):
            raise DataError("state: it was accumulated with other buckets of token ids")
        device = self._tokens.device
        tokens = state["tokens"].to(device)
        theirs = torch.zeros_like(self._seen).index_put_((self._bucket[tokens > 0],), _true(device))
        fresh, rows = (theirs & ~self._seen)[theirs], self._row[theirs]
        for point in self.points:
            self._merge_point(point, state[f"{point}/sums"], rows, fresh)
        self._seen = self._seen | theirs
        self._tokens = self._tokens + tokens
        return self

    def _merge_point(self, point: str, later: Tensor, rows: Tensor, fresh: Tensor) -> None:
        if later.dtype != torch.float64 or later.shape[:2] != (len(rows), SUM_ROWS):
            raise DataError(
                f"state: damaged: {point}/sums has {tuple(later.shape)} {later.dtype}, expected "
                f"({len(rows)}, {SUM_ROWS}, D) float64"
            )
        if not len(rows):
            return
        sums = self._sums.get(point)
        if sums is None:
            sums = self._sums[point] = self._empty(point, later.shape[2])
        if sums.shape[2] != later.shape[2]:
            raise DataError(
                f"state: expected {sums.shape[2]} dimensions at {point}, got {later.shape[2]}"
            )
        mine = sums[rows].masked_fill(fresh[:, None, None], 0)
        sums[rows] = mine + later.to(sums.device)

    def _empty(self, point: str, width: int) -> Tensor:
        if point not in self.points:
            raise ArgumentError(f"point: expected one of {', '.join(self.points)}, got {point}")
        with torch.inference_mode(False):  # else it could not be merged into outside of it
            return torch.empty(
                2 * len(self.buckets), SUM_ROWS, width,
                dtype=torch.float64, device=self._tokens.device,
            )  # fmt: skip


def _true(device: torch.device) -> Tensor:
    return torch.ones((), dtype=torch.bool, device=device)
