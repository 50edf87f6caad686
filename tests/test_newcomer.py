"""An analysis in one file, as a stranger adds it, has everything that outdim's own ones have."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from newcomer import install
from outdim.analysis.analyze import analyze
from outdim.analysis.registry import step_class, steps
from outdim.analysis.table import SCHEMA
from outdim.cli import main
from outdim.models import load_model
from outdim.run.plan import Study
from outdim.tokens import load_tokenizer
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModel, BertModel

TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site-packages")
    install(folder)
    return folder


@pytest.fixture(autouse=True)
def installed(package, monkeypatch) -> Iterator[None]:
    """The package is found here and by every process that a test starts."""
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    steps.cache_clear()
    yield
    steps.cache_clear()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tiny-bert")
    arguments = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 16}
    tiny_model("bert", **arguments, outliers=(3,)).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """300 documents, one a line, in some twenty shards of 1 KB."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    rng = random.Random(0)
    words = [f"w{min(int(rng.paretovariate(0.9)), 90)}" for _ in range(4000)]
    path.write_text(
        "".join(" ".join(rng.sample(words, rng.randint(1, 40))) + "\n" for _ in range(300))
    )
    return path


@pytest.fixture(scope="module")
def common(model, text) -> list[str]:
    """Options that every run here has."""
    return [str(text), "--model", str(model), "--shard-bytes", "1024", "--token-budget", "256",
            "--device", "cpu"]  # fmt: skip


def run(*arguments: object) -> None:
    """A command that succeeds, in this process."""
    assert main([str(argument) for argument in arguments]) == 0


