"""The checks of tests/gpu on the CPU: the device code of csrc/cuda, thread by thread."""

import pytest
import torch
from gpu import checks
from outdim import ops
from outdim.errors import BackendError
from outdim.ops import _cuda

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize(("n", "d"), [(0, 64), (1, 1), (37, 130), (600, 769)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"exact": True, "shape": True},
        {"table": 0, "shape": True},
        {"table": 3, "rows": 2, "groups": 2, "labels": True, "shape": True},
        {"table": 2, "groups": 3, "labels": True, "exact": True},
    ],
    ids=["fast", "exact-shape", "bare-shape", "groups", "exact-groups"],
)
def test_moments(order, n, d, dtype, options):
    checks.check_moments(CPU, n, d, dtype, "spikes", margin=3 * (n % 2), **options)


@pytest.mark.parametrize("dtype", checks.DTYPES)
def test_moments_far_from_zero(order, dtype):
    checks.check_moments(CPU, 300, 70, dtype, "offset", margin=8)


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize(
    ("n", "d", "margin"), [(1, 1, 0), (37, 100, 3), (150, 769, 0), (9, 3504, 8)]
)
@pytest.mark.parametrize("variant", ["bare", "full", "rms", "residual", "edit", "clip", "each"])
def test_layer_norm(order, n, d, margin, dtype, variant):
    checks.check_layer_norm(CPU, n, d, dtype, variant, margin=margin)


@pytest.mark.parametrize("d", [5000, 16384])
@pytest.mark.parametrize("variant", ["full", "residual", "edit", "each"])
def test_wide_layer_norm(order, d, variant):
    for dtype in checks.DTYPES:
        checks.check_layer_norm(CPU, 4, d, dtype, variant)


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize(("n", "d"), [(0, 64), (1, 64), (150, 64), (40, 769), (5, 3504), (2, 5000)])
@pytest.mark.parametrize("variant", ["full", "rms", "residual"])
@pytest.mark.parametrize("of", ["output", "input"])
def test_fused(order, n, d, dtype, variant, of):
    checks.check_fused(CPU, n, d, dtype, variant, of, labels=n == 5, shape=True, exact=d % 2 == 0)


def test_fused_with_much_to_take(order):
    options = {"table": 3, "rows": 1, "groups": 2, "labels": True, "shape": True, "exact": True}
    checks.check_fused(CPU, 50, 130, torch.bfloat16, "residual", "input", **options)
    checks.check_fused(CPU, 50, 130, torch.float16, "full", "output", **options)


def test_rank_histogram(order):
    checks.check_rank_histogram(CPU, 100, 40)


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize(("n", "d", "margin"), [(0, 64, 0), (1, 1, 0), (37, 130, 3), (400, 769, 8)])
def test_segment_sums(order, n, d, margin, dtype):
    checks.check_segment_sums(CPU, n, d, dtype, margin)


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize(("n", "d", "margin"), [(0, 64, 0), (1, 1, 0), (37, 130, 3), (400, 769, 8)])
def test_magnitude_counts_and_token_shape(order, n, d, margin, dtype):
    checks.check_magnitude_counts(CPU, n, d, dtype, margin)
    checks.check_token_shape(CPU, n, d, dtype, margin)


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize(("n", "d", "margin"), [(1, 1, 0), (37, 130, 3)])
def test_comoments(order, n, d, margin, dtype):
    checks.check_comoments(CPU, n, d, dtype, margin)


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("name", checks.ATTENTION_OPTIONS)
def test_attention_received(order, name, dtype):
    for shape in ((1, 1, 1, 1, 1, 1), (2, 4, 2, 70, 70, 20), (1, 2, 2, 7, 130, 33)):
        options = checks.attention_options(shape[0], shape[1], *shape[3:5])[name]
        checks.check_attention_received(CPU, shape, dtype, **options)


@pytest.mark.parametrize("dtype", checks.DTYPES[1:])
@pytest.mark.parametrize("d", [32, 64, 80, 96, 128, 256, 500])
@pytest.mark.parametrize("name", ["window", "groups"])
def test_attention_received_of_several_tiles(emulated, name, d, dtype):
    """More than one tile of either pass, in both of which some are skipped; 500 does not fit the
    shared memory of tensor cores' tiles."""
    emulated.emulator_configure(3, 7)
    shape = (1, 2, 1, 150, 150, d)
    options = checks.attention_options(*shape[:2], *shape[3:5])[name]
    checks.check_attention_received(CPU, shape, dtype, **options)


