"""Write docs/performance.md from the JSON rows of the benchmarks.

python benchmarks/tables.py [benchmarks/results] [docs/performance.md]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from outdim.bench import FORMAT

_ROOT = Path(__file__).resolve().parent.parent
_DTYPES = ("float32", "bfloat16")
_ALIKE = 0.75

Row = dict[str, Any]


class Target(NamedTuple):
    """What is aimed at: a ratio of two medians, or with no `rival` a share of the roofline."""

    text: str
    device: str
    op: str
    ours: str
    rival: str | None
    wanted: tuple[float, float]  # float32, bfloat16
    at_most: bool = False


_FUSED = "layer_norm_moments"
_BARE = "torch LayerNorm alone, zeroed gamma and beta"
_WHOLE = "torch.compile of the whole, float32"
_EAGER = "torch, then float64 sums"
TARGETS = (
    Target("LayerNorm, against torch with zeroed parameters", "cpu", "layer_norm", "outdim",
           "torch, zeroed gamma and beta", (1.9, 2.5)),
    Target("moments exact, against torch float64", "cpu", "moments", "outdim exact",
           "torch float64 sums", (18, 18)),
    Target("moments exact, against torch.compile float32", "cpu", "moments", "outdim exact",
           "torch.compile float32 sums", (3, 2.5)),
    Target("fused exact, against LayerNorm, mask, float64 sums", "cpu", _FUSED, "outdim exact",
           _EAGER, (14, 14)),
    Target("fused exact, against torch.compile of the whole", "cpu", _FUSED, "outdim exact",
           _WHOLE, (3, 2.5)),
    Target("time of fused fast over torch's LayerNorm alone", "cpu", _FUSED, "outdim fast", _BARE,
           (0.8, 0.8), at_most=True),
    Target("LayerNorm, share of copy bandwidth", "cuda", "layer_norm", "outdim", None,
           (0.92, 0.92)),
    Target("fused fast, share of copy bandwidth", "cuda", _FUSED, "outdim fast", None,
           (0.90, 0.85)),
    Target("time of fused fast over our LayerNorm alone", "cuda", _FUSED, "outdim fast",
           "outdim LayerNorm alone", (1.05, 1.12), at_most=True),
    Target("fused fast, against LayerNorm, mask, float64 sums", "cuda", _FUSED, "outdim fast",
           _EAGER, (12, 12)),
    Target("fused fast, against torch.compile of the whole", "cuda", _FUSED, "outdim fast",
           _WHOLE, (2, 2)),
)  # fmt: skip


def main() -> None:
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else _ROOT / "benchmarks" / "results"
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
            parts += [f"## {title}: aims", _targets(here, device), *_bounds(here, device, title)]
            parts += [f"## {title}: times", *_times(here), *_accuracy(here)]
    parts += _pipeline(rows)
    return "\n\n".join(parts) + "\n"


def _machines(files: Sequence[dict[str, Any]]) -> Iterator[str]:
    for file in files:
        facts = ", ".join(f"{key} {value}" for key, value in file["machine"].items())
        yield f"- `{file['name']}`: {facts}"


def _targets(rows: Sequence[Row], device: str) -> str:
    threads = _all_threads(rows)
    heads = [f"{dtype}, {_threads(device, t)}" for t in threads for dtype in _DTYPES]
    lines = [["range over the sizes", "aim (float32 / bfloat16)", *heads]]
    for target in TARGETS:
        if target.device != device:
            continue
        sign = "≤" if target.at_most else "≥"
        line = [target.text, f"{sign} " + " / ".join(map(_number, target.wanted))]
        for number in threads:
            for dtype, wanted in zip(_DTYPES, target.wanted, strict=True):
                found = [ratio for _, ratio in _ratios(target, dtype, number, rows)]
                line.append(_verdict(found, wanted, target.at_most))
        lines.append(line)
    return _table(lines)


def _ratios(
    target: Target, dtype: str, threads: int, rows: Sequence[Row]
) -> Iterator[tuple[Row, float]]:
    """Our rows of every size, with the ratio that the target is about."""
    for row in rows:
        key = row["op"], row["variant"], row["dtype"], row["threads"]
        if key == (target.op, target.ours, dtype, threads):
            ratio = _ratio(target, row, rows)
            if ratio is not None:
                yield row, ratio


def _ratio(target: Target, ours: Row, rows: Sequence[Row]) -> float | None:
    if target.rival is None:
        return float(ours["share"])
    for row in rows:
        if row["variant"] == target.rival and _case(row) == _case(ours) and "skipped" not in row:
            ratio = row["median_ms"] / ours["median_ms"]
            return 1 / ratio if target.at_most else ratio
    return None


def _verdict(found: Sequence[float], wanted: float, at_most: bool) -> str:
    if not found:
        return ""
    met = [value <= wanted if at_most else value >= wanted for value in found]
    word = "met" if all(met) else "partly" if any(met) else "not met"
    return f"{_range(found)}, {word}"


def _bounds(rows: Sequence[Row], device: str, title: str) -> Iterator[str]:
    """What limits our kernels on one core, and what no kernel could reach."""
    timed = [row for row in rows if "in_cache_ns" in row]
    if not timed:
        return
    lines = [["ns an element, range over the sizes", "in cache", "at the roofline", "measured",
              "larger bound / measured", "bounded by"]]  # fmt: skip
    for key in _distinct((row["op"], row["variant"], row["dtype"]) for row in timed):
        here = [row for row in timed if (row["op"], row["variant"], row["dtype"]) == key]
        measured = [row["median_ms"] * 1e6 / (row["N"] * row["D"]) for row in here]
        memory = [ns * row["share"] for ns, row in zip(measured, here, strict=True)]
        cached = [row["in_cache_ns"] for row in here]
        bounds = list(zip(cached, memory, strict=True))
        reached = [max(pair) / ns for pair, ns in zip(bounds, measured, strict=True)]
        words = _distinct(_bounded_by(*pair) for pair in bounds)
        lines.append([f"{key[0]}: {key[1]}, {key[2]}", *map(_range, (cached, memory, measured)),
                      _range(reached), ", ".join(words)])  # fmt: skip
    yield f"## {title}: bounds\n\n{_table(lines)}"
    lines = [["aims not met everywhere", "aim", "measured", "at the roofline"]]
    for target in TARGETS:
        for threads in _all_threads(rows) if target.device == device and target.rival else ():
            for dtype, wanted in zip(_DTYPES, target.wanted, strict=True):
                pairs = list(_ratios(target, dtype, threads, rows))
                verdict = _verdict([ratio for _, ratio in pairs], wanted, target.at_most)
                if not verdict or verdict.endswith(", met"):
                    continue
                best = [
                    ratio * row["share"] if target.at_most else ratio / row["share"]
                    for row, ratio in pairs
                ]
                sign = "≤" if target.at_most else "≥"
                name = f"{target.text}; {dtype}, {_threads(device, threads)}"
                lines.append([name, f"{sign} {_number(wanted)}", verdict, _range(best)])
    if len(lines) > 1:
        yield _table(lines)


def _bounded_by(cached: float, memory: float) -> str:
    """What takes longer; both where they are nearly alike, since they overlap but in part."""
    if min(cached, memory) > _ALIKE * max(cached, memory):
        return "both"
    return "memory" if memory > cached else "instructions"


def _all_threads(rows: Sequence[Row]) -> list[int]:
    return _distinct(row["threads"] for row in rows if "share" in row)


def _times(rows: Sequence[Row]) -> Iterator[str]:
    """A table per operation, dtype and threads; a column per size."""
    timed = [row for row in rows if "bound" in row]
    for key in _distinct((row["op"], row["dtype"], row["threads"]) for row in timed):
        op, dtype, threads = key
        here = [row for row in timed if (row["op"], row["dtype"], row["threads"]) == key]
        sizes = _distinct((row["N"], row["D"], row.get("S")) for row in here)
        lines = [["ms · times outdim · share", *map(_size, sizes)]]
        for variant in _distinct(row["variant"] for row in here):
            by_size = {
                (row["N"], row["D"], row.get("S")): row for row in here if row["variant"] == variant
            }
            lines.append([variant, *(_cell(by_size.get(size)) for size in sizes)])
        yield f"### {op}, {dtype}, {_threads(here[0]['device'], threads)}\n\n{_table(lines)}"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if "skipped" in row:
        return "skipped"
    cell = f"{_number(row['median_ms'])} ({_number(row['min_ms'])})"
    if "times_ours" in row:
        return f"{cell} · {_number(row['times_ours'])} · {row['share']:.0%}"
    return f"{cell} · {row['gb_per_s']:.1f} GB/s"


def _size(size: tuple[int, int, int | None]) -> str:
    N, D, S = size
    return f"{N} x {D}" + (f", {S} dims" if S else "")


def _accuracy(rows: Sequence[Row]) -> Iterator[str]:
    """The largest error of r over sizes and threads."""
    with_error = [row for row in rows if "error_r_offset" in row]
    lines = [["largest error of r", *(f"{d}, {what}" for d in _DTYPES for what in _ERRORS)]]
    for op, variant in _distinct((row["op"], row["variant"]) for row in with_error):
        line = [f"{op}: {variant}"]
        for dtype in _DTYPES:
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
        yield "### Accuracy\n\n" + _table(lines)


def _largest(errors: Sequence[float | None]) -> str:
    return "r is NaN" if None in errors else f"{max(e for e in errors if e is not None):.0e}"


_ERRORS = {"typical dimensions": "error_r", "large mean": "error_r_offset"}


def _pipeline(rows: Sequence[Row]) -> Iterator[str]:
    columns: dict[str, dict[str, Callable[[Row], str]]] = {
        "overhead": {
            "one batch, BERT-base": lambda row: row["variant"],
            "threads": lambda row: str(row["threads"]),
            "tokens": lambda row: str(row["tokens"]),
            "ms": lambda row: f"{_number(row['median_ms'])} ({_number(row['min_ms'])})",
            "overhead, wall": lambda row: f"{row['overhead']:.1%}",
            "overhead, CPU time": lambda row: f"{row['cpu_overhead']:.1%}",
        },
        "whole_run": {
            "text to r, BERT-base": lambda row: row["variant"],
            "threads": lambda row: str(row["threads"]),
            "tokens": lambda row: str(row["tokens"]),
            "with padding": lambda row: str(row["padded_cells"] or ""),
            "tokens/s": lambda row: f"{row['tokens_per_s']:.0f}",
            "times outdim": lambda row: _number(row["times_ours"]),
            "difference of r": lambda row: f"{row['difference_r']:.0e}",
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
            "million tokens": lambda row: _number(row["tokens"] / 1e6),
            "million tokens/s": lambda row: _number(row["tokens_per_second"] / 1e6),
            "times encode_batch": lambda row: _number(row["ratio"]),
            "by CPU time": lambda row: _number(row["ratio_cpu"]),
            "MiB at peak": lambda row: f"{row['peak_rss_mib']:.0f}",
        },
    }
    for op, shown in columns.items():
        here = [row for row in rows if row["op"] == op]
        if here:
            lines = [list(shown), *([get(row) for get in shown.values()] for row in here)]
            yield f"## {op.replace('_', ' ').capitalize()}\n\n{_table(lines)}"


def _case(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in ("op", "dtype", "N", "D", "S", "device", "threads"))


def _threads(device: str, threads: int) -> str:
    if device == "cuda":
        return "GPU"
    return f"{threads} thread" + ("s" if threads > 1 else "")


def _number(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _range(values: Sequence[float]) -> str:
    return f"{_number(min(values))} to {_number(max(values))}"


def _distinct(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = (
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
    return "\n".join([head, "| --- " * len(lines[0]) + "|", *body])


if __name__ == "__main__":
    main()
