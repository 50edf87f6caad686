"""Which token ids share a row of the table of types."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.ops.segment_sums import SUM_ROWS
from outdim.stats.splitmix import splitmix64

#: Rows of a table where memory allows: at 512 the most frequent types alone, the rest in 32 strata.
DEFAULT_BUCKETS = 1024
#: What the table of all points may take, for `fitting_buckets`.
DEFAULT_BYTES = 256 << 20
_MIN_BUCKETS = 32


def table_bytes(buckets: int, points: int, dims: int) -> int:
    """Memory of the sums of a table: 24 bytes a bucket, point and dimension.

    While a batch is under way, as much again for the buckets that it touches: up to twice this.
    """
    return 8 * SUM_ROWS * buckets * points * dims


def fitting_buckets(points: int, dims: int, limit_bytes: int = DEFAULT_BYTES) -> int:
    """As many buckets as `DEFAULT_BUCKETS` or the memory allow, a multiple of 32, at least 32.

    Example:
        >>> fitting_buckets(13, 768), fitting_buckets(33, 4096)
        (1024, 64)
    """
    fitting = limit_bytes // table_bytes(1, points, dims) // _MIN_BUCKETS * _MIN_BUCKETS
    return min(DEFAULT_BUCKETS, max(_MIN_BUCKETS, fitting))


@dataclass(frozen=True, eq=False)
class TypeBuckets:
    """Buckets of token ids: the most frequent types alone, the others together with their like.

    Half of the buckets are those of single types, by count, equal counts by id. The other types are
    cut into strata of equal width in log(1 + count), and each stratum has an equal share of the
    other buckets, dealt to its types in the order of a hash of their ids: as many types in each,
    and which ones does not depend on what the ids stand for. The same counts always give the same
    buckets.

    Attributes:
        bucket: Bucket of each id, int64 [V].
        alone: Ids with a bucket of their own, most frequent first, int64 [A]: bucket a is that of
            ``alone[a]``.
        stratum: Stratum of each bucket, int64 [T]: 0 for those of single types, then from 1 on, the
            most frequent types first.

    Example:
        >>> buckets = TypeBuckets.of_counts(np.array([9, 1, 0, 7, 1, 1]), 4)
        >>> buckets.alone.tolist(), buckets.bucket.tolist()
        ([0, 3], [0, 2, 3, 1, 3, 2])
    """

    bucket: NDArray[np.int64]
    alone: NDArray[np.int64]
    stratum: NDArray[np.int64]

    @classmethod
    def of_counts(cls, counts: Any, buckets: int = DEFAULT_BUCKETS) -> TypeBuckets:
        """Buckets for counts by token id, int64 [V].

        Args:
            counts: Those that the hidden states are first correlated with.
            buckets: At most how many; all types are alone where there are no more than that.

        Raises:
            ArgumentError: Fewer than two buckets, or no counts.
        """
        counts = np.asarray(counts)
        if counts.ndim != 1 or not len(counts):
            raise ArgumentError(f"counts: expected (V,), one by token id, got {counts.shape}")
        if buckets < 2:
            raise ArgumentError(f"buckets: expected at least 2, got {buckets}")
        order = np.argsort(-counts, kind="stable")
        alone = len(counts) if len(counts) <= buckets else buckets // 2
        bucket = np.empty(len(counts), np.int64)
        bucket[order[:alone]] = np.arange(alone)
        stratum = [0] * alone
        for number, ids in enumerate(_strata(order[alone:], counts, buckets - alone), 1):
            size = min(len(ids), _share(buckets - alone))
            bucket[ids[np.argsort(splitmix64(ids.astype(np.uint64)), kind="stable")]] = (
                len(stratum) + np.arange(len(ids)) % size
            )
            stratum += [number] * size
        return cls(bucket, order[:alone], np.array(stratum))

    def __len__(self) -> int:
        return len(self.stratum)

    @cached_property
    def digest(self) -> Tensor:
        """SHA-256 of the buckets, [4] int64: tables merge only where it is the same."""
        sha = hashlib.sha256(self.bucket.tobytes() + self.stratum.tobytes())
        return torch.from_numpy(np.frombuffer(sha.digest(), "<i8").copy())


def _share(buckets: int) -> int:
    """Buckets of a stratum: 16 of 512, 4 of 32; fewer would leave little to compare within."""
    return min(buckets, max(2, int(np.sqrt(buckets / 2))))


def _strata(ids: NDArray[np.int64], counts: NDArray[Any], buckets: int) -> list[NDArray[np.int64]]:
    """Cut ids, by descending count, into strata of equal width in log(1 + count), none empty."""
    if not len(ids):
        return []
    logs = np.log1p(counts[ids].astype(np.float64))
    number = max(1, buckets // _share(buckets))
    width = (logs[0] - logs[-1]) / number
    place = np.minimum((logs[0] - logs) // width, number - 1) if width > 0 else np.zeros(len(ids))
    return np.split(ids, np.flatnonzero(np.diff(place)) + 1)
