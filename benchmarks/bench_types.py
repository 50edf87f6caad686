"""What the table of types costs beside a BERT-base, and what is made of it afterwards.

The model has the shape of BERT-base and random weights; tokens are drawn from a Zipf distribution.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import common
import numpy as np
import torch
from outdim.bench import Row
from outdim.bench.inputs import VOCABULARY
from outdim.bench.timing import num_threads
from outdim.stats import Covariates
from outdim.stats.type_buckets import DEFAULT_BUCKETS, TypeBuckets
from outdim.stats.type_intervals import bootstrap, jackknife
from outdim.stats.type_null import exchange_null
from outdim.stats.type_table import TypeTable
from outdim.stats.type_units import TypeUnits
from transformers import BertConfig, BertModel

_SMALL = {"num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 4} | {
    "intermediate_size": 512
}
_LENGTH = 128


def main() -> None:
    chosen = common.quick_options(__doc__).parse_args()
    common.publish("types", all_rows(chosen.quick), chosen.json)


def all_rows(quick: bool) -> Iterator[Row]:
    torch.manual_seed(0)
    model = BertModel(BertConfig(**(_SMALL if quick else {})), add_pooling_layer=False).eval()
    for threads in sorted({1, torch.get_num_threads()}):
        with num_threads(threads):
            for tokens in (1024, 4096):
                yield overhead(model, tokens, rounds=3 if quick else 8)
    yield from afterwards(model, draws=100 if quick else 1000)


def zipf(tokens: int) -> tuple[np.ndarray[Any, Any], torch.Tensor]:
    """Counts of a large corpus, and ids [B, S] drawn from them."""
    p = (np.arange(VOCABULARY) + 3.7) ** -1.07
    p /= p.sum()
    drawn = np.random.default_rng(0).choice(VOCABULARY, p=p, size=(tokens // _LENGTH, _LENGTH))
    return (p * 3e9).astype(np.int64), torch.from_numpy(drawn)


def overhead(model: BertModel, tokens: int, rounds: int) -> Row:
    """Time of the table for one batch at all points, over that of the forward before it.

    The two are taken in turn; a forward of seconds varies by more than the table costs, so the
    table is timed by itself, with the hidden states as the model has left them in the caches.
    cpu_overhead is of the CPU times of all threads, which other programs disturb less.
    """
    counts, ids = zipf(tokens)
    buckets = TypeBuckets.of_counts(counts, DEFAULT_BUCKETS)
    points = [f"layer.{i}" for i in range(model.config.num_hidden_layers + 1)]
    table, group = TypeTable(points, buckets), torch.ones_like(ids, dtype=torch.uint8)
    hidden: tuple[torch.Tensor, ...] = ()

    def forward() -> None:
        nonlocal hidden
        hidden = model(ids, output_hidden_states=True).hidden_states

    def types() -> None:
        table.begin(ids, group)
        for point, h in zip(points, hidden, strict=True):
            table.add(point, h)
        table.commit()

    taken = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            taken.append([_both_times(run) for run in (forward, types)])
    wall, cpu = np.array(taken[1:]).transpose(2, 1, 0)
    return {
        "op": "types_overhead",
        "variant": "table of types",
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "tokens": tokens,
        "touched": len(np.unique(buckets.bucket[ids])),
        "points": len(points),
        "D": model.config.hidden_size,
        "rounds": rounds,
        "median_ms": 1e3 * float(np.median(wall[1])),
        "model_ms": 1e3 * float(np.median(wall[0])),
        "overhead": float(wall[1].min() / wall[0].min()),
        "cpu_overhead": float(cpu[1].min() / cpu[0].min()),
        "median_overhead": float(np.median(wall[1] / wall[0])),
    }


def _both_times(run: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def afterwards(model: BertModel, draws: int) -> Iterator[Row]:
    """Seconds for all points, with three covariates, from sums that are drawn."""
    points, D = model.config.num_hidden_layers + 1, model.config.hidden_size
    counts, ids = zipf(1 << 20)
    logs = np.log1p(counts)
    covariates = Covariates(
        np.stack([counts, logs, logs.argsort().argsort()]).astype(np.float64),
        ("count", "log1p_count", "rank"),
    )
    buckets = TypeBuckets.of_counts(counts, DEFAULT_BUCKETS)
    table = TypeTable([f"layer.{i}" for i in range(points)], buckets)
    table.begin(ids.reshape(-1)[: 1 << 16], torch.ones(1 << 16, dtype=torch.uint8))
    for point in table.points:
        table.add(point, torch.randn(1 << 16, D))
    table.commit()
    units = TypeUnits.of_table(table.state_dict(), buckets, covariates)
    for name, run in {
        "jackknife, all points": lambda: [jackknife(units, p) for p in units.points],
        "exchange_null, all points": lambda: exchange_null(units, draws=draws),
        "exchange_null within": lambda: exchange_null(units, draws=draws, within=True),
        "bootstrap, 10 dimensions": lambda: bootstrap(units, units.points[0], range(10)),
    }.items():
        run()
        seconds = [_both_times(run) for _ in range(3)]
        yield {
            "op": "types",
            "variant": name,
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "units": len(units.n),
            "points": points,
            "D": D,
            "draws": draws,
            "median_ms": 1e3 * statistics.median(wall for wall, _ in seconds),
            "cpu_median_ms": 1e3 * statistics.median(cpu for _, cpu in seconds),
        }


if __name__ == "__main__":
    main()
