"""Predictions as a run: the same bytes however the text is cut and whoever computed them."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from outdim import open_corpus, predictions
from outdim.analysis.parts_of_speech import Word
from outdim.analysis.variants.runner import Runner
from outdim.cli import main
from outdim.errors import BackendError
from outdim.models import load_model
from outdim.tokens import load_tokenizer
from run_helpers import command, results
from tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def common(corpus, llama) -> list[str]:
    return ["predictions", "lm", str(corpus), "--model", str(llama), "--shard-bytes", "1024",
            "--token-budget", "256", "--max-length", "24", "--device", "cpu", "--controls", "2",
            "--ablate", "3", "3,4", "--workers", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory, common) -> Path:
    """A run to which nothing happened, in one process."""
    path = tmp_path_factory.mktemp("alone") / "run"
    command(*common, "--output", path)
    return path


def test_the_run_gives_what_python_gives(alone, corpus, llama):
    found = predictions(
        load_model(str(llama), head="lm"),
        load_tokenizer(str(llama)),
        open_corpus(corpus, unit_bytes=1024),
        ablations=[3, [3, 4]],
        controls=2,
        max_length=24,
        token_budget=256,
    )
    for stem, expected in found.tables().items():
        table = pq.read_table(alone / f"{stem}.parquet")
        assert table.schema.equals(expected.schema), stem
        assert len(table) == len(expected), stem
        mine, theirs = table.to_pandas(), expected.to_pandas()
        for name in mine.columns:
            if mine[name].dtype == np.float64:
                np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-5)


def test_manifest_says_what_was_found(alone):
    manifest = json.loads((alone / "manifest.json").read_text())
    assert manifest["command"] == "predictions lm"
    said = manifest["headlines"]["predictions-lm"]
    assert said[2].startswith("Predicting the next token, the intact model gives ")
    assert len(said) == 4
    account = manifest["predictions"]["predictions-lm"]
    assert account["documents"]["with"] > 50
    rows = pq.read_table(alone / "predictions_lm.parquet").to_pandas()
    assert set(rows.tokens) == {account["tokens"]["next"]}


def test_masks_and_blocks_do_not_depend_on_how_the_text_is_cut(corpus, tmp_path):
    model = tmp_path / "bert"
    tiny_model("bert", head="MaskedLM", num_hidden_layers=2).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    given = ["predictions", "mlm", corpus, "--model", model, "--ablate", 3, "--at", "parameters",
             "--controls", 2, "--device", "cpu", "--workers", 1]  # fmt: skip
    command(*given, "--output", tmp_path / "one")
    command(*given, "--shard-bytes", 1024, "--output", tmp_path / "other")
    one, other = (
        pq.read_table(tmp_path / name / "predictions_mlm.parquet").to_pandas()
        for name in ("one", "other")
    )
    assert set(one.reading) == {"masked", "unmasked"}
    assert one.tokens.tolist() == other.tokens.tolist()
    # The jackknife's ends too: documents are in the same blocks.
    for name in ("value", "value_low", "value_high", "difference_low"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_given_again_nothing_is_computed(alone, common, monkeypatch):
    monkeypatch.setattr(Runner, "run", None)
    assert main([*common, "--output", str(alone)]) == 0
    assert main([*common, "--output", str(alone), "--seed", "1"]) == 5


def test_broken_off_it_goes_on_and_ends_with_the_same_bytes(alone, common, tmp_path, monkeypatch):
    path = tmp_path / "run"
    own, taken = Runner.run, []

    def breaks(self, *arguments):
        taken.append(1)
        if len(taken) > 4:
            raise KeyboardInterrupt
        return own(self, *arguments)

    monkeypatch.setattr(Runner, "run", breaks)
    assert main([*common, "--output", str(path)]) == 130
    assert not (path / "predictions_lm.parquet").exists()
    monkeypatch.setattr(Runner, "run", own)
    command(*common, "--output", path)
    assert results(path) == results(alone)


@pytest.mark.slow
def test_two_workers_give_the_same_bytes(alone, common, tmp_path):
    command(*common, "--workers", 2, "--output", tmp_path / "run")
    assert results(tmp_path / "run") == results(alone)


class EveryWord:
    """Tags every word as a noun."""

    def __init__(self, name: str, version: str = "1") -> None:
        if name == "missing":
            raise BackendError("tagger: spaCy has no pipeline 'missing' here")
        self.about = {"name": name, "version": version}

    def __call__(self, texts):
        return ([Word(0, len(text), "NOUN")] for text in texts)


def test_a_tagger_is_part_of_the_plan(common, tmp_path, monkeypatch):
    path = tmp_path / "run"
    monkeypatch.setattr("outdim.analysis.predictions.SpacyTagger", EveryWord)
    command(*common, "--tagger", "nouns", "--output", path)
    table = pq.read_table(path / "predictions_lm_pos.parquet").to_pandas()
    assert set(table.true) == {"NOUN"}
    assert table[table.predicted == "NOUN"].share.min() > 0.9  # special tokens are none
    assert main([*common, "--output", str(path)]) == 5
    # As is its version.
    monkeypatch.setattr(
        "outdim.analysis.predictions.SpacyTagger", lambda name: EveryWord(name, "2")
    )
    assert main([*common, "--tagger", "nouns", "--output", str(path)]) == 5


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        (["--ablate", "99"], 2, "dims: expected"),
        (["--seed", "-1"], 2, "seed: expected 0 or more, got -1"),
        (["--counts", "/no/such"], 3, "counts"),
        (["--tagger", "missing"], 3, "tagger: spaCy has no pipeline 'missing'"),
    ],
)
def test_bad_options_leave_nothing(common, tmp_path, capsys, monkeypatch, changes, code, said):
    monkeypatch.setattr("outdim.analysis.predictions.SpacyTagger", EveryWord)
    out = tmp_path / "out"
    assert main([*common, *changes, "--output", str(out)]) == code
    error = capsys.readouterr().err
    assert error.startswith("outdim predictions lm: ")
    assert said in error
    assert not out.exists()
