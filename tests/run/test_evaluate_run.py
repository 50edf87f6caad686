"""Evaluation as a run: the same bytes whoever computed them, resumed or not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from outdim import Ablation, open_corpus
from outdim.analysis.evaluate import evaluate
from outdim.cli import main
from outdim.models import load_model
from outdim.run.plan import Study
from outdim.tokens import load_tokenizer
from run_helpers import command, results
from tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def common(corpus, llama) -> list[str]:
    return ["evaluate", "lm", str(corpus), "--model", str(llama), "--shard-bytes", "1024",
            "--token-budget", "256", "--max-length", "24", "--device", "cpu", "--controls", "2",
            "--ablate", "3", "3,4", "--at", "state", "readers"]  # fmt: skip


def start(*arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [sys.executable, *launcher, "-m", "outdim", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def succeed(process: subprocess.Popen) -> None:
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error


@pytest.fixture(scope="module")
def alone(tmp_path_factory, common) -> Path:
    """A run to which nothing happened, in one process."""
    path = tmp_path_factory.mktemp("alone") / "run"
    command(*common, "--workers", 1, "--output", path)
    return path


def test_the_run_gives_what_python_gives(alone, corpus, llama):
    table = pq.read_table(alone / "evaluate_lm.parquet").to_pandas()
    assert set(table.task) == {"lm"}
    found = evaluate(
        load_model(str(llama), head="lm"),
        load_tokenizer(str(llama)),
        open_corpus(corpus, unit_bytes=1024),
        ablations=[Ablation(d, at=at) for d in ([3], [3, 4]) for at in ("state", "readers")],
        controls=2,
        max_length=24,
        token_budget=256,
    )
    expected = found.tables()["evaluate_lm"].to_pandas()
    assert table.variant.tolist() == expected.variant.tolist()
    # torch may have taken other numbers of threads.
    np.testing.assert_allclose(table.value, expected.value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(table.high, expected.high, rtol=1e-4, atol=1e-5)
    assert table.tokens.tolist() == expected.tokens.tolist()


def test_manifest_and_plan_say_what_was_done(alone):
    manifest = json.loads((alone / "manifest.json").read_text())
    assert manifest["command"] == "evaluate lm"
    assert manifest["headlines"]["evaluate-lm"][0].startswith("Predicting the next token")
    assert manifest["evaluation"]["evaluate-lm"]["documents"]["with"] > 50
    entry = Study(alone)["evaluate-lm"]
    assert [v["role"] for v in entry.options["variants"]] == (
        ["intact"] + ["ablated"] * 4 + ["control"] * 8
    )
    assert list(Study(alone).entries()) == ["count", "evaluate-lm"]


def test_more_draws_need_no_forward(alone, common, tmp_path, monkeypatch):
    """And other dimensions are another run."""
    from outdim.analysis.variants.runner import Runner

    monkeypatch.setattr(Runner, "run", None)
    assert main([*common, "--output", str(alone), "--seed", "1"]) == 5
    assert main([*common, "--output", str(alone), "--workers", "1"]) == 0


def test_means_of_the_text_are_planned_once(corpus, llama, tmp_path):
    path = tmp_path / "run"
    arguments = [
        "evaluate", "lm", corpus, "--model", llama, "--ablate", 3, "--mode", "zero", "mean",
        "--controls", 1, "--workers", 1, "--device", "cpu", "--output", path,
    ]  # fmt: skip
    command(*arguments)
    command(*arguments)  # the same plan
    table = pq.read_table(path / "evaluate_lm.parquet").to_pandas()
    kl = table[table.metric == "kl"].set_index("variant").value
    zero, mean = kl["3 off (state)"], next(v for k, v in kl.items() if "at their mean" in k)
    assert 0 < mean < zero


def test_windows_are_variants_with_controls_of_their_own(corpus, llama, tmp_path):
    path = tmp_path / "run"
    command("evaluate", "lm", corpus, "--model", llama, "--ablate", 3, "--window", 1, "--controls",
            1, "--workers", 1, "--device", "cpu", "--output", path)  # fmt: skip
    table = pq.read_table(path / "evaluate_lm.parquet").to_pandas()
    rows = table[(table.metric == "loss") & (table.role != "intact")]
    assert [list(layers) for layers in rows.layers] == [[1], [2], [1], [2]]
    assert rows.group.tolist() == [0, 1, 0, 1]


def test_masked_models_are_evaluated(corpus, tmp_path):
    model = tmp_path / "bert"
    tiny_model("bert", head="MaskedLM", num_hidden_layers=2).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    given = ["evaluate", "mlm", corpus, "--model", model, "--ablate", 3, "--at", "parameters",
             "--controls", 2, "--device", "cpu", "--workers", 1]  # fmt: skip
    command(*given, "--output", tmp_path / "one")
    command(*given, "--shard-bytes", 1024, "--output", tmp_path / "other")
    one, other = (
        pq.read_table(tmp_path / name / "evaluate_mlm.parquet").to_pandas()
        for name in ("one", "other")
    )
    # The same masks however the text is cut.
    assert one.tokens.tolist() == other.tokens.tolist()
    np.testing.assert_allclose(one.value, other.value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        (["--ablate", "three"], 2, "ablate: expected dimensions such as 507, or 507+247 together"),
        (["--ablate", "99"], 2, "dims: expected"),
        (["--at", "parameters"], 2, "at"),
        (["--mode", "scale"], 2, "mode: scale needs factors"),
        (["--mode", "clip"], 2, "value: --mode clip needs one"),
        (["--window", "3"], 2, "window: expected 1 to 2 layers in a row, got 3"),
        (["--draws", "1"], 2, "draws: expected at least 2"),
        (["--layers", "9"], 2, "layers: expected"),
        (["--bound", "2"], 2, "bound: it goes with --mode clip alone"),
        (["--seed", "-1"], 2, "seed: expected 0 or more, got -1"),
        (["--mode", "resample"], 2, "mode: resample needs --at parameters or readers"),
        (
            ["--mode", "mean", "--control-kind", "random_positions"],
            2,
            "control-kind: expected random or magnitude_matched for --mode mean",
        ),
    ],
)
def test_bad_options_end_with_2_and_leave_nothing(common, tmp_path, capsys, changes, code, said):
    out = tmp_path / "out"
    assert main([*common, *changes, "--output", str(out)]) == code
    error = capsys.readouterr().err
    assert error.startswith("outdim evaluate lm: ")
    assert said in error
    assert not out.exists()


def test_an_encoder_is_no_language_model(corpus, tiny_directory, tmp_path, capsys):
    out = tmp_path / "out"
    for task in ("lm", "mlm"):
        code = main(["evaluate", task, str(corpus), "--model", str(tiny_directory),
                     "--output", str(out)])  # fmt: skip
        assert code in (2, 3)
        assert "head" in capsys.readouterr().err
        assert not out.exists()


@pytest.mark.slow
class TestProcesses:
    def test_two_workers_give_the_same_bytes(self, alone, common, tmp_path):
        process = start(*common, "--workers", 2, "--output", tmp_path / "run")
        succeed(process)
        assert results(tmp_path / "run") == results(alone)

    def test_torchrun_gives_the_same_bytes(self, alone, common, tmp_path):
        launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
        process = start(*common, "--output", tmp_path / "run", launcher=launcher)
        succeed(process)
        assert results(tmp_path / "run") == results(alone)

    def test_killed_it_goes_on_and_ends_with_the_same_bytes(self, alone, common, tmp_path):
        path = tmp_path / "run"
        process = start(*common, "--workers", 1, "--output", path)
        until = time.monotonic() + 120
        while not any(path.glob("state/evaluate-lm/*.safetensors")):
            assert time.monotonic() < until
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (path / "evaluate_lm.parquet").exists()
        process = start(*common, "--workers", 1, "--output", path)
        succeed(process)
        assert results(path) == results(alone)
