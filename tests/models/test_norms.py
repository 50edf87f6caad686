"""A norm is known by what it computes, not by its name."""

import pytest
import torch
from outdim.models.norms import recognise_norm
from torch import nn


class CentredNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return (x - x.mean(-1, keepdim=True)) * self.weight


@pytest.mark.parametrize(
    ("module", "rms", "eps"),
    [
        (nn.LayerNorm(16, eps=1e-12), False, 1e-12),
        (nn.LayerNorm(16, bias=False), False, 1e-5),
        (nn.LayerNorm(16, elementwise_affine=False), False, 1e-5),
        (nn.RMSNorm(16), True, torch.finfo(torch.float32).eps),
        (nn.RMSNorm(16, eps=1e-3), True, 1e-3),
    ],
)
def test_a_norm_is_what_it_computes(module, rms, eps):
    found = recognise_norm("n", module, 16)
    assert (found.rms, found.eps, found.offset) == (rms, eps, 0.0)


@pytest.mark.parametrize(
    "module",
    [
        CentredNorm(16),
        nn.BatchNorm1d(16).eval(),
        nn.LayerNorm(8),
        nn.GroupNorm(2, 16),
        nn.Linear(16, 16),
    ],
)
def test_what_is_called_norm_need_not_be_one(module):
    with torch.no_grad():
        assert recognise_norm("n", module, 16) is None