@pytest.mark.parametrize("of", [None, "output", "input"])
def test_running_states(order, of):
    many = {"table": 3, "rows": 2, "groups": 3, "labels": True, "shape": True}
    for options in ({}, {"table": 0}, {**many, "exact": True}, many):
        checks.check_running_state(CPU, 300, 130, torch.float32, of, **options)


@pytest.mark.parametrize("dtype", checks.DTYPES)
def test_covariates_far_from_zero(order, dtype):
    checks.check_covariates_far_from_zero(CPU, 600, dtype)


@pytest.mark.parametrize("d", [769, 1024, 4096, 5633, 6144])
def test_launches_that_need_more_than_the_default_shared_memory(emulated, d):
    """Static memory counts as well: D = 6144 takes 48 KiB of dynamic memory and a little more."""
    emulated.emulator_configure(3, 0)
    for variant in ("full", "residual"):
        checks.check_layer_norm(CPU, 5, d, torch.float32, variant)
    checks.check_fused(CPU, 5, d, torch.bfloat16, "full", "output")


def test_widest_row_of_a_device_with_little_shared_memory(emulated):
    emulated.emulator_give_shared(99 << 10)
    try:
        checks.check_layer_norm(CPU, 2, 12288, torch.float32, "full")
        with pytest.raises(BackendError, match="at most 12288 columns on this device, got 12289"):
            ops.layer_norm(torch.ones(2, 12289))
    finally:
        emulated.emulator_give_shared(227 << 10)


def test_a_full_device_raises_what_torch_raises(emulated):
    emulated.emulator_configure(3, 0)
    x = torch.ones(5, 64)
    for call in (ops.layer_norm, ops.moments):
        emulated.emulator_fail_next_launch(2)  # cudaErrorMemoryAllocation
        with pytest.raises(torch.OutOfMemoryError, match="use smaller batches"):
            call(x)
        emulated.emulator_fail_next_launch(719)  # cudaErrorLaunchFailure
        with pytest.raises(RuntimeError, match="kernel launch"):
            call(x)
        call(x)  # the error does not stay


EVERY_OP = {
    "moments": lambda: checks.check_moments(CPU, 37, 70, torch.float32, "spikes"),
    "layer_norm": lambda: checks.check_layer_norm(CPU, 5, 70, torch.float32, "each"),
    "fused": lambda: checks.check_fused(CPU, 37, 70, torch.float32, "residual", "output"),
    "rank_histogram": lambda: checks.check_rank_histogram(CPU, 37, 8),
    "segment_sums": lambda: checks.check_segment_sums(CPU, 37, 8, torch.float32, 0),
    "magnitude_counts": lambda: checks.check_magnitude_counts(CPU, 37, 8, torch.float32, 0),
    "token_shape": lambda: checks.check_token_shape(CPU, 37, 8, torch.float32, 0),
    "comoments": lambda: checks.check_comoments(CPU, 37, 8, torch.float32, 0),
    "attention_received": lambda: checks.check_attention_received(
        CPU, (1, 1, 1, 7, 7, 8), torch.float32
    ),
}


@pytest.mark.parametrize("op", EVERY_OP)
def test_kernels_run_on_the_device_of_their_tensors(emulated, monkeypatch, op):
    """The caller's device is current again afterwards, and is not set where it is that one."""

    def context(module, device, workspace=None):
        return module.CudaContext(2, 0, 0 if workspace is None else workspace.data_ptr())

    monkeypatch.setattr(_cuda, "_context", context)
    for current in (1, 2):
        emulated.emulator_use_device(current)
        EVERY_OP[op]()
        assert emulated.emulator_ran_on() == 1 << 2
        assert emulated.emulator_device() == current
        assert (emulated.emulator_switches() > 0) == (current != 2)


def test_a_launch_that_fails_leaves_the_device_of_the_caller(emulated, monkeypatch):
    monkeypatch.setattr(_cuda, "_context", lambda module, *_: module.CudaContext(2, 0, 0))
    emulated.emulator_use_device(1)
    emulated.emulator_fail_next_launch(719)  # cudaErrorLaunchFailure
    with pytest.raises(RuntimeError, match="kernel launch"):
        ops.layer_norm(torch.ones(5, 64))
    assert emulated.emulator_device() == 1
    assert emulated.emulator_switches() == 2
