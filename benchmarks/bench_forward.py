"""What the statistics of `correlate` cost beside a forward of BERT-base or MiniLM, on CPU or GPU.

Everything that `correlate` takes at the embeddings and every block: four covariates, shape, three
groups of tokens, resident states; fused and by hooks. On a CPU, where a forward of seconds varies
by more than the statistics cost, they are timed inside of it: by hooks, what `begin`, the sink and
`commit` take; fused, what our norms take with them, less torch's residual add and norm on such
states just before. On a GPU, forwards with and without them in turn. And what the host alone does:
the commit of a batch of 13 points, a point of one row by hooks, and by a norm beside torch's.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from outdim.bench import Row, check_device
from outdim.bench.timing import num_threads
from outdim.models import architecture, observe
from outdim.ops.checked_norm import CheckedNorm
from outdim.stats import Covariates
from outdim.stats.point_moments import PointMoments
from torch.nn import functional
from transformers import BertConfig, BertModel

_SEQUENCE = 128
SHAPES = {
    "BERT-base": {},
    "MiniLM": {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12}
    | {"intermediate_size": 1536},
}
SMALL = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2}


class Sink:
    """Hands points to resident moments, as the analysis does, and keeps the host's time."""

    def __init__(self, points: Any, ids: torch.Tensor) -> None:
        counts = torch.bincount(ids.cpu().reshape(-1), minlength=30522).double()
        table = torch.stack([counts, counts.log1p(), counts.argsort().argsort().double()])
        covariates = Covariates(table, ("count", "log1p_count", "mid_rank"), ("position",))
        names = [point.name for point in points]
        groups = ("text", "special", "first")
        self.moments = PointMoments(names, groups, covariates, device=ids.device)
        self.ids = ids.reshape(-1)
        position = torch.arange(_SEQUENCE, device=ids.device).expand(ids.shape).reshape(1, -1)
        self.position = position.double()
        edge = (position[0] == 0) | (position[0] == _SEQUENCE - 1)
        self.group = torch.where(edge, 2, 1).to(torch.uint8)
        self.taken: set[str] = set()
        self.host_s = 0.0  # of begin, the hooks and commit
        self.fused_s = 0.0  # of our norms with their statistics
        self._norm_began = 0.0

    def begin(self) -> None:
        """Look the covariates up."""
        start = time.perf_counter()
        self.taken.clear()
        self.moments.begin(self.ids, self.group, self.position)
        self.host_s += time.perf_counter() - start

    def arguments(self, point: Any) -> Any:
        """Say what a norm is to take."""
        self._norm_began = time.perf_counter()
        return self.moments.arguments(point.name)

    def absorb(self, point: Any, state: Any) -> None:
        """Keep what it took."""
        self.moments.absorb(point.name, state)
        self.taken.add(point.name)
        self.fused_s += time.perf_counter() - self._norm_began

    def __call__(self, point: Any, hidden: torch.Tensor) -> None:
        """Take the moments where no norm did."""
        start = time.perf_counter()
        if point.name not in self.taken:
            self.moments.add(point.name, hidden)
        self.host_s += time.perf_counter() - start

    def commit(self) -> None:
        """Let the forward count."""
        start = time.perf_counter()
        self.moments.commit()
        self.host_s += time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="a small model: to try this out")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=4)
    chosen = parser.parse_args()
    check_device(chosen.device)
    common.publish("forward", _rows(chosen), chosen.json, chosen.device)


def _rows(chosen: argparse.Namespace) -> Iterator[Row]:
    cores = torch.get_num_threads()
    counts = [cores] if chosen.device == "cuda" else sorted({1, cores})
    for threads, dtype in itertools.product(counts, (torch.float32, torch.bfloat16)):
        with num_threads(threads):
            way = by_difference if chosen.device == "cuda" else within
            yield from way(chosen, dtype)
    yield host_alone()


def _model(chosen: argparse.Namespace, dtype: torch.dtype, shape: dict[str, int]) -> Any:
    torch.manual_seed(0)
    config = BertConfig(**(SMALL if chosen.quick else shape))
    return BertModel(config, add_pooling_layer=False).eval().to(chosen.device, dtype)


