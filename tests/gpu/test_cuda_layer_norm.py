"""layer_norm on a GPU against float64: values, margins, bits."""

import pytest
import torch
from gpu import checks
from outdim import ops
from outdim.errors import BackendError
from outdim.ops.layout import ShapeRow, shape_row

pytestmark = pytest.mark.gpu

WIDTHS = [64, 768, 769, 1023, 4096, 16384]
ROWS = [0, 1, 37, 4096]
VARIANTS = ["bare", "full", "rms", "residual", "edit", "clip", "each"]


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("n", ROWS)
def test_matches_oracle(device, n, d, dtype):
    if n * d > 1 << 23:
        n = 500  # the oracle is slow
    checks.check_layer_norm(device, n, d, dtype, "full", "spikes")


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("d", [1, *WIDTHS, 3072, 5000])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(device, d, dtype, variant):
    checks.check_layer_norm(device, 300, d, dtype, variant)


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("d", [768, 769, 4096])
@pytest.mark.parametrize("margin", [3, 16])
def test_strided_rows(device, d, dtype, margin):
    for variant in ("full", "residual", "edit"):
        checks.check_layer_norm(device, 300, d, dtype, variant, margin=margin)


@pytest.mark.parametrize("d", [768, 4096, 16384])
def test_mean_1000_deviation_1(device, d):
    checks.check_layer_norm(device, 300, d, torch.float32, "bare", "offset")


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize(("n", "d"), [(0, 768), (1, 768), (4096, 64), (4096, 768), (777, 769)])
@pytest.mark.parametrize("of", ["output", "input"])
def test_fused_statistics(device, n, d, dtype, of):
    for variant in ("full", "rms", "residual"):
        checks.check_fused(device, n, d, dtype, variant, of, labels=n % 2 == 1, shape=True)


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("d", [3072, 3080, 4096, 8192])
def test_fused_statistics_of_wide_rows(device, d, dtype):
    for variant in ("full", "residual"):
        checks.check_fused(device, 600, d, dtype, variant, "output", labels=True, shape=True)


@pytest.mark.parametrize("of", ["output", "input"])
def test_fused_with_all_statistics(device, of):
    options = {"table": 4, "rows": 1, "groups": 2, "labels": True, "shape": True}
    for exact in (False, True):
        checks.check_fused(
            device, 1000, 768, torch.bfloat16, "residual", of, exact=exact, **options
        )


def test_exact_fused_statistics_are_those_of_moments(device):
    x = checks.hidden_states(1000, 768, torch.bfloat16, "spikes").to(device)
    args = checks.statistics(1000, device, exact=True, shape=True)
    y, _, fused = ops.layer_norm_moments(x, statistics=args)
    alone = ops.moments(y, **vars(args))
    unit = shape_row(1, ShapeRow.UNIT_SUM)
    assert checks.same_bytes(fused.head, alone.head)
    # The norms of rows are summed in another order.
    torch.testing.assert_close(fused.body[:, unit], alone.body[:, unit], rtol=0, atol=1e-12)
    fused.body[:, unit] = alone.body[:, unit]
    assert checks.same_bytes(fused.body, alone.body)


def test_a_nan_stays_in_its_row_and_a_zero_scale_removes_it(device):
    x = torch.randn(64, 768, device=device)
    x[5, 3] = torch.nan
    scale, shift = torch.ones(1, 768, device=device), torch.zeros(1, 768, device=device)
    scale[0, 7], shift[0, 7] = 0, 2
    y = ops.layer_norm(x, edit=ops.Edit(scale, shift))
    assert y[5, 7] == 2
    y[5, 7] = torch.nan
    assert y.isnan().any(1).nonzero().flatten().tolist() == [5]
    assert bool(y[5].isnan().all())


def test_too_wide(device):
    with pytest.raises(BackendError, match="16384"):
        ops.layer_norm(torch.randn(2, 16385, device=device), backend="cuda")


def test_another_stream(device):
    """Work goes to torch's current stream: the result is there when that stream says so."""
    x = torch.randn(1 << 14, 1024, device=device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        y = ops.layer_norm(x * 2)
    stream.synchronize()
    checks.assert_normalised(y, checks.layer_norm_oracle((x * 2).cpu())[1])


@pytest.mark.slow
def test_more_than_2_to_the_31_values(device):
    n, d = (1 << 31) // 4096 + 3, 4096
    if torch.cuda.mem_get_info(device)[0] < 5 * n * d * 2:
        pytest.skip("needs 45 GB of free memory on the device")
    x = torch.randn(64, d, dtype=torch.bfloat16, device=device).repeat(n // 64 + 1, 1)[:n]
    args = checks.statistics(n, device)
    y, _, state = ops.layer_norm_moments(x, statistics=args)
    last = slice(n - 64, n)
    assert torch.equal(y[last], ops.layer_norm(x[last].clone()))
    alone = ops.moments(y, **vars(args))
    assert alone.head[0, 0] == state.head[0, 0] == n
    torch.testing.assert_close(state.body[0, 1], alone.body[0, 1], rtol=1e-5, atol=0)
    torch.testing.assert_close(
        alone.body[0, 1] / n, y[:64].double().var(0, correction=0), rtol=1e-3, atol=0
    )
