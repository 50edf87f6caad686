"""What is aimed at, what was reached, and what bounds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cells import DTYPES, Row, case_of, distinct, number, spread, table, threads_name

_ALIKE = 0.75


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
    Target("time of fused exact over torch's LayerNorm alone", "cpu", _FUSED, "outdim exact", _BARE,
           (0.8, 0.8), at_most=True),
    Target("LayerNorm, share of copy bandwidth", "cuda", "layer_norm", "outdim", None,
           (0.92, 0.92)),
    Target("fused fast, against LayerNorm, mask, float64 sums", "cuda", _FUSED, "outdim fast",
           _EAGER, (12, 12)),
    Target("fused fast, against torch.compile of the whole", "cuda", _FUSED, "outdim fast",
           _WHOLE, (2, 2)),
)  # fmt: skip


class Measure(NamedTuple):
    """What is aimed at where a row says it by itself: one number of the rows that are meant."""

    text: str
    value: Callable[[Row], float | None]  # None: another row
    wanted: tuple[float, float]  # float32, bfloat16
    at_most: bool = True


def _overhead(op: str, model: str, variant: str) -> Callable[[Row], float | None]:
    meant = {"op": op, "model": model, "variant": variant}
    return lambda row: row["overhead"] if meant.items() <= row.items() else None


def _ns(variant: str, D: int) -> Callable[[Row], float | None]:
    meant = {"op": "as in correlate", "variant": variant, "D": D}
    return lambda row: (
        row["median_ms"] * 1e6 / (row["N"] * D) if meant.items() <= row.items() else None
    )


def _field(op: str, variant: str, name: str) -> Callable[[Row], float | None]:
    return lambda row: row[name] if (row["op"], row["variant"]) == (op, variant) else None


MEASURES = (
    *(
        Measure(f"statistics of correlate, {way}, over a forward of {model}",
                _overhead("forward", model, way), wanted)
        for model, wanted in (("BERT-base", (0.01, 0.03)), ("MiniLM", (0.02, 0.05)))
        for way in ("fused", "hooks")
    ),
    Measure("correlate with its table of types, by hooks, over a forward of BERT-base",
            _overhead("steps", "BERT-base", "correlate"), (0.01, 0.03)),
    Measure("all observing steps over a forward of BERT-base",
            _overhead("steps", "BERT-base", "all"), (0.1, 0.1)),
    *(
        Measure(f"{what}, D = {D}, ns a value", _ns(variant, D), (wanted, wanted))
        for what, variant, wanted in (
            ("residual, LayerNorm, all statistics", "outdim", 1.5),
            ("all statistics alone", "outdim, moments alone", 0.9),
        )
        for D in (768, 4096)
    ),
    Measure("host time of a point, us", _field("commit", "13 points, three groups", "point_us"),
            (10, 10)),
    Measure("a whole run, against the published way",
            _field("whole_run", "published way", "times_ours"), (5, 5), at_most=False),
)  # fmt: skip


def targets(rows: Sequence[Row], device: str) -> str:
    threads = _all_threads(rows)
    heads = [f"{dtype}, {threads_name(device, t)}" for t in threads for dtype in DTYPES]
    lines = [["range over the sizes", "aim (float32 / bfloat16)", *heads]]

    def add(text: str, aim: Measure | Target, find: Callable[[str, int], list[float]]) -> None:
        line = [text, ("≤ " if aim.at_most else "≥ ") + " / ".join(map(number, aim.wanted))]
        for count in threads:
            for dtype, wanted in zip(DTYPES, aim.wanted, strict=True):
                line.append(verdict(find(dtype, count), wanted, aim.at_most))
        lines.append(line)

    for measure in MEASURES if device == "cpu" else ():
        add(measure.text, measure, lambda dtype, count, of=measure.value: [
            value
            for row in rows
            if (row.get("dtype", DTYPES[0]), row.get("threads", 1)) == (dtype, count)
            and (value := of(row)) is not None
        ])  # fmt: skip
    for target in TARGETS:
        if target.device == device:
            add(target.text, target, lambda dtype, count, of=target: [
                ratio for _, ratio in _ratios(of, dtype, count, rows)
            ])  # fmt: skip
    return table(lines)


def _ratios(
    target: Target, dtype: str, threads: int, rows: Sequence[Row]
) -> Iterator[tuple[Row, float]]:
    """Our rows of every size, with the ratio that the target is about."""
    for row in rows:
        key = tuple(row.get(name) for name in ("op", "variant", "dtype", "threads"))
        if key == (target.op, target.ours, dtype, threads):
            ratio = ratio_of(target, row, rows)
            if ratio is not None:
                yield row, ratio


def ratio_of(target: Target, ours: Row, rows: Sequence[Row]) -> float | None:
    if target.rival is None:
        return float(ours["share"])
    for row in rows:
        if (
            row["variant"] == target.rival
            and case_of(row) == case_of(ours)
            and "skipped" not in row
        ):
            ratio = row["median_ms"] / ours["median_ms"]
            return 1 / ratio if target.at_most else ratio
    return None


def verdict(found: Sequence[float], wanted: float, at_most: bool) -> str:
    if not found:
        return ""
    met = [value <= wanted if at_most else value >= wanted for value in found]
    word = "met" if all(met) else "partly" if any(met) else "not met"
    return f"{spread(found) if len(found) > 1 else number(found[0])}, {word}"


def bounds(rows: Sequence[Row], device: str, title: str) -> Iterator[str]:
    """What limits our kernels on one core, and what no kernel could reach."""
    timed = [row for row in rows if "in_cache_ns" in row]
    if not timed:
        return
    lines = [["ns an element, range over the sizes", "in cache", "at the roofline", "measured",
              "larger bound / measured", "bounded by"]]  # fmt: skip
    for key in distinct((row["op"], row["variant"], row["dtype"]) for row in timed):
        here = [row for row in timed if (row["op"], row["variant"], row["dtype"]) == key]
        measured = [row["median_ms"] * 1e6 / (row["N"] * row["D"]) for row in here]
        memory = [ns * row["share"] for ns, row in zip(measured, here, strict=True)]
        cached = [row["in_cache_ns"] for row in here]
        pairs = list(zip(cached, memory, strict=True))
        reached = [max(pair) / ns for pair, ns in zip(pairs, measured, strict=True)]
        words = distinct(_bounded_by(*pair) for pair in pairs)
        lines.append([f"{key[0]}: {key[1]}, {key[2]}", *map(spread, (cached, memory, measured)),
                      spread(reached), ", ".join(words)])  # fmt: skip
    yield f"## {title}: bounds\n\n{table(lines)}"
    lines = [["aims not met everywhere", "aim", "measured", "at the roofline"]]
    for target in TARGETS:
        for threads in _all_threads(rows) if target.device == device and target.rival else ():
            for dtype, wanted in zip(DTYPES, target.wanted, strict=True):
                ratios = list(_ratios(target, dtype, threads, rows))
                said = verdict([ratio for _, ratio in ratios], wanted, target.at_most)
                if not said or said.endswith(", met"):
                    continue
                best = [
                    ratio * row["share"] if target.at_most else ratio / row["share"]
                    for row, ratio in ratios
                ]
                sign = "≤" if target.at_most else "≥"
                name = f"{target.text}; {dtype}, {threads_name(device, threads)}"
                lines.append([name, f"{sign} {number(wanted)}", said, spread(best)])
    if len(lines) > 1:
        yield table(lines)


def _bounded_by(cached: float, memory: float) -> str:
    """What takes longer; both where they are nearly alike, since they overlap but in part."""
    if min(cached, memory) > _ALIKE * max(cached, memory):
        return "both"
    return "memory" if memory > cached else "instructions"


def _all_threads(rows: Sequence[Row]) -> list[int]:
    return distinct(row["threads"] for row in rows if "share" in row)
