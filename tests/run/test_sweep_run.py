"""A sweep as a run: the same bytes whoever computed it, resumed or not."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from outdim import open_corpus
from outdim.analysis.sweep import sweep
from outdim.analysis.sweep_text import SweepLm
from outdim.cli import main
from outdim.errors import Interrupted
from outdim.models import load_model
from outdim.run.plan import Study
from outdim.tokens import load_tokenizer
from run_helpers import command, results


@pytest.fixture(scope="module")
def common(corpus, narrow_llama) -> list[str]:
    return ["sweep", "lm", str(corpus), "--model", str(narrow_llama), "--shard-bytes", "4096",
            "--token-budget", "512", "--max-length", "24", "--device", "cpu", "--controls", "2",
            "--layers", "all", "each", "--block", "4", "--draws", "60"]  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory, common) -> Path:
    """A run to which nothing happened, in one process."""
    path = tmp_path_factory.mktemp("alone") / "run"
    command(*common, "--workers", 1, "--output", path)
    return path


def test_the_run_gives_what_python_gives(alone, corpus, narrow_llama):
    table = pq.read_table(alone / "sweep_lm.parquet").to_pandas()
    found = sweep(
        load_model(str(narrow_llama), head="lm"),
        load_tokenizer(str(narrow_llama)),
        open_corpus(corpus, unit_bytes=4096),
        layers=["all", "each"],
        controls=2,
        max_length=24,
        token_budget=512,
        draws=60,
    )
    expected = found.tables()["sweep_lm"].to_pandas()
    assert table.variant.tolist() == expected.variant.tolist()
    np.testing.assert_allclose(table.value, expected.value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(table.difference, expected.difference, rtol=1e-3, atol=1e-5)


def test_plan_and_manifest_say_what_was_done(alone):
    manifest = json.loads((alone / "manifest.json").read_text())
    assert manifest["command"] == "sweep lm"
    assert manifest["evaluation"]["sweep-lm"]["sets"] == 8
    assert manifest["evaluation"]["sweep-lm"]["places"] == 3
    entry = Study(alone)["sweep-lm"]
    units = len({unit["index"] for unit in entry.work})
    blocks = [(unit["place"], unit["first"], unit["last"]) for unit in entry.work[::units]]
    assert blocks == [(0, 0, 4), (0, 4, 8), (0, 8, 10), (1, 0, 4), (1, 4, 8), (1, 8, 10),
                      (2, 0, 8), (2, 8, 10)]  # fmt: skip
    # Every block reads all of the text, which counts once.
    assert manifest["evaluation"]["sweep-lm"]["documents"]["with"] > 50


def test_interrupted_it_goes_on_and_ends_with_the_same_bytes(
    alone, common, tmp_path, monkeypatch, capsys
):
    path, update, done = tmp_path / "run", SweepLm.update, []

    def stopping(self, unit, progress):
        done.append(unit)
        if len(done) == 5:
            raise Interrupted(15)
        return update(self, unit, progress)

    monkeypatch.setattr(SweepLm, "update", stopping)
    arguments = [*common, "--workers", "1", "--output", str(path)]
    assert main(arguments) in (130, 143)
    assert "shards of 'sweep-lm' are committed" in capsys.readouterr().err
    assert not (path / "sweep_lm.parquet").exists()
    assert main(arguments) == 0
    assert len({json.dumps(unit) for unit in done}) == len(done) - 1  # none was computed twice
    assert results(path) == results(alone)


def test_the_same_again_needs_no_forward(alone, common, monkeypatch, capsys):
    from outdim.analysis.variants.runner import Runner

    monkeypatch.setattr(Runner, "run", None)
    assert main([*common, "--workers", "1", "--output", str(alone), "--block", "8"]) == 5
    assert "block: 4 -> 8" in capsys.readouterr().err
    assert main([*common, "--workers", "1", "--output", str(alone)]) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--dims", "some"], "dims: expected words such as"),
        (["--dims", "8"], "dims: expected 0 to 7, got 8"),
        (["--layers", "window:3"], "window:1 to window:2"),
        (["--at", "parameters"], "pre-LN"),
        (["--block", "0"], "block: expected at least 1"),
        (["--draws", "1"], "draws: expected at least 2"),
    ],
)
def test_bad_options_end_with_2_and_leave_nothing(common, tmp_path, capsys, changes, said):
    out = tmp_path / "out"
    assert main([*common, *changes, "--output", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("outdim sweep lm: ")
    assert said in error
    assert not out.exists()


def test_every_variant_is_noted_and_may_be_the_last(common, tmp_path, monkeypatch, capsys):
    noted = []

    def noting(self, share, said):
        noted.append((share, said))
        if len(noted) == 30:
            raise Interrupted(15)

    monkeypatch.setattr("outdim.run.progress.Progress.note", noting)
    arguments = [*common, "--workers", "1", "--output", str(tmp_path / "run")]
    assert main(arguments) in (130, 143)
    assert "are committed" in capsys.readouterr().err
    assert {said for _, said in noted[:4]} == {f"variant {n}/4" for n in (1, 2, 3, 4)}
    shares = [share for share, _ in noted[:4]]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[3] <= 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--dims", "some"], "dims: expected words such as"),
        (["--dims", "0-8"], "dims: expected 0 to 7, got 8"),
        (["--layers", "1", "3-x"], "layers: expected words such as"),
        (["--layers", "3"], "layers: expected 0 (the embeddings) to 2, got 3"),
        (["--layers", "window:3"], "window:1 to window:2"),
        (["--controls", "-1"], "controls: expected 0 or more"),
        (["--verify", "5", "--verify-random", "5"], "verify"),
    ],
)
def test_what_is_amiss_is_said_before_the_model_is_read(common, tmp_path, capsys, monkeypatch,
                                                        changes, said):  # fmt: skip
    monkeypatch.setattr("outdim.models.load_model", None)
    given = [one for one in common if changes[0] != "--verify" or one not in ("--controls", "2")]
    assert main([*given, *changes, "--output", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_the_page_has_it_for_a_reader(alone):
    from outdim.report import summary, write_report

    page = write_report(alone).read_text()
    assert "Every dimension, next tokens" in page
    assert {path.stem for path in (alone / "figures").glob("sweep_lm_*.svg")} == {
        "sweep_lm_spikes", "sweep_lm_grid", "sweep_lm_layers"}  # fmt: skip
    assert "more than intact" in summary(alone)
