"""moments on a GPU against float64: every option, masked NaN, bits."""

import pytest
import torch
from gpu import checks
from outdim import ops

pytestmark = pytest.mark.gpu

WIDTHS = [1, 64, 768, 769, 1023, 4096, 16384]
OPTIONS = [
    pytest.param({}, id="one"),
    pytest.param({"table": 0}, id="none"),
    pytest.param({"table": 3, "rows": 1, "shape": True}, id="four-shape"),
    pytest.param({"table": 3, "rows": 2, "groups": 2, "labels": True, "shape": True}, id="groups"),
    pytest.param({"exact": True}, id="exact"),
    pytest.param({"table": 4, "shape": True, "exact": True, "labels": True}, id="exact-shape"),
]


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("n", [0, 1, 37, 4096])
@pytest.mark.parametrize("options", OPTIONS)
def test_matches_oracle(device, n, d, dtype, options):
    if n * d > 1 << 23:
        n = 700  # the oracle is slow
    checks.check_moments(device, n, d, dtype, "spikes", **options)


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("margin", [0, 3, 8])
def test_mean_1000_and_strided_rows(device, dtype, exact, margin):
    checks.check_moments(device, 5000, 130, dtype, "offset", margin, exact=exact, shape=True)


def test_many_rows(device):
    checks.check_moments(device, 200_001, 64, torch.bfloat16, labels=True, groups=2)


def test_correlation_of_many_rows(device):
    """Fast sums give r to 1e-8 at N >= 1e4, also where |mean| / std is 1e4; exact ones to 1e-12."""
    n, d = 20_000, 256
    h = torch.randn(n, d, generator=checks.generator())
    h[:, : d // 2] += 1e4
    for exact, tolerance in ((False, 1e-8), (True, 1e-12)):
        args = checks.statistics(n, device, exact=exact)
        state = ops.moments(h.to(device), **vars(args))
        head, body = checks.moments_oracle(h, args)

        def pearson(head, body):
            return body[0, 4] / (head[0, 2] * body[0, 1]).sqrt()

        error = (pearson(state.head.cpu(), state.body.cpu()) - pearson(head, body)).abs().max()
        assert error < tolerance


def test_an_id_outside_the_table_makes_its_covariate_nan(device):
    args = checks.statistics(1000, device, table=2, rows=1)
    args.ids[5], args.ids[6] = checks.VOCAB, -(1 << 40)
    h = checks.hidden_states(1000, 70, torch.float32).to(device)
    state = ops.moments(h, **vars(args))
    head, body = state.head[0].cpu(), state.body[0].cpu()
    assert head.isnan().tolist() == [False, True, True, False, True, True, False]
    assert body.isnan().all(1).tolist() == [False] * 4 + [True, True, False] * 2
    assert body[:4].isfinite().all()


def test_nonfinite_values(device):
    h = checks.hidden_states(1000, 70, torch.float32)
    h[3, 5], h[4, 6], h[5, 7] = torch.nan, torch.inf, -torch.inf
    args = checks.statistics(1000, device, shape=True)
    state = ops.moments(h.to(device), **vars(args))
    checks.assert_moments(state, h, args)
    assert state.body[0, -1].nonzero().flatten().tolist() == [5, 6, 7]


@pytest.mark.slow
def test_more_than_2_to_the_31_values(device):
    n, d = (1 << 31) // 1024 + 777, 1024
    if torch.cuda.mem_get_info(device)[0] < 3 * n * d * 2:
        pytest.skip("needs 13 GB of free memory on the device")
    h = torch.zeros(n, d, dtype=torch.bfloat16, device=device)
    h[-2:] = 1  # two rows beyond the 2^31st value
    state = ops.moments(h, shape=True)
    assert state.head[0, 0] == n
    torch.testing.assert_close(state.body[0, 0] * n, torch.full_like(state.body[0, 0], 2.0))
    assert bool((state.body[0, -4] == 1).all())


@pytest.mark.parametrize("of", [None, "output", "input"])
@pytest.mark.parametrize("d", [64, 769, 4096])
def test_running_states(device, d, of):
    many = {"table": 3, "rows": 2, "groups": 3, "labels": True, "shape": True}
    for options in ({}, {"table": 0}, {**many, "exact": True}, many):
        checks.check_running_state(device, 1500, d, torch.bfloat16, of, **options)


@pytest.mark.parametrize("dtype", checks.DTYPES)
def test_covariates_far_from_zero(device, dtype):
    checks.check_covariates_far_from_zero(device, 600, dtype)
