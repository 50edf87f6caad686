"""Without a forward pass: correlate the sums per token that a run kept with any frequencies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save

from outdim.errors import DataError
from outdim.options import CorrelateOptions
from outdim.run import manifest
from outdim.run.files import check_run_directory, replacing, sha256_of, write_bytes
from outdim.run.plan import Plan

if TYPE_CHECKING:
    from outdim.analysis import Correlation
    from outdim.stats.token_sums import TokenSums
    from outdim.tokens import TokenFrequencies

_DRIVERS = 20  # tokens listed per point and dimension


def correlate_kept_sums(options: CorrelateOptions) -> Path:
    """``outdim correlate --from-run``: write ``correlations.csv``, ``bins.csv``, ``drivers.csv``.

    Pearson's r over the occurrences of ordinary tokens, from n, sum of h and of |h| per token id
    and the variances the run kept: exactly what a pass over the text with these frequencies would
    give. Bins hold the tokens whose counts have the same number of binary digits.

    Raises:
        DataError: The run kept no sums per token, or the counts are of another vocabulary.
        ResumeError: The output is that of another run or of other counts.
    """
    from outdim.run.setup import counts_path
    from outdim.tokens import TokenFrequencies

    assert options.from_run is not None
    check_run_directory(options.output, "correlate --from-run")
    path = options.from_run / "tokens.safetensors"
    if not path.is_file():
        raise DataError(f"{options.from_run} kept no sums per token: run it with --per-token DIMS.")
    counts = counts_path(options.counts or options.from_run)
    frequencies = TokenFrequencies.from_parquet(counts)
    with safe_open(path, "pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        about = json.loads(file.metadata()["outdim"])
    _check_vocabulary(
        kept["ids"].tolist(),
        TokenFrequencies.from_parquet(counts_path(options.from_run)).tokens,
        frequencies.tokens,
    )
    tables = {
        "correlations.csv": _correlations(kept, about, frequencies),
        "bins.csv": _bins(kept, about, frequencies),
        "drivers.csv": _drivers(kept, about, frequencies),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    names = {"from_run": str(options.from_run), "counts": str(counts)}
    inputs = {"plan": Plan.read(options.from_run).sha256, "counts": sha256_of(counts)}
    manifest.begin(options.output, "correlate --from-run", options=names, inputs=inputs)
    manifest.check(options.output, inputs=inputs)
    for name, table in tables.items():
        with replacing(options.output / name) as temporary:
            pa.csv.write_csv(table, temporary)
    manifest.update(options.output, finished=manifest.now())
    return options.output


def _check_vocabulary(ids: Sequence[int], ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Raise DataError unless the ids that the run saw stand for the same tokens in the counts."""
    for i in ids:
        other = theirs[i] if i < len(theirs) else None
        if other != ours[i]:
            there = "is not there" if other is None else f"is {other!r}"
            raise DataError(
                f"counts: they are of another vocabulary than the run: the token id {i} is "
                f"{ours[i]!r} in the run, and {there} in the counts."
            )


def _correlations(
    kept: dict[str, torch.Tensor], about: dict[str, Any], frequencies: TokenFrequencies
) -> pa.Table:
    ids, n = kept["ids"].numpy(), kept["n"].numpy().astype(np.float64)
    covariates = {
        "count": np.asarray(frequencies.counts, np.float64),
        "log1p_count": frequencies.log1p(),
        "mid_rank": frequencies.mid_rank(),
        "log2_bin": _bin(frequencies.counts).astype(np.float64),
    }
    if not len(ids):
        raise DataError("the run kept sums per token, but saw no ordinary token.")
    blocks = []
    for covariate, by_id in covariates.items():
        x = by_id[ids]
        x = x - np.average(x, weights=n)
        for statistic, sums, squares in (
            ("pearson", kept["sums"].numpy(), kept["m2"].numpy()),
            ("pearson_abs", kept["sums_abs"].numpy(), kept["m2_abs"].numpy()),
        ):
            r = _pearson(x, n, sums, squares)
            blocks += [
                (point, dim, statistic, covariate, r[p, s], int(n.sum()))
                for p, point in enumerate(about["points"])
                for s, dim in enumerate(about["dims"])
            ]
    names = ("point", "dim", "statistic", "covariate", "value", "n")
    return pa.table(dict(zip(names, map(list, zip(*blocks, strict=True)), strict=True)))


