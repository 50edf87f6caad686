"""What the progress line says: how far a run is, and what would make it faster, if it pays."""

from types import SimpleNamespace

import pytest
import torch
from outdim.bench import precision
from outdim.run.local import Progress
from outdim.run.worker import Worker


def worker_with(dtype: torch.dtype | None) -> Worker:
    worker = object.__new__(Worker)
    model = {} if dtype is None else {"model": SimpleNamespace(dtype=dtype)}
    worker._opened = None
    worker._inputs = {("correlate",): SimpleNamespace(device=torch.device("cpu"), **model)}
    worker.study = {"correlate": SimpleNamespace(work=[{"size_bytes": 10}])}
    return worker


@pytest.mark.parametrize(
    ("dtype", "speedup", "said"),
    [
        (torch.float32, 4.2, "--dtype bfloat16: up to 4.2x"),
        (torch.float32, 0.9, ""),
        (torch.bfloat16, 4.2, ""),
        (None, 4.2, ""),
    ],
)
def test_bfloat16_is_advised_to_float32_where_it_measured_to_pay(monkeypatch, dtype, speedup, said):
    monkeypatch.setattr(precision, "bfloat16_speedup", lambda device: speedup)
    worker = worker_with(dtype)
    assert worker.advice() == said
    progress = Progress(worker, ["correlate"], [0])
    shown: list[str] = []
    progress._bar = SimpleNamespace(disable=False, set_postfix_str=shown.append)
    progress.tokens(100)
    progress.tokens(100)
    assert all(line.endswith(said or "shard 0/1") for line in shown)


def test_nothing_is_measured_where_no_line_is_shown(monkeypatch):
    monkeypatch.setattr(precision, "bfloat16_speedup", lambda device: pytest.fail("measured"))
    progress = Progress(worker_with(torch.float32), ["correlate"], [0])
    progress.tokens(100)  # under pytest stderr is no terminal
    progress.close()


def test_within_a_shard_the_line_goes_on(monkeypatch):
    """Variants of a sweep: a shard may take an hour."""
    clock = [0.0]
    monkeypatch.setattr("outdim.run.local.time.monotonic", lambda: clock[0])
    worker = worker_with(None)
    worker.study = {"sweep-lm": SimpleNamespace(work=[{"size_bytes": 1000}] * 3)}
    progress = Progress(worker, ["sweep-lm"], [1, 2])
    shown: list[str] = []
    bar = SimpleNamespace(disable=False, set_postfix_str=shown.append, n=0)
    bar.update = lambda more: setattr(bar, "n", bar.n + more)
    progress._bar, progress.current = bar, 1
    for time, share in ((1, 0.25), (1.1, 0.3), (2, 0.5)):
        clock[0] = time
        progress.note(share, f"variant {int(100 * share)}/100")
    assert shown == ["variant 25/100, shard 1/3", "variant 50/100, shard 1/3"]  # not each of them
    assert bar.n == 500
    progress.shard(1)
    assert bar.n == 1000
    clock[0], progress.current = 3, 2
    progress.note(0.1, "variant 10/100")
    assert bar.n == 1100