def start(*arguments: object, launcher: list[str] | None = None) -> subprocess.Popen:
    """A command as a process of its own."""
    command = [sys.executable, *(launcher or []), "-m", "outdim", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def succeed(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def bytes_of(path: Path) -> dict[str, bytes]:
    """What must not depend on who did the work."""
    files = [path / "stats.parquet", *sorted(path.glob("state/norm-share/*"))]
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def alone(tmp_path_factory, package, common) -> Path:
    """The analysis in one process to which nothing happened."""
    path = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(package)
        steps.cache_clear()
        run("norm-share", *common, "--workers", 1, "--output", path)
    return path


class TestCommandLine:
    def test_help_lists_it_and_documents_its_options(self, capsys) -> None:
        said = {}
        for words in ("--help", "norm-share --help"):
            with pytest.raises(SystemExit):
                main(words.split())
            said[words] = " ".join(capsys.readouterr().out.split())
        assert "norm-share Measure how much of a token's squared norm sits in" in said["--help"]
        own = said["norm-share --help"]
        assert "outdim norm-share TEXT --model MODEL --output OUTPUT [options]" in own
        assert "--top N How many dimensions of a token, its own largest, are" in own
        assert "(default: 3)" in own

    def test_options_come_from_yaml_as_well(self, common, tmp_path, capsys) -> None:
        with pytest.raises(SystemExit):
            main(["norm-share", *common, "--top=2", "--workers=1", "--output=x", "--print_config"])
        (tmp_path / "options.yaml").write_text(capsys.readouterr().out)
        run("norm-share", "--config", tmp_path / "options.yaml", "--output", tmp_path / "run")
        entry = Study(tmp_path / "run")["norm-share"]
        assert entry.options["top"] == 2
        assert entry.options["points"] == ["embeddings", "block.0", "block.1"]
        assert len(entry.work) > 15

    def test_other_options_are_not_mixed_into_a_run(self, alone, common, capsys) -> None:
        before = bytes_of(alone)
        assert main(["norm-share", *common, "--top", "2", "--output", str(alone)]) == 5
        assert "options.top: 3 -> 2" in capsys.readouterr().err
        assert bytes_of(alone) == before

    def test_its_own_errors_name_the_argument(self, common, tmp_path, capsys) -> None:
        assert main(["norm-share", *common, "--top", "17", "--output", str(tmp_path / "x")]) == 2
        assert "top: expected 1 to 16 dimensions, got 17" in capsys.readouterr().err
        assert not (tmp_path / "x").exists()


class TestResult:
    def test_the_tidy_table_has_the_numbers_of_plain_arithmetic(self, alone, model, text) -> None:
        table = pq.read_table(alone / "stats.parquet")
        assert table.column_names == ["step", *SCHEMA.names]
        assert set(table["step"].to_pylist()) == {"norm-share"}
        expected = shares(model, text)
        for selection in ("text", "text+first", "all"):
            for point, (share, position, special) in expected.items():
                kept = np.ones_like(special) if selection == "all" else ~special
                rows = table.filter(
                    (pc.field("point") == point) & (pc.field("selection") == selection)
                ).to_pylist()
                found = {row["statistic"]: row["value"] for row in rows}
                assert {row["n"] for row in rows} == {kept.sum()}
                assert found == pytest.approx(
                    {
                        # The model's own float32 differs with the shape of the batch.
                        "norm_share": share[kept].mean(),
                        "norm_share_max": share[kept].max(),
                        "norm_share_pearson": np.corrcoef(share[kept], position[kept])[0, 1],
                    },
                    rel=1e-5,
                )

    def test_the_manifest_has_what_was_found_and_read(self, alone) -> None:
        manifest = json.loads((alone / "manifest.json").read_text())
        (found,) = manifest["headlines"]["norm-share"]
        assert found.startswith("The 3 largest dimensions of a token hold 9")
        assert manifest["options"]["norm-share"]["top"] == 3

    def test_the_report_has_a_section_a_figure_and_the_words_of_it(self, alone) -> None:
        page = " ".join((alone / "report.html").read_text().split())
        section = page[page.index('id="step-norm-share"') : page.index('id="run"')]
        assert "Norm share</h2>" in section
        assert "mean share of the squared norm in the largest dimensions" in section
        largest = max(rows_of(alone, "norm_share", "text"), key=lambda row: row["value"])
        assert f"<td>{largest['value']:.2f}</td>" in section
        assert "Share of the largest dimensions, layer by layer" in section
        assert list((alone / "figures").glob("norm_share_*.svg"))
        assert "The 3 largest dimensions of a token hold 9" in page

    def test_in_memory_it_gives_the_same(self, alone, model, text) -> None:
        step, options = step_class("norm-share"), {"norm-share": step_class("norm-share").Options()}
        assert step.Options().top == 3
        loaded = load_model(str(model)), load_tokenizer(str(model))
        found = analyze(*loaded, str(text), options)["norm-share"]
        table = found.tables()["stats"]
        saved = pq.read_table(alone / "stats.parquet").drop(["step"])
        assert table["n"].to_pylist() == saved["n"].to_pylist()
        # In one unit and other batches.
        assert table["value"].to_numpy() == pytest.approx(saved["value"].to_numpy(), rel=1e-5)


@pytest.mark.slow
class TestStudy:
    def test_analyze_takes_it_in_the_forward_of_the_others(
        self, alone, common, tmp_path, monkeypatch
    ) -> None:
        forwards = count_forwards(monkeypatch)
        options = [*common, "--workers", 1]
        run("correlate", *options, "--types", 0, "--output", tmp_path / "correlate")
        of_one = len(forwards)
        forwards.clear()
        both = ["--steps", "correlate", "norm-share", "--correlate.types", 0]
        run("analyze", *options, *both, "--output", tmp_path / "both")
        assert len(forwards) == of_one > 20
        assert step_rows(tmp_path / "both", "norm-share") == step_rows(alone, "norm-share")
        of_both = step_rows(tmp_path / "both", "correlate")
        assert of_both == step_rows(tmp_path / "correlate", "correlate")

    def test_added_later_it_costs_the_others_nothing(
        self, alone, common, tmp_path, monkeypatch
    ) -> None:
        study = tmp_path / "study"
        run("correlate", *common, "--workers", 1, "--types", 0, "--output", study)
        before = step_rows(study, "correlate")
        states = {path: path.stat().st_mtime_ns for path in study.glob("state/*/*")}
        forwards = count_forwards(monkeypatch)
        run("norm-share", *common, "--workers", 1, "--output", study)
        assert len(forwards) > 0
        assert {path: path.stat().st_mtime_ns for path in states} == states
        assert step_rows(study, "correlate") == before
        assert step_rows(study, "norm-share") == step_rows(alone, "norm-share")
        assert list(Study(study).entries()) == ["count", "detect", "correlate", "norm-share"]


@pytest.mark.slow
class TestProcesses:
    def test_two_workers_give_the_same_bytes(self, alone, common, tmp_path) -> None:
        succeed(start("norm-share", *common, "--workers", 2, "--output", tmp_path / "run"))
        assert bytes_of(tmp_path / "run") == bytes_of(alone)

    def test_torchrun_gives_the_same_bytes(self, alone, common, tmp_path) -> None:
        arguments = ["norm-share", *common, "--output", tmp_path / "run"]
        succeed(start(*arguments, launcher=TORCHRUN))
        assert bytes_of(tmp_path / "run") == bytes_of(alone)

    def test_killed_it_goes_on_and_ends_with_the_same_bytes(self, alone, common, tmp_path) -> None:
        path = tmp_path / "run"
        arguments = ["norm-share", *common, "--workers", 1, "--output", path]
        process = start(*arguments)
        wait_for(lambda: any(path.glob("state/norm-share/*.safetensors")))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (path / "stats.parquet").exists()
        succeed(start(*arguments))
        assert bytes_of(path) == bytes_of(alone)


def shares(model: Path, text: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By point, of every token: its share, its position, whether it is special."""
    tokenizer, reference = tiny_tokenizer(), AutoModel.from_pretrained(model).eval()
    found = {name: ([], [], []) for name in ("embeddings", "block.0", "block.1")}
    for line in text.read_text().splitlines():
        ids = tokenizer(line, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            states = reference(input_ids=ids, output_hidden_states=True).hidden_states
        for columns, hidden in zip(found.values(), states, strict=True):
            squares = np.sort(hidden[0].double().numpy() ** 2, axis=1)
            columns[0].extend(squares[:, -3:].sum(1) / squares.sum(1))
            columns[1].extend(range(len(squares)))
            columns[2].extend(np.isin(ids[0].numpy(), tokenizer.all_special_ids))
    return {
        name: (np.array(share), np.array(position, float), np.array(special))
        for name, (share, position, special) in found.items()
    }


def count_forwards(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows with every forward of a model from now on."""
    forwards: list[None] = []
    forward = BertModel.forward

    @functools.wraps(forward)
    def counted(self, *args, **kwargs):
        forwards.append(None)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(BertModel, "forward", counted)
    return forwards


def rows_of(path: Path, statistic: str, selection: str) -> list[dict[str, object]]:
    """The tidy rows of one statistic."""
    wanted = (pc.field("statistic") == statistic) & (pc.field("selection") == selection)
    return pq.read_table(path / "stats.parquet").filter(wanted).to_pylist()


def step_rows(path: Path, step: str) -> list[dict[str, object]]:
    """The tidy rows of one step, in order."""
    table = pq.read_table(path / "stats.parquet")
    rows = table.filter(pc.field("step") == step).drop(["step"]).to_pylist()
    assert rows
    return [{k: str(v) for k, v in row.items()} for row in rows]  # NaN is equal to itself


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)