def _ids(chosen: argparse.Namespace, vocabulary: int) -> torch.Tensor:
    shape = (max(1, chosen.tokens // _SEQUENCE), _SEQUENCE)
    zipf = (np.random.default_rng(0).zipf(1.3, shape) - 1) % vocabulary
    return torch.from_numpy(zipf).to(chosen.device)


def within(chosen: argparse.Namespace, dtype: torch.dtype) -> Iterator[Row]:
    """Time of the statistics inside a forward, over that of its rest; the range over the rounds."""
    for name, shape in SHAPES.items():
        model = _model(chosen, dtype, shape)
        ids = _ids(chosen, model.config.vocab_size)
        points = architecture(model).select(None)
        found: dict[str, list[tuple[float, float]]] = {"fused": [], "hooks": []}
        sinks = {way: Sink(points, ids) for way in found}
        norm = _Norm(model, ids, dtype)
        order = random.Random(0)
        with torch.inference_mode():
            for round_ in range(1 + chosen.rounds):  # the first warms up
                for way in order.sample(list(found), len(found)):
                    sink = sinks[way]
                    sink.host_s = sink.fused_s = 0.0
                    replaced = len(points) * _timed(norm) if way == "fused" else 0.0
                    with observe(model, points, sink, fused=way == "fused"):
                        whole = _timed(partial(_step, model, ids, sink))
                    cost = sink.host_s + sink.fused_s - replaced
                    if round_:
                        found[way].append((cost, whole - cost))
        _verify(*sinks.values())
        for way, taken in found.items():
            ratios = [cost / rest for cost, rest in taken]
            yield {
                "op": "forward",
                "variant": way,
                "model": name,
                "device": "cpu",
                "dtype": str(dtype).removeprefix("torch."),
                "threads": torch.get_num_threads(),
                "tokens": ids.numel(),
                "points": len(points),
                "D": model.config.hidden_size,
                "rounds": len(taken),
                "median_ms": 1e3 * float(np.median([rest for _, rest in taken])),
                "min_ms": 1e3 * min(rest for _, rest in taken),
                "overhead": float(np.median(ratios)),
                "low": min(ratios),
                "high": max(ratios),
                "host_us_a_point": None,
            }


class _Norm:
    """Torch's residual add and norm, which the fused way replaces."""

    def __init__(self, model: Any, ids: torch.Tensor, dtype: torch.dtype) -> None:
        shape = (*ids.shape, model.config.hidden_size)
        self._x, self._residual = (torch.randn(shape).to(dtype) for _ in range(2))
        self._norm = model.embeddings.LayerNorm

    def __call__(self) -> None:
        self._norm(self._x + self._residual)


def host_alone() -> Row:
    """Microseconds: the commit of a batch, and a point of one row: no work for a kernel."""
    names = [f"block.{i}" for i in range(13)]
    covariates = Covariates(
        torch.zeros(3, 100, dtype=torch.float64),
        ("count", "log1p_count", "mid_rank"),
        ("position",),
    )
    moments = PointMoments(names, ("text", "special", "first"), covariates)
    hidden, gamma, beta = torch.randn(1, 1, 8), torch.ones(8), torch.zeros(8)
    norm = CheckedNorm(1e-5, rms=False)

    def by_hook(name: str) -> None:
        moments.add(name, hidden)

    def by_norm(name: str) -> None:
        wanted = moments.arguments(name)
        moments.absorb(name, norm(hidden, gamma, beta, hidden, wanted, "output")[2])

    def torchs(name: str) -> None:
        functional.layer_norm(hidden + hidden, (8,), gamma, beta)

    ways = {"point": by_hook, "fused": by_norm, "torch_norm": torchs}
    times: dict[str, list[float]] = {way: [] for way in (*ways, "commit")}
    with torch.inference_mode():
        for _ in range(200):
            for way, take in ways.items():
                moments.begin(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.uint8),
                              torch.zeros(1, 1, dtype=torch.float64))  # fmt: skip
                start = time.perf_counter()
                for name in names:
                    take(name)
                middle = time.perf_counter()
                moments.commit()
                times[way].append((middle - start) / len(names))
                if way != "torch_norm":
                    times["commit"].append(time.perf_counter() - middle)
    return {
        "op": "commit",
        "variant": "13 points, three groups",
        "device": "cpu",
        **{f"{way}_us": 1e6 * float(np.median(taken)) for way, taken in times.items()},
    }


def by_difference(chosen: argparse.Namespace, dtype: torch.dtype) -> Iterator[Row]:
    """Times of one batch, in turn; ratios are of the minima."""
    model = _model(chosen, dtype, {})
    config = model.config
    ids = _ids(chosen, config.vocab_size)
    points = architecture(model).select(None)
    sinks = {name: Sink(points, ids) for name in ("fused", "hooks")}
    ways: dict[str, tuple[Any, Any]] = {"model alone": (nullcontext, None)}
    for name, sink in sinks.items():
        ways[name] = (
            lambda sink=sink, name=name: observe(model, points, sink, fused=name == "fused"),
            sink,
        )
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    with torch.inference_mode():
        for round_ in range(1 + chosen.rounds):  # the first warms up
            if round_ == 1:
                for sink in sinks.values():
                    sink.host_s = 0.0
            for name in order.sample(list(ways), len(ways)):
                context, sink = ways[name]
                with context():
                    times[name].append(_timed(lambda sink=sink: _step(model, ids, sink)))
    _verify(*sinks.values())
    alone = min(times["model alone"][1:])
    for name, taken in times.items():
        sink = sinks.get(name)
        calls = chosen.rounds * len(points)
        host = 1e6 * sink.host_s / calls if sink is not None and chosen.device == "cuda" else None
        yield {
            "op": "forward",
            "variant": name,
            "model": "BERT-base",
            "device": chosen.device,
            "dtype": str(dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "tokens": ids.numel(),
            "points": len(points),
            "D": config.hidden_size,
            "median_ms": 1e3 * float(np.median(taken[1:])),
            "min_ms": 1e3 * min(taken[1:]),
            "overhead": min(taken[1:]) / alone - 1,
            "host_us_a_point": host,
        }


def _step(model: Any, ids: torch.Tensor, sink: Sink | None) -> None:
    if sink is not None:
        sink.begin()
    model(input_ids=ids)
    if sink is not None:
        sink.commit()


def _timed(run: Callable[[], None]) -> float:
    """Seconds of one batch until the device is done."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def _verify(fused: Sink, hooks: Sink) -> None:
    """The two ways found the same r: within what rounding of the norms may do."""
    for point in fused.moments.points:
        r = [
            sink.moments.moments(point, ["text"]).compute().pearson("log1p_count")
            for sink in (fused, hooks)
        ]
        torch.testing.assert_close(*r, rtol=0, atol=0.05, equal_nan=True)


if __name__ == "__main__":
    main()