def _pearson(
    x: NDArray[np.float64],
    n: NDArray[np.float64],
    sums: NDArray[np.float64],
    m2: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Pearson's r [P, S] from sums per token [U, P, S] and M2 [P, S]; x [U] is centred."""
    mean = sums.sum(0) / n.sum()
    comoment = np.einsum("u,ups->ps", x, sums - n[:, None, None] * mean)
    scale = np.sqrt((n * x * x).sum() * m2)
    r: NDArray[np.float64] = np.full_like(m2, np.nan)
    np.divide(comoment, scale, out=r, where=scale > 0)
    return r


def _bin(counts: NDArray[np.int64]) -> NDArray[np.int32]:
    """Number of binary digits: 0 for 0, b for counts from 2^(b-1) to 2^b - 1."""
    digits: NDArray[np.int32] = np.frexp(counts.astype(np.float64))[1]
    return digits


def _bins(
    kept: dict[str, torch.Tensor], about: dict[str, Any], frequencies: TokenFrequencies
) -> pa.Table:
    """Means of h and |h| over the tokens of each bin, per point and dimension."""
    bin_of = _bin(frequencies.counts[kept["ids"].numpy()])
    rows = []
    for number in np.unique(bin_of).tolist():
        inside = torch.from_numpy(bin_of == number)
        n = int(kept["n"][inside].sum())
        mean, mean_abs = (kept[name][inside].sum(0).numpy() / n for name in ("sums", "sums_abs"))
        rows += [
            {
                "point": point,
                "dim": dim,
                "bin": number,
                "count_from": 1 << number - 1 if number else 0,
                "count_to": (1 << number) - 1,
                "n": n,
                "mean": mean[p, s],
                "mean_abs": mean_abs[p, s],
            }
            for p, point in enumerate(about["points"])
            for s, dim in enumerate(about["dims"])
        ]
    return pa.Table.from_pylist(rows)


def _drivers(
    kept: dict[str, torch.Tensor], about: dict[str, Any], frequencies: TokenFrequencies
) -> pa.Table:
    """Tokens with the largest share of the sum of |h|, per point and dimension."""
    ids, n = kept["ids"].numpy(), kept["n"].numpy()
    sums, sums_abs = kept["sums"].numpy(), kept["sums_abs"].numpy()
    rows = []
    for p, point in enumerate(about["points"]):
        for s, dim in enumerate(about["dims"]):
            order = np.argsort(-sums_abs[:, p, s], kind="stable")[:_DRIVERS]
            total = sums_abs[:, p, s].sum()
            rows += [
                {
                    "point": point,
                    "dim": dim,
                    "id": int(ids[u]),
                    "token": frequencies.tokens[ids[u]],
                    "n": int(n[u]),
                    "mean": sums[u, p, s] / n[u],
                    "mean_abs": sums_abs[u, p, s] / n[u],
                    "share": sums_abs[u, p, s] / total if total else float("nan"),
                }
                for u in order
            ]
    return pa.Table.from_pylist(rows)


def save_sums(path: Path, sums: TokenSums, correlation: Correlation) -> None:
    """Write ``tokens.safetensors``: the sums, and the M2 [P, S] that r needs besides."""
    m2 = torch.stack(
        [correlation.results[point, "text"].body[:, sums.dims][[1, 3]] for point in sums.points], 1
    )
    tensors = {**sums.state_dict(), "m2": m2[0].contiguous(), "m2_abs": m2[1].contiguous()}
    about = {"outdim": json.dumps({"points": sums.points, "dims": sums.dims})}
    write_bytes(path, save(tensors, about))  # save_file hides that the disk is full
