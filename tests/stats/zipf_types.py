"""Sums of a text that is drawn: Zipf types, whose hidden states are drawn type by type."""

import numpy as np
import torch
from outdim.stats import Covariates
from outdim.stats.type_buckets import TypeBuckets
from outdim.stats.type_units import TypeUnits

NAMES = ("count", "log1p_count")


def zipf_counts(size, total=3e9):
    """Counts of a large corpus (Zipf and Mandelbrot): three types hold most of the leverage."""
    p = (np.arange(size) + 3.7) ** -1.07
    return np.maximum(p / p.sum() * total, 1).astype(np.int64)


def covariates(counts):
    return Covariates(np.stack([counts, np.log1p(counts)]).astype(np.float64), NAMES)


def zipf_units(rng, *, types=5000, tokens=100_000, dims=50, rho=0.0, of=0, within=0.5, buckets=256):
    """Units with h = rho x + sqrt(1 - rho^2) g_type + within * noise, x covariate `of` over tokens.

    buckets: None for single types. The true r is `true_r`.
    """
    counts = zipf_counts(types)
    seen = rng.poisson(counts / counts.sum() * tokens)
    ids = np.flatnonzero(seen)
    nt = seen[ids].astype(float)
    table = covariates(counts).table.numpy()[of, ids]
    x = table - nt @ table / nt.sum()
    x /= np.sqrt(nt @ x**2 / nt.sum())
    profile = rho * x[:, None] + np.sqrt(1 - rho**2) * rng.standard_normal((len(ids), dims))
    mean = profile + within * rng.standard_normal((len(ids), dims)) / np.sqrt(nt)[:, None]
    # What n_t tokens vary by about their mean is chi^2, here its expectation.
    second = mean**2 + within**2 * (1 - 1 / nt)[:, None]
    sums = nt[:, None, None] * np.stack([mean, np.abs(mean), second], 1)
    if buckets is None:
        return TypeUnits.of_types(ids, seen[ids], {"p": sums}, covariates(counts))
    table = TypeBuckets.of_counts(counts, buckets)
    present, unit = np.unique(table.bucket[ids], return_inverse=True)
    total = np.zeros((len(present), 3, dims))
    np.add.at(total, unit, sums)
    state = {
        "digest": table.digest,
        "tokens": torch.from_numpy(seen),
        "p/sums": torch.from_numpy(total),
    }
    return TypeUnits.of_table(state, table, covariates(counts))


def true_r(rho, within=0.5):
    return rho / np.sqrt(1 + within**2)
