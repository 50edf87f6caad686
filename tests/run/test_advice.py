"""What the progress line says: how far a run is, and what would make it faster, if it pays."""

from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from outdim.bench import precision
from outdim.run.progress import Progress, outlook, read_once
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
    monkeypatch.setattr("outdim.run.progress.time.monotonic", lambda: clock[0])
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
    assert shown == ["shard 1/3, variant 25/100", "shard 1/3, variant 50/100"]  # not each of them
    assert bar.n == 500
    progress.tokens(400)
    progress.shard(1)
    assert bar.n == 1000
    clock[0], progress.current = 3, 2
    progress.note(0.1, "variant 10/100")
    assert bar.n == 1100
    assert shown[-1] == "133 tokens/s, shard 2/3, variant 10/100"


def test_what_is_left_is_said_once_and_not_from_the_start_of_a_process(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("outdim.run.progress.time.monotonic", lambda: clock[0])
    worker = worker_with(None)
    worker.study = {"greedy-lm": SimpleNamespace(work=[{"size_bytes": 100}] * 10)}

    def said(*took: float, at_once: int = 1) -> str:
        clock[0] = 0.0
        progress = Progress(worker, ["greedy-lm"], [0, 1, 2, 3, 4], at_once=at_once)
        for shard, seconds in enumerate(took):
            clock[0] += seconds
            progress.shard(shard)
        progress.close()
        return capsys.readouterr().err

    line = "outdim: greedy-lm: {} done, all others together will take about {}\n"
    assert said(60) == ""
    # The second stage, 5 to 9, is among what is left.
    assert said(60, 15, 15) == line.format("2 shards", "2 minutes")
    assert said(600, 15) == line.format("1 shard", "1.5 hours")  # too long to be the start
    assert said(40, 1, 40, 1, at_once=2) == line.format("3 shards", "5 minutes")
    assert said(60, 5, 5) == ""  # under a minute


def test_how_often_variants_read_the_text_is_said_from_the_plan():
    class Entry(NamedTuple):
        step: str
        options: dict
        work: list

    text = {"size_bytes": 1000}
    sweep = Entry("sweep-lm", {}, [{"place": 0, "first": i, "last": i + 8, **text} for i in (0, 8)])
    assert outlook([sweep], [0, 1]) == (
        "sweep-lm: 2 shards, 18 forwards of the model and its variants over what a shard reads, "
        "about 4,500 tokens in all"
    )
    assert outlook([sweep], [1]).startswith("sweep-lm: 1 shard, 9 forwards")
    items = Entry("sweep-glue", {}, [{"place": 0, "first": 0, "last": 3}])
    assert outlook([items], [0]).endswith(
        "4 forwards of the model and its variants over what a shard reads"
    )
    evaluated = Entry("evaluate-lm", {"variants": [{}] * 5}, [text])
    assert "5 forwards" in outlook([evaluated], [0])
    correlated = Entry("correlate", {}, [text] * 3)
    assert outlook([correlated], [0, 1, 2]) == ""
    twins = Entry("criteria", {"twins": 2}, [text] * 3)
    ablated = Entry("attention", {"ablate": [5], "controls": []}, [text] * 3)
    assert outlook([correlated, twins, ablated], [0, 1]).startswith(
        "correlate+criteria+attention: 2 shards, 8 forwards"  # each 1 + 2 + 1
    )
    assert outlook([ablated._replace(options={"ablate": None})], [0]) == ""
    assert read_once([correlated], [0, 1, 2])
    for entries in ([sweep], [items], [evaluated], [correlated, twins]):
        assert not read_once(entries, [0])
    assert not read_once([Entry("evaluate-glue", {}, [{"variant": 0}])], [0])  # items, no text
