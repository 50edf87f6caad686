"""What the progress line says would make a run faster: only what measured to pay."""

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
