"""Data with outliers, and what the ops must say about it in extended precision."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from outdim.ops._binding import core

needs_core = pytest.mark.skipif(core() is None, reason="the compiled module is not built")

SHAPES = [(n, d) for n in (0, 1, 37, 4096) for d in (1, 64, 768, 769, 1023, 4096)]
KERNEL_DTYPES = [torch.float32, torch.float16, torch.bfloat16]
DTYPES = [*KERNEL_DTYPES, torch.float64]

BACKENDS = [pytest.param("cpu", marks=needs_core), "reference"]

VOCAB = 500


def hidden_states(n, d, dtype=torch.float32, seed=0):
    """Normal values with dimensions 0..4 special: 1000 times larger, mean far off, constant, of
    constant magnitude, never negative."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(n, d, generator=generator)
    special = [
        lambda v: v * 1000,
        lambda v: v + 1000,
        lambda v: torch.full_like(v, -0.3),
        lambda v: torch.where(v > 0, 0.7, -0.7),
        torch.Tensor.abs,
    ]
    for dim, change in enumerate(special[: d - 1]):
        h[:, dim] = change(h[:, dim])
    return h.to(dtype)


def dtypes(n, backend):
    """What an op takes whose CPU kernel has no float64; float32 alone where there are many rows."""
    known = DTYPES if n <= 37 else DTYPES[:1]
    return [dtype for dtype in known if (dtype, backend) != (torch.float64, "cpu")]


def of_every_kernel(call):
    """By instruction set, what ``call`` gives with 1, 2 and 5 threads."""
    threads, isa, found = torch.get_num_threads(), core().isa(), []
    try:
        for name in core().isas():
            core().set_isa(name)
            found.append([])
            for number in (1, 2, 5):
                torch.set_num_threads(number)
                found[-1].append(call())
    finally:
        torch.set_num_threads(threads)
        core().set_isa(isa)
    return found


def zipf_ids(n, seed=0):
    generator = torch.Generator().manual_seed(seed + 1)
    weights = 1 / torch.arange(1, VOCAB + 1)
    if n == 0:
        return torch.zeros(0, dtype=torch.int64)
    return torch.multinomial(weights, n, replacement=True, generator=generator)


def zipf_segments(n, segments):
    """Zipf segments [n], some rows of none, segment 3 empty."""
    ids = zipf_ids(n) % (segments + 1)
    ids[ids == 3] = -1
    return ids


def frequency_table():
    """Counts of a large corpus, and their logarithms."""
    counts = (1e9 / torch.arange(1, VOCAB + 1, dtype=torch.float64) ** 1.1).round()
    return torch.stack([counts, counts.log1p()])


class Oracle(NamedTuple):
    """Two-pass sums in long double over rows [n, D] and covariates [K, n]."""

    x_mean: np.ndarray
    x_m2: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    mean_abs: np.ndarray
    m2_abs: np.ndarray
    c: np.ndarray
    c_abs: np.ndarray
    m3: np.ndarray
    m4: np.ndarray
    absolute3: np.ndarray

    def pearson(self, of="h"):
        c, m2 = (self.c, self.m2) if of == "h" else (self.c_abs, self.m2_abs)
        with np.errstate(invalid="ignore", divide="ignore"):
            return c / (np.sqrt(self.x_m2)[:, None] * np.sqrt(m2)[None])


def oracle(h, x):
    h = h.double().numpy().astype(np.longdouble)
    x = np.asarray(x, dtype=np.float64).astype(np.longdouble)

    def centre(values, axis):
        mean = values.mean(axis, keepdims=True)
        mean = mean + (values - mean).mean(axis, keepdims=True)
        return mean.squeeze(axis), values - mean

    x_mean, dx = centre(x, 1)
    mean, dh = centre(h, 0)
    mean_abs, da = centre(np.abs(h), 0)
    return Oracle(
        x_mean, (dx**2).sum(1), mean, (dh**2).sum(0), mean_abs, (da**2).sum(0),
        dx @ dh, dx @ da, (dh**3).sum(0), (dh**4).sum(0), (np.abs(dh) ** 3).sum(0),
    )  # fmt: skip


def assert_state_matches(head, body, h, x, *, tau=6.0, columns=None, tol=1e-12):
    """Compare a state [1 + 2K], [R, D] with the oracle on the same (rounded) values.

    Every sum may be off by `tol` of the sum of the magnitudes of its terms.
    """
    h = h if columns is None else h[:, columns]
    body = (body if columns is None else body[:, columns]).numpy()
    head = head.numpy()
    n, k = len(h), len(x)
    assert head[0] == n
    if n == 0:
        rows = np.zeros_like(body)
        rows[-5], rows[-4] = np.inf, -np.inf
        np.testing.assert_array_equal(body, rows)
        np.testing.assert_array_equal(head, 0)
        return
    want = oracle(h, x)
    values = h.double().numpy()
    size = np.abs(values).max(0)
    x_size = np.abs(x).max(1) if k else 0

    def close(got, expected, scale):
        assert np.all(np.abs(got - expected) <= tol * scale + 1e-300)

    close(head[1 : 1 + k], want.x_mean, x_size)
    close(head[1 + k :], want.x_m2, want.x_m2)
    close(body[0], want.mean, size)
    close(body[1], want.m2, want.m2)
    close(body[2], want.mean_abs, size)
    # M2 of |h| is found from sums about the pivot of h, whose terms are of the size of sum h^2.
    close(body[3], want.m2_abs, np.maximum(want.m2_abs, n * size**2 * 1e-2))
    norms = np.sqrt(want.x_m2)[:, None] * np.sqrt(want.m2)[None]
    close(body[4 : 4 + k], want.c, norms)
    norms = np.sqrt(want.x_m2)[:, None] * np.maximum(np.sqrt(want.m2_abs), size)[None]
    close(body[4 + k : 4 + 2 * k], want.c_abs, norms)
    close(body[-7], want.m3, want.absolute3)
    close(body[-6], want.m4, want.m4)
    np.testing.assert_array_equal(body[-5], values.min(0))
    np.testing.assert_array_equal(body[-4], values.max(0))
    np.testing.assert_array_equal(body[-3], (np.abs(values) >= tau).sum(0))
    np.testing.assert_array_equal(body[-1], 0)


def same_bytes(a, b):
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(a, b, strict=True)
    )
