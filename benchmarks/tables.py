"""Write docs/performance.md from the JSON rows of the benchmarks.

python benchmarks/tables.py [benchmarks/results] [docs/performance.md]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aims import bounds, targets
from cells import DTYPES, Row, distinct, number, table, threads_name
from outdim.bench import FORMAT

_ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else _ROOT / "benchmarks" / "results"
    if not results.is_dir():
        sys.exit(f"{results}: no such folder; usage: tables.py [RESULTS] [PAGE]")
    page = Path(sys.argv[2]) if len(sys.argv) > 2 else _ROOT / "docs" / "performance.md"
    page.write_text(render(read(results)), encoding="utf-8")
    print(page)


def read(folder: Path) -> list[dict[str, Any]]:
    """The result files in our format, by name."""
    contents = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [c for c in contents if isinstance(c, dict) and c.get("format") == FORMAT]


def render(files: Sequence[dict[str, Any]]) -> str:
    """The page."""
    rows = [row for file in files for row in file["rows"]]
    parts = [(Path(__file__).parent / "method.md").read_text(encoding="utf-8")]
    parts += ["## Machines and versions", *_machines(files)]
    for device, title in (("cpu", "CPU"), ("cuda", "GPU")):
        here = [row for row in rows if row["device"] == device]
        if here:
            parts += [f"## {title}: aims", targets(here, device), *bounds(here, device, title)]
            parts += [f"## {title}: times", *_times(here), *_accuracy(here)]
    parts += _pipeline(rows)
    return "\n\n".join(parts) + "\n"


def _machines(files: Sequence[dict[str, Any]]) -> Iterator[str]:
    for file in files:
        facts = ", ".join(f"{key} {value}" for key, value in file["machine"].items())
        yield f"- `{file['name']}`: {facts}"


def _times(rows: Sequence[Row]) -> Iterator[str]:
    """A table per operation, dtype and threads; a column per size."""
    timed = [row for row in rows if "bound" in row]
    keys = distinct((row["op"], row["dtype"], row["threads"]) for row in timed)
    for key in sorted(keys, key=lambda key: key[0] != "as in correlate"):  # what runs do leads
        op, dtype, threads = key
        here = [row for row in timed if (row["op"], row["dtype"], row["threads"]) == key]
        sizes = distinct((row["N"], row["D"], row.get("S")) for row in here)
        lines = [["ms · times outdim · share", *map(_size, sizes)]]
        for variant in distinct(row["variant"] for row in here):
            by_size = {
                (row["N"], row["D"], row.get("S")): row for row in here if row["variant"] == variant
            }
            lines.append([variant, *(_cell(by_size.get(size)) for size in sizes)])
        yield f"### {op}, {dtype}, {threads_name(here[0]['device'], threads)}\n\n{table(lines)}"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if "skipped" in row:
        return "skipped"
    cell = f"{number(row['median_ms'])} ({number(row['min_ms'])})"
    if "times_ours" in row:
        return f"{cell} · {number(row['times_ours'])} · {row['share']:.0%}"
    return f"{cell} · {row['gb_per_s']:.1f} GB/s"


def _size(size: tuple[int, int, int | None]) -> str:
    N, D, S = size
    return f"{N} x {D}" + (f", {S} dims" if S else "")


def _accuracy(rows: Sequence[Row]) -> Iterator[str]:
    """The largest error of r over sizes and threads."""
    with_error = [row for row in rows if "error_r_offset" in row]
    lines = [["largest error of r", *(f"{d}, {what}" for d in DTYPES for what in _ERRORS)]]
    for op, variant in distinct((row["op"], row["variant"]) for row in with_error):
        line = [f"{op}: {variant}"]
        for dtype in DTYPES:
            here = [
                row
                for row in with_error
                if (row["op"], row["variant"], row["dtype"]) == (op, variant, dtype)
            ]
            line += [
                _largest([row[name] for row in here]) if here else "" for name in _ERRORS.values()
            ]
        lines.append(line)
    if with_error:
        yield "### Accuracy\n\n" + table(lines)


def _largest(errors: Sequence[float | None]) -> str:
    return "r is NaN" if None in errors else f"{max(e for e in errors if e is not None):.0e}"


_ERRORS = {"typical dimensions": "error_r", "large mean": "error_r_offset"}


def _pipeline(rows: Sequence[Row]) -> Iterator[str]:
    columns: dict[str, dict[str, Callable[[Row], str]]] = {
        "whole_run": {
            "text to r, MiniLM": lambda row: row["variant"],
            "threads": lambda row: str(row["threads"]),
            "tokens": lambda row: str(row["tokens"]),
            "with padding": lambda row: str(row["padded_cells"] or ""),
            "tokens/s": lambda row: f"{row['tokens_per_s']:.0f}",
            "times outdim": lambda row: number(row["times_ours"]),
            "difference of r": lambda row: f"{row['difference_r']:.0e}",
        },
        "precision": {
            "forward of one batch": lambda row: row["variant"],
            "dtype": lambda row: row["dtype"],
            "threads": lambda row: str(row["threads"]),
            "tokens": lambda row: str(row["tokens"]),
            "ms": lambda row: f"{number(row['median_ms'])} ({number(row['min_ms'])})",
            "times as fast as float32": lambda row: number(row["times_float32"]),
            "largest change of r": lambda row: (
                f"{row['difference_r']:.1g} over {row['text_tokens']} tokens"
                if "difference_r" in row
                else ""
            ),
        },
        "sweep": {
            "a variant of a sweep": lambda row: f"{row['model']}, {row['variant']}",
            "layers": lambda row: row["layers"],
            "threads": lambda row: str(row["threads"]),
            "tokens": lambda row: str(row["tokens"]),
            "measured": lambda row: str(row["variants"]),
            "ms": lambda row: f"{number(row['median_ms'])} ({number(row['min_ms'])})",
            "times outdim": lambda row: number(row["times_ours"]),
        },
        "start_up": {
            "once a run, MiniLM": lambda row: row["variant"],
            "ms": lambda row: number(row["min_ms"]),
        },
        "forward": {
            "one batch": lambda row: row.get("model", "BERT-base"),
            "statistics": lambda row: row["variant"],
            "device": lambda row: row["device"],
            "dtype": lambda row: row["dtype"],
            "threads": lambda row: str(row["threads"]),
            "tokens": lambda row: str(row["tokens"]),
            "ms": lambda row: f"{number(row['median_ms'])} ({number(row['min_ms'])})",
            "overhead": lambda row: f"{row['overhead']:.2%}",
            "range": lambda row: f"{row['low']:.2%} to {row['high']:.2%}" if "low" in row else "",
            "host, us a point": lambda row: (
                number(row["host_us_a_point"]) if row["host_us_a_point"] else ""
            ),
        },
        "steps": {
            "within a forward": lambda row: row["model"],
            "step": lambda row: row["variant"],
            "threads": lambda row: str(row["threads"]),
            "step, ms": lambda row: number(row["median_ms"]),
            "rest, ms": lambda row: number(row["model_ms"]),
            "overhead": lambda row: f"{row['overhead']:.1%}",
            "range": lambda row: f"{row['low']:.1%} to {row['high']:.1%}",
        },
        "attention_received": {
            "what keys receive, 12 heads of 64": lambda row: row["variant"],
            "threads": lambda row: str(row["threads"]),
            "S": lambda row: f"{row['length']}{', causal' if row['causal'] else ''}",
            "ms": lambda row: f"{number(row['median_ms'])} ({number(row['min_ms'])})",
            "times SDPA": lambda row: number(row["of_sdpa"]),
            "MiB at peak": lambda row: f"{row['peak_mib']:.0f}",
        },
        "attention_step": {
            "step attention in a forward": lambda row: row["variant"],
            "dtype": lambda row: row["dtype"],
            "threads": lambda row: str(row["threads"]),
            "S": lambda row: str(row["length"]),
            "ms": lambda row: f"{number(row['median_ms'])} ({number(row['min_ms'])})",
            "overhead": lambda row: f"{row['overhead']:.1%}",
            "range": lambda row: f"{row['low']:.1%} to {row['high']:.1%}",
        },
        "commit": {
            "host alone": lambda row: row["variant"],
            "commit of a batch, us": lambda row: number(row["commit_us"]),
            "a point of one row, us": lambda row: number(row["point_us"]),
            "the same in a norm": lambda row: number(row["fused_us"]),
            "torch's add and norm": lambda row: number(row["torch_norm_us"]),
        },
        "peak_memory": {
            "small model": lambda row: row["variant"],
            "tokens": lambda row: str(row["tokens"]),
            "MiB before": lambda row: f"{row['before_mib']:.0f}",
            "MiB at peak": lambda row: f"{row['peak_mib']:.0f}",
        },
        "counting": {
            "English text": lambda row: row["variant"],
            "MB": lambda row: f"{row['mb']:.0f}",
            "million tokens": lambda row: number(row["tokens"] / 1e6),
            "million tokens/s": lambda row: number(row["tokens_per_second"] / 1e6),
            "times encode_batch": lambda row: number(row["ratio"]),
            "by CPU time": lambda row: number(row["ratio_cpu"]),
            "MiB at peak": lambda row: f"{row['peak_rss_mib']:.0f}",
        },
    }
    for op, shown in columns.items():
        here = [row for row in rows if row["op"] == op]
        if here:
            lines = [list(shown), *([get(row) for get in shown.values()] for row in here)]
            yield f"## {op.replace('_', ' ').capitalize()}\n\n{table(lines)}"


if __name__ == "__main__":
    main()
