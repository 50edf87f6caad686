"""Studies with planted outliers, written as runs write them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from outdim import manifest
from outdim.analysis.count import Counted
from outdim.analysis.results.detection import detect_parameters
from outdim.analysis.results.estimate import Estimate
from outdim.analysis.step import Result
from outdim.analysis.table import COVARIATES, PEARSON_ABS, TidyRows
from outdim.report.statistics import Key
from outdim.report.views import View, labels
from outdim.run.plan import Entry, Study
from outdim.run.results import account_of, write_results
from outdim.tokens import TokenFrequencies

MOMENTS = ("mean", "std", "kurtosis", "absmax", "mean_abs", "fraction_over_6")
TOKENS = {"text": 600_000, "text+first": 606_000, "all": 612_345}


@dataclass(frozen=True)
class Planted(Result):
    """A result whose tables and sentences are given."""

    given: dict[str, Any]
    said: tuple[str, ...] = ()
    beware: tuple[str, ...] = ()

    def tables(self) -> dict[str, Any]:
        return self.given

    def headline(self) -> tuple[str, ...]:
        return self.said

    def cautions(self) -> tuple[str, ...]:
        return self.beware


def write_study(path: Path, found: dict[str, Result], **about: Any) -> Path:
    """Write the results of steps as a run does, with its plan and manifest."""
    path.mkdir(parents=True, exist_ok=True)
    study = Study(path)
    study.add([Entry(step, {"seed": 1}, {}, ({},)) for step in found])
    manifest.begin(path, "planted")
    hashes = write_results(path, found, list(found))
    parts = {
        **account_of(found),
        **about,
        "plan": {s: e.sha256 for s, e in study.entries().items()},
    }
    manifest.update(path, {"finished": manifest.now(), **parts, "results": hashes})
    return path


def change_manifest(path: Path, **parts: Any) -> None:
    """Replace entries of a manifest."""
    from outdim.files import write_json

    write_json(path / manifest.NAME, {**manifest.read(path), **parts})


def make_run(
    path: Path,
    *,
    layers: int = 4,
    dims: int = 64,
    vocab: int = 500,
    outliers: tuple[int, ...] = (7, 41),
    steps: tuple[str, ...] = ("detect", "correlate", "count"),
    model: str = "tiny-bert",
    tokens: dict[int, str] | None = None,
    beta: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a study; return what was planted: r by (statistic, covariate, selection), gamma, ..."""
    rng = np.random.default_rng(seed)
    gamma, shift = _parameters(rng, layers, dims, outliers)
    detection = detect_parameters(gamma, shift if beta else None, permutations=20)
    r = _correlations(rng, layers, dims, outliers)
    frequencies = _frequencies(rng, vocab, tokens or {})
    read = {
        "documents": 6_789,
        "tokens": 612_345,
        "special": 12_345,
        "skipped": {},
        "places": [],
    }
    results: dict[str, Result] = {
        "detect": detection,
        "correlate": Planted({"stats": _stats(rng, r, layers, dims)}, ("r was found.",)),
        "count": Counted(frequencies, {"name": "chunks", "why": "proved exact"}, read),
    }
    write_study(path, {step: results[step] for step in steps}, **about(model, layers, dims))
    return {
        "gamma": gamma,
        "beta": shift,
        "detection": detection,
        "r": r,
        "frequencies": frequencies,
    }


def about(model: str, layers: int, dims: int) -> dict[str, Any]:
    return {
        "model": {
            "name": model,
            "sha256": "ab" * 32,
            "placement": "post",
            "layers": layers,
            "hidden_size": dims,
            "parameters": 109_482_240,
        },
        "tokenizer": {"name": model, "sha256": "cd" * 32},
        "data": {
            "source": "corpus.parquet",
            "files": [{"path": "corpus.parquet", "size_bytes": 2_345_678, "sha256": "ef" * 32}],
        },
        "tokens": {"read": 612_345, "special": 12_345, "padded": 20_111, "used": 600_000},
        "tokens_per_second": 8_685.7,
    }


def _parameters(rng, layers, dims, outliers):
    gamma = rng.normal(0.85, 0.03, (layers, dims))
    shift = rng.normal(0.0, 0.05, (layers, dims))
    for place, dim in enumerate(outliers):
        gamma[:, dim] += (0.5 - 0.9 * place) * rng.uniform(0.8, 1.2, layers)
        shift[:, dim] += (-0.6 + 1.1 * place) * rng.uniform(0.8, 1.2, layers)
    return gamma, shift


def _correlations(rng, layers, dims, outliers) -> dict[tuple[str, str, str], Any]:
    r = {}
    depth = np.linspace(0, 1, layers + 1)
    base = np.cumsum(rng.normal(0, 0.09 / layers**0.5, (layers + 1, dims)), axis=0)
    base += rng.normal(-0.04, 0.1, dims)
    for selection in TOKENS:
        for statistic in ("pearson", "pearson_abs"):
            for c, covariate in enumerate(COVARIATES):
                value = np.clip(base * (1.0 - 0.1 * c) + rng.normal(0, 0.03, base.shape), -0.7, 0.7)
                for place, dim in enumerate(outliers):
                    curve = 0.85 - 0.9 * depth if place % 2 == 0 else np.sin(3 * depth) * 0.6
                    value[:, dim] = curve * (1.0 if statistic == "pearson_abs" else -1.0)
                r[statistic, covariate, selection] = value
    return r


def _stats(rng, r, layers: int, dims: int) -> pa.Table:
    rows = TidyRows()
    for layer in range(layers + 1):
        point = f"block.{layer - 1}" if layer else "embeddings"
        for selection, n in TOKENS.items():
            at = {"point": point, "layer": layer, "selection": selection, "n": n}
            for statistic in MOMENTS:
                rows.add(statistic, rng.gamma(2.0, 1.0, dims), **at)
            for (statistic, covariate, chosen), values in r.items():
                if chosen == selection:
                    rows.add(statistic, values[layer], covariate=covariate, **at)
    return rows.table()


def _frequencies(rng, vocab: int, tokens: dict[int, str]) -> TokenFrequencies:
    labels = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "$", "#", "$x$", "字", "é"]
    labels += [f"word{i}" if i % 4 else f"##w{i}" for i in range(len(labels), vocab)]
    for i, token in tokens.items():
        labels[i] = token
    count = rng.poisson(60_000 / np.arange(1, vocab + 1) ** 1.1).astype(np.int64)
    count[:4] = [0, 3, 6_789, 6_789]
    return TokenFrequencies(count, np.arange(vocab) < 4, tuple(labels))


def corrupt(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def view(value, statistic=PEARSON_ABS, covariate="count", **worth):
    """A view of values [R, S]."""
    points = [f"block.{row}" for row in range(len(value))]
    layers = list(range(1, len(value) + 1))
    return View(
        Key(statistic.name, covariate, "text"),
        statistic,
        "hidden states",
        points,
        layers,
        labels(points, layers),
        Estimate(np.asarray(value, float), **worth),
        "dimension",
    )
