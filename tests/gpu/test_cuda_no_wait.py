"""What a pass takes of a batch is queued on the GPU: the host does not wait for it."""

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from ops.oracles import frequency_table
from outdim.stats import (
    Covariates,
    PointMoments,
    PointRanks,
    TypeBuckets,
    TypeTable,
    rank_histogram,
)
from outdim.tokens.batches import batch_of
from outdim.tokens.pieces import Piece

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]

POINTS, DIMS, V, S, D, WARM = ("a", "b"), [5, 0, 8], 500, 40, 9, 2
COUNTS = torch.full((V,), 7)


@contextmanager
def every_wait(mode):
    """Raises, or warns, where the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def batch(seed):
    rng = np.random.default_rng(seed)
    pieces = [
        Piece(
            rng.integers(0, V, S - 3 * row), np.full(S - 3 * row, 1 + row % 2, np.uint8), row, 0, 7
        )
        for row in range(3)
    ]
    return batch_of(pieces)


def hidden_states(seed):
    generator = torch.Generator().manual_seed(seed)
    return {point: 10 * torch.randn(3, S, D, generator=generator) for point in POINTS}


class Parts:
    """What `outdim correlate` keeps by default."""

    def __init__(self, device):
        self.device = device
        self.moments = PointMoments(
            POINTS, ("text", "special"),
            Covariates(frequency_table(), ("x", "y"), ("position",)), device=device,
        )  # fmt: skip
        self.ranks = PointRanks(POINTS, DIMS, COUNTS, [1])
        self.types = TypeTable(POINTS, TypeBuckets.of_counts(COUNTS.numpy()), device=device)

    def take(self, batch, hidden):
        batch = batch.to(self.device)
        parts = (self.moments, self.ranks, self.types)
        rows = batch.position.reshape(1, -1).double()
        for part in parts:
            part.begin(batch.input_ids.reshape(-1), batch.group.reshape(-1), rows)
            for point in POINTS:
                part.add(point, hidden[point])
        for part in parts:
            part.commit()


def taken(device, mode, batches=4):
    """Batches, of which those behind the first may not wait."""
    parts = Parts(device)
    for seed in range(batches):
        hidden = {point: h.to(device) for point, h in hidden_states(seed).items()}
        with every_wait(mode if seed >= WARM else "default"):
            parts.take(batch(seed), hidden)
    return parts


def assert_as_on_a_cpu(parts):
    expected = Parts("cpu")
    for seed in range(4):
        expected.take(batch(seed), hidden_states(seed))
    for name in ("moments", "ranks", "types"):
        found, want = (getattr(of, name).state_dict() for of in (parts, expected))
        assert found.keys() == want.keys()
        exact = {"rtol": 0, "atol": 0} if name == "ranks" else {"rtol": 1e-9, "atol": 1e-9}
        for field in want:
            torch.testing.assert_close(found[field], want[field], **exact)


def test_a_batch_waits_for_nothing(device):
    assert_as_on_a_cpu(taken(device, "error"))


def test_ranks_of_very_many_dimensions_wait_once_a_batch(device, monkeypatch):
    monkeypatch.setattr(rank_histogram, "_DENSE_DIMS", 0)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        parts = taken(device, "warn")
    waits = [one for one in found if "called a synchronizing CUDA operation" in str(one.message)]
    assert len(waits) <= 2  # batches that were looked at
    assert_as_on_a_cpu(parts)
