"""Norms: LayerNorm and RMSNorm modules, recognised by what they compute."""

from dataclasses import dataclass

import torch
from torch import nn

_EPS_NAMES = ("eps", "variance_epsilon", "epsilon", "layer_norm_eps", "norm_eps")
# For modules that keep no eps attribute (OLMo's LayerNorm): the values in use.
_EPS_USUAL = (1e-5, 1e-6, 1e-12)
# Relative to the largest output; on the test rows below a wrong formula is off by tens of percent.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNorm or RMSNorm module and how it computes.

    The output is x_hat * (offset + weight) + bias, with x_hat = (x - mean x) / sqrt(var x + eps),
    or x / sqrt(mean x^2 + eps) where `rms`. `offset` is 1 for the Gemma family and 0 elsewhere.
    """

    path: str
    module: nn.Module
    rms: bool
    eps: float
    offset: float

    @property
    def gamma(self) -> torch.Tensor | None:
        """The scale that is applied, [D] (Gemma's 1 + weight); None without parameters."""
        weight: torch.Tensor | None = getattr(self.module, "weight", None)
        if weight is None or not self.offset:
            return None if weight is None else weight.detach()
        return weight.detach().float() + self.offset

    @property
    def beta(self) -> torch.Tensor | None:
        """The bias, [D]; None where there is none."""
        bias: torch.Tensor | None = getattr(self.module, "bias", None)
        return None if bias is None else bias.detach()


def recognise_norm(path: str, module: nn.Module, hidden_size: int) -> Norm | None:
    """Return the norm that `module` is over `hidden_size` dimensions, or None when it is none.

    A class name only makes a module a candidate; what it is follows from its output on test rows
    with a mean that is not zero (LayerNorm against RMSNorm) and of two scales (eps).
    """
    if "norm" not in type(module).__name__.lower() or any(True for _ in module.children()):
        return None
    parameters = dict(module.named_parameters(recurse=False))
    shapes = {tuple(p.shape) for p in parameters.values()}
    if not set(parameters) <= {"weight", "bias"} or not shapes <= {(hidden_size,)}:
        return None
    reference = next(iter(parameters.values()), None)
    x = _test_rows(hidden_size, reference)
    try:
        y = module.forward(x)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None  # takes something else than hidden states: no norm in the sense of this module
    if not isinstance(y, torch.Tensor) or y.shape != x.shape:
        return None
    for eps in _eps_candidates(module, x.dtype):
        for rms in (False, True):
            for offset in (0.0, 1.0) if "weight" in parameters else (0.0,):
                norm = Norm(path, module, rms, eps, offset)
                if _matches(norm, x, y):
                    return norm
    return None


def _test_rows(hidden_size: int, like: torch.Tensor | None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, hidden_size, generator=generator) + 0.7
    x[2:] *= 2e-3  # variance near the usual eps
    return x if like is None else x.to(like.device, like.dtype)


def _eps_candidates(module: nn.Module, dtype: torch.dtype) -> tuple[float, ...]:
    for name in _EPS_NAMES:
        eps = getattr(module, name, None)
        if isinstance(eps, (int, float)):
            return (float(eps),)
    if isinstance(module, nn.RMSNorm):
        return (torch.finfo(dtype).eps,)
    return _EPS_USUAL


def _matches(norm: Norm, x: torch.Tensor, y: torch.Tensor) -> bool:
    rows = x.double()
    if not norm.rms:
        rows = rows - rows.mean(-1, keepdim=True)
    expected = rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + norm.eps)
    if norm.gamma is not None:
        expected = expected * norm.gamma.double()
    if norm.beta is not None:
        expected = expected + norm.beta.double()
    error = (expected - y.double()).abs().max()
    return bool(error <= _TOLERANCE.get(x.dtype, 3e-2) * expected.abs().max().clamp(min=1e-30))
