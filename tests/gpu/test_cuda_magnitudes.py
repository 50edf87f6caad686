"""magnitude_counts and token_shape on a GPU against the reference, and their accumulators."""

import pytest
import torch
from gpu import checks
from outdim import ops
from outdim.stats import Magnitudes, TokenShapes

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("d", [1, 64, 769, 4096])
@pytest.mark.parametrize("n", [0, 1, 37, 4096])
def test_matches_the_reference(device, n, d, dtype):
    checks.check_magnitude_counts(device, n, d, dtype, margin=3 * (n % 2))
    checks.check_token_shape(device, n, d, dtype, margin=3 * (n % 2))


def test_rows_of_a_group_that_there_is_not_are_left_out(device):
    fresh = ops.magnitude_counts_empty(1, 2, device)
    group = torch.tensor([1, 2, 0], device=device).byte()
    ops.magnitude_counts_add(torch.ones(3, 2, device=device), fresh, group=group)
    assert fresh.sum() == 2


def test_accumulators_are_those_of_the_cpu(device):
    states = {}
    for where in ("cpu", device):
        parts = [Magnitudes(["p"], ["a", "b"]), TokenShapes(["p"], ["a", "b"], where)]
        for seed in range(4):
            hidden = checks.hidden_states(300, 96, torch.bfloat16, seed=seed).to(where)
            group = (torch.arange(300) % 3).byte().to(where)
            for part in parts:
                part.begin(torch.zeros(300, dtype=torch.int64, device=where), group)
                part.add("p", hidden)
                part.discard() if seed == 2 else part.commit()
        states[str(where)] = parts[0].state_dict() | parts[1].state_dict()
    a, b = states.values()
    assert torch.equal(a["p"], b["p"])
    assert torch.equal(a["extremes/p"], b["extremes/p"])
    torch.testing.assert_close(a["kurtosis/p/body"], b["kurtosis/p/body"], rtol=1e-9, atol=1e-9)
