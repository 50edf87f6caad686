"""Inputs with planted outliers, and what is right: LayerNorm in float64, r in long double."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

VOCABULARY = 30522
SAMPLE = 32  # columns whose r is checked
OFFSET_DIM = 5  # |mean| / std is OFFSET here
_ZEROED = (3, 7)  # dimensions the LayerNorm is to zero
_OFFSET = {torch.float32: 1e4, torch.bfloat16: 100.0, torch.float16: 100.0}
# Of y against float64: rounding to the dtype and, where torch rounds twice, once more.
_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}


@dataclass(frozen=True, eq=False)
class Inputs:
    """Tensors of one size: rows x, hidden states, parameters, token ids and their covariates.

    x: [N, D], what the LayerNorm gets.
    hidden: [N, D] hidden states that grow with the frequency of the token; dimension OFFSET_DIM has
        a mean of 1e4 (16-bit dtypes: 100) standard deviations.
    gamma, beta: [D], with such a dimension too.
    keep: [D] bool, False for the dimensions to be zeroed.
    ids: [N] int64, Zipf.
    table: [1, V] float64, log(1 + count).
    known_r: columns with their exact r, kept because variants and threads share them.
    """

    x: Tensor
    hidden: Tensor
    gamma: Tensor
    beta: Tensor
    keep: Tensor
    ids: Tensor
    table: Tensor
    known_r: list[tuple[Tensor, np.ndarray]] = field(default_factory=list, repr=False)

    @property
    def frequency(self) -> Tensor:
        """Covariate of each row, [N] float64."""
        return self.table[0][self.ids]


def make_inputs(N: int, D: int, dtype: torch.dtype, device: str) -> Inputs:
    """Inputs of one size, the same in every run."""
    rng = np.random.default_rng(0)
    ids = torch.from_numpy((rng.zipf(1.3, N) - 1) % VOCABULARY)
    table = torch.bincount(ids, minlength=VOCABULARY).double().log1p()[None].to(device)
    ids = ids.to(device)
    generator = torch.Generator(device).manual_seed(0)
    x, slope = torch.randn(N, D, generator=generator, device=device), torch.linspace(-0.2, 0.2, D)
    slope = slope.to(device)
    frequency = table[0][ids].float()
    hidden = torch.addcmul(x, slope, frequency[:, None])
    hidden[:, OFFSET_DIM] += _OFFSET[dtype]
    gamma, beta = 0.1 * torch.randn(2, D, generator=generator, device=device)
    gamma += 1
    gamma[OFFSET_DIM], beta[OFFSET_DIM] = 1 / _OFFSET[dtype], 1.0
    x.addcmul_(-slope, frequency[:, None])
    keep = torch.ones(D, dtype=torch.bool, device=device)
    keep[list(_ZEROED)] = False
    return Inputs(x.to(dtype), hidden.to(dtype), gamma.to(dtype), beta.to(dtype), keep, ids, table)


def check_rows(y: Tensor, inputs: Inputs, *, rms: bool = False, mask: bool = True) -> None:
    """Compare about a thousand rows of y with float64; raises AssertionError."""
    step = max(1, len(y) // 1024)
    x, gamma, beta = inputs.x[::step].double(), inputs.gamma.double(), inputs.beta.double()
    width = (x.shape[1],)
    exact = (
        functional.rms_norm(x, width, gamma, 1e-5)
        if rms
        else functional.layer_norm(x, width, gamma, beta, 1e-5)
    )
    if mask:
        exact *= inputs.keep
    tolerance = _TOLERANCE[y.dtype]
    torch.testing.assert_close(y[::step].double(), exact, rtol=tolerance, atol=tolerance)


def check_r(r: Tensor, hidden: Tensor, inputs: Inputs, tolerance: float) -> dict[str, float]:
    """Errors of r [1 or 2, D] of h (and |h|) against long double; raises AssertionError.

    Returns:
        error_r: the largest over about 32 columns, that with the large mean left out.
        error_r_offset: in the column whose mean is large.

    `tolerance` is for error_r.
    """
    D = hidden.shape[1]
    columns = [d for d in range(0, D, max(1, D // SAMPLE)) if d not in (*_ZEROED, OFFSET_DIM)]
    columns.append(OFFSET_DIM)
    exact = _exact_r(hidden[:, columns].cpu(), inputs)[: len(r)]
    error = np.abs(r[:, columns].double().cpu().numpy() - exact).max(0).astype(float)
    worst = float(error[:-1].max())
    assert worst <= tolerance, f"the error of r is {worst:.1e}, expected at most {tolerance:.0e}"
    return {"error_r": worst, "error_r_offset": float(error[-1])}


def _exact_r(hidden: Tensor, inputs: Inputs) -> np.ndarray:
    for known, r in inputs.known_r:
        if known.equal(hidden):
            return r
    inputs.known_r.append((hidden, _long_double_r(hidden, inputs.frequency)))
    return inputs.known_r[-1][1]


def _long_double_r(hidden: Tensor, frequency: Tensor) -> np.ndarray:
    """Two passes in long double: r of h and of |h|, [2, columns]."""
    f = frequency.cpu().numpy().astype(np.longdouble)[:, None]
    f -= f.mean()
    h = hidden.double().numpy().astype(np.longdouble)
    rows = []
    for values in (h, np.abs(h)):
        values = values - values.mean(0)
        rows.append((f * values).sum(0) / np.sqrt((f * f).sum() * (values * values).sum(0)))
    return np.stack(rows)
