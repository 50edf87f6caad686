"""Run directories with planted outliers, in the format that runs write."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

STATISTICS = (
    "mean",
    "variance",
    "std",
    "kurtosis",
    "min",
    "max",
    "absmax",
    "mean_abs",
    "fraction_over_6",
    "nonfinite",
)
COVARIATES = ("count", "log1p_count", "mid_rank", "position")


def make_run(
    path: Path,
    *,
    layers: int = 4,
    dims: int = 64,
    vocab: int = 500,
    outliers: tuple[int, ...] = (7, 41),
    parts: tuple[str, ...] = ("manifest", "counts", "stats", "detection"),
    model: str = "tiny-bert",
    tokens: dict[int, str] | None = None,
    beta: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a run; return what was planted: r by (statistic, covariate, selection), gamma, ..."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True, exist_ok=True)
    truth = _parameters(rng, layers, dims, outliers, beta) | {
        "r": _correlations(rng, layers, dims, outliers)
    }
    if "manifest" in parts:
        (path / "manifest.json").write_text(json.dumps(manifest(model, layers, dims, vocab)))
    if "counts" in parts:
        truth["counts"] = _write_counts(path, rng, vocab, tokens or {})
    if "stats" in parts:
        _write_stats(path, rng, truth, layers, dims)
    if "detection" in parts:
        (path / "detection.json").write_text(json.dumps(_detection(truth, layers, outliers)))
    return truth


def manifest(model: str, layers: int, dims: int, vocab: int) -> dict[str, Any]:
    return {
        "outdim": "0.1.0",
        "command": f"outdim correlate --model {model} --source corpus.parquet --output run",
        "created": "2026-01-02T03:04:05+00:00",
        "finished": "2026-01-02T03:05:17+00:00",
        "options": {"source": "corpus.parquet", "max_length": 128, "points": None, "fused": True},
        "model": {
            "name": model,
            "path": "models/" + model,
            "sha256": "ab" * 32,
            "family": "bert",
            "placement": "post",
            "layers": layers,
            "hidden_size": dims,
            "parameters": 109_482_240,
            "dtype": "float32",
        },
        "tokenizer": {"name": model, "sha256": "cd" * 32, "vocab_size": vocab},
        "data": {
            "source": "corpus.parquet",
            "column": "text",
            "files": [{"path": "corpus.parquet", "size_bytes": 2_345_678, "sha256": "ef" * 32}],
        },
        "tokens": {
            "read": 612_345,
            "special": 12_345,
            "padded": 20_111,
            "excluded": {},
            "used": 612_345,
            "documents": 6_789,
        },
        "counting": {"method": "chunks", "why": "proved exact on a sample of 1,000 documents"},
        "machine": {
            "cpu": "Example CPU @ 2.0 GHz",
            "cores": 2,
            "gpu": None,
            "isa": "avx2",
            "python": "3.11.2",
            "torch": "2.13.0",
            "transformers": "5.23.0",
        },
        "seconds": {"count": 1.2, "correlate": 70.5},
        "tokens_per_second": 8_685.7,
    }


def _parameters(rng, layers, dims, outliers, beta) -> dict[str, Any]:
    gamma = rng.normal(0.85, 0.03, (layers, dims))
    shift = rng.normal(0.0, 0.05, (layers, dims))
    for place, dim in enumerate(outliers):
        gamma[:, dim] += (0.5 - 0.9 * place) * rng.uniform(0.8, 1.2, layers)
        shift[:, dim] += (-0.6 + 0.25 * place) * rng.uniform(0.8, 1.2, layers)
    truth: dict[str, Any] = {"gamma": gamma, "gamma_z": _z(gamma)}
    if beta:
        truth |= {"beta": shift, "beta_z": _z(shift)}
    return truth


def _z(values):
    return (values - values.mean(1, keepdims=True)) / values.std(1, ddof=1, keepdims=True)


def _correlations(rng, layers, dims, outliers) -> dict[tuple[str, str, str], Any]:
    r = {}
    depth = np.linspace(0, 1, layers + 1)[:, None]
    base = np.cumsum(rng.normal(0, 0.09 / layers**0.5, (layers + 1, dims)), axis=0) + rng.normal(
        -0.04, 0.1, dims
    )
    for selection in ("text", "all"):
        for statistic in ("pearson", "pearson_abs"):
            for c, covariate in enumerate(COVARIATES):
                value = np.clip(base * (1.0 - 0.1 * c) + rng.normal(0, 0.03, base.shape), -0.7, 0.7)
                for place, dim in enumerate(outliers):
                    curve = (
                        0.85 - 0.9 * depth[:, 0]
                        if place % 2 == 0
                        else np.sin(3 * depth[:, 0]) * 0.6
                    )
                    value[:, dim] = curve * (1.0 if statistic == "pearson_abs" else -1.0)
                r[statistic, covariate, selection] = value
    return r


def _write_counts(path, rng, vocab, tokens):
    labels = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "$", "#", "$x$", "字", "é"]
    labels += [f"word{i}" if i % 4 else f"##w{i}" for i in range(len(labels), vocab)]
    for i, token in tokens.items():
        labels[i] = token
    count = rng.poisson(60_000 / np.arange(1, vocab + 1) ** 1.1).astype(np.int64)
    special = np.arange(vocab) < 4
    count[:4] = [0, 3, 6_789, 6_789]
    pq.write_table(
        pa.table(
            {
                "id": np.arange(vocab),
                "token": labels,
                "bytes": pa.array([t.encode() for t in labels], pa.binary()),
                "special": special,
                "count": count,
                "documents": pa.nulls(vocab, pa.int64()),
            }
        ),
        path / "counts.parquet",
    )
    return {"labels": labels, "count": count, "special": special}


def _write_stats(path, rng, truth, layers, dims) -> None:
    hidden = ["embeddings", *(f"block.{i}" for i in range(layers))]
    n = {"text": 600_000, "all": 612_345}
    blocks = []
    for p, point in enumerate(hidden):
        for selection in ("text", "all"):
            for statistic in STATISTICS:
                values = truth.get((statistic, selection, point))
                if values is None:
                    values = (
                        np.zeros(dims) if statistic == "nonfinite" else rng.gamma(2.0, 1.0, dims)
                    )
                blocks.append((point, p, selection, statistic, "", values, n[selection]))
            for (statistic, covariate, sel), r in truth["r"].items():
                if sel == selection:
                    blocks.append((point, p, selection, statistic, covariate, r[p], n[selection]))
    for name in ("gamma", "beta", "gamma_z", "beta_z"):
        if name in truth:
            blocks += [
                (f"block.{i}.norm", i + 1, "", name, "", truth[name][i], 0) for i in range(layers)
            ]
    write_blocks(path / "stats.parquet", blocks)


def write_blocks(
    path: Path,
    blocks: list[tuple[str, int, str, str, str, Any, int]],
    reasons: dict[int, str] | None = None,  # by row
) -> None:
    sizes = [len(block[5]) for block in blocks]

    def repeat(position, dtype):
        return np.repeat(np.array([block[position] for block in blocks], dtype), sizes)

    pq.write_table(
        pa.table(
            {
                "point": pa.array(repeat(0, object)),
                "layer": repeat(1, np.int16),
                "dim": np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]),
                "selection": pa.array(repeat(2, object)),
                "statistic": pa.array(repeat(3, object)),
                "covariate": pa.array(repeat(4, object)),
                "value": np.concatenate(
                    [np.asarray(block[5], dtype=np.float64) for block in blocks]
                ),
                "n": repeat(6, np.int64),
                "reason": [(reasons or {}).get(row, "") for row in range(sum(sizes))],
            }
        ),
        path,
    )


def _detection(truth, layers, outliers) -> dict[str, Any]:
    over = {name: np.abs(truth[name]) > 3 for name in ("gamma_z", "beta_z") if name in truth}
    both = np.logical_and.reduce(list(over.values()))

    def summary(dim):
        return {
            "dim": dim,
            "layers_gamma": int(over["gamma_z"][:, dim].sum()),
            "layers_beta": int(over["beta_z"][:, dim].sum()) if "beta_z" in over else None,
            "layers_both": int(both[:, dim].sum()),
            "max_abs_z_gamma": float(np.abs(truth["gamma_z"][:, dim]).max()),
            "max_abs_z_beta": float(np.abs(truth["beta_z"][:, dim]).max())
            if "beta_z" in over
            else None,
        }

    def bounds(layer):
        beta = truth.get("beta")
        return {
            "layer": layer,
            "norm": f"encoder.layer.{layer}.output.LayerNorm",
            "gamma_mean": float(truth["gamma"][layer].mean()),
            "gamma_std": float(truth["gamma"][layer].std(ddof=1)),
            "beta_mean": None if beta is None else float(beta[layer].mean()),
            "beta_std": None if beta is None else float(beta[layer].std(ddof=1)),
        }

    return {
        "rule": "kovaleva2021",
        "k": 3.0,
        "min_fraction": 0.5,
        "min_layers": -(-layers // 2),
        "layers": layers,
        "note": "",
        "dims": [summary(dim) for dim in sorted(outliers)],
        "false_positives": {
            "permutations": 1000,
            "expected_dims": 0.001,
            "probability_any": 0.001,
            "expected_dims_layers_kept": 0.04,
        },
        "bounds": [bounds(layer) for layer in range(layers)],
    }
