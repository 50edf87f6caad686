"""The programs of examples/ run and print what is true. norm_share.py: see test_newcomer.py."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from outdim.models import load_model
from outdim.ops import moments
from outdim.tokens import load_tokenizer
from tiny import tiny_model, tiny_tokenizer

EXAMPLES = Path(__file__).parents[1] / "examples"
OUTLIER = 3


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words = np.minimum(np.random.default_rng(0).zipf(1.3, 3000), 90)
    path.write_text("\n".join(" ".join(f"w{w}" for w in row) for row in words.reshape(-1, 30)))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny BERT one of whose dimensions is huge at every token."""
    path = tmp_path_factory.mktemp("tiny-bert")
    tiny = tiny_model("bert", num_hidden_layers=2, outliers=(OUTLIER,))
    for layer in tiny.encoder.layer:
        layer.output.LayerNorm.bias.data[OUTLIER] = 40.0
    tiny.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def run(name: str, *arguments: object, **environment: object) -> str:
    """What a program prints; it gets environment variables besides those of this process."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        env=os.environ | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_watches_every_step_and_changes_none(capsys, monkeypatch) -> None:
    names = runpy.run_path(str(EXAMPLES / "training.py"))
    names["main"](looks=(1, 10))
    watched = re.findall(
        r"loss ([\d.]+), (\d+) tokens; \|h\| at most ([\d.]+)", capsys.readouterr().out
    )
    tokens = names["BATCH"] * (names["LENGTH"] - 1)
    assert [int(n) for _, n, _ in watched] == [tokens, 9 * tokens]
    assert float(watched[1][2]) > 1.2 * float(watched[0][2])

    # torch's own norm in its place: the same losses.
    seen: list[torch.Tensor] = []

    def plain(x: torch.Tensor, gamma, beta, **others):
        seen.append(x.detach())
        normed = torch.nn.functional.layer_norm(x, x.shape[-1:], gamma, beta)
        return normed, None, moments(x.detach())

    monkeypatch.setitem(names["Watched"].forward.__globals__, "layer_norm_moments", plain)
    names["main"](looks=(1, 10))
    again = re.findall(
        r"loss ([\d.]+), (\d+) tokens; \|h\| at most ([\d.]+)", capsys.readouterr().out
    )
    assert again == watched
    assert f"{seen[0].abs().max():.2f}" == watched[0][2]


def test_quantisation_names_the_planted_dimension_and_what_it_costs(model, text, capsys) -> None:
    names = runpy.run_path(str(EXAMPLES / "quantisation.py"))
    names["main"](str(model), str(text))
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines()[:-1])
    assert list(lines) == ["embeddings", "block.0", "block.1"]
    assert lines["embeddings"].startswith("none;")
    hidden = hidden_states(model, text)
    for point in ("block.0", "block.1"):
        assert lines[point].startswith(f"{OUTLIER};")
        with_all, without = map(float, re.findall(r"([\d.]+) dB", lines[point]))
        # Rounding itself, with the step that each of the two leaves.
        states = hidden[point]
        others = np.delete(states, OUTLIER, axis=1)
        for expected, largest in (
            (with_all, np.abs(states).max()),
            (without, np.abs(others).max()),
        ):
            step = largest / 127
            noise = others - np.round(others / step) * step
            found = 10 * np.log10((others**2).mean() / (noise**2).mean())
            assert expected == pytest.approx(found, abs=0.5)
        assert without - with_all > 15


def test_a_masked_lm_head_is_learnt_on_a_frozen_encoder(tmp_path, capsys) -> None:
    # Every line repeats one word: to be learnt from the states of the others.
    model = tmp_path / "model"
    tiny_model("bert", num_hidden_layers=2).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    rng = np.random.default_rng(0)
    for name, lines in (("train", 200), ("other", 50)):
        words = [f"w{i}" for i in rng.integers(0, 8, lines)]
        (tmp_path / f"{name}.txt").write_text("\n".join(" ".join([w] * 30) for w in words))
    names = runpy.run_path(str(EXAMPLES / "masked_lm_head.py"))
    output = tmp_path / "fitted"
    texts = [str(tmp_path / f"{name}.txt") for name in ("train", "other")]
    names["main"](str(model), *texts, output, passes=4, batch_tokens=128, learning_rate=1e-2)

    report = json.loads((output / "training.json").read_text())
    looks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert looks == report["curve"]
    first, *_, last = (look["validation_loss"] for look in looks)
    assert last < report["loss_by_frequency"] - 1 < first
    assert (output / "training.png").stat().st_size > 1000

    fitted, encoder = load_model(output, head="mlm"), load_model(model)
    for name, weight in encoder.state_dict().items():
        if not name.startswith("pooler."):
            assert torch.equal(fitted.bert.state_dict()[name], weight), name
    output_weights = fitted.get_output_embeddings().weight
    assert output_weights is fitted.bert.embeddings.word_embeddings.weight
    tokenizer = load_tokenizer(output)
    ids = tokenizer("w5 w5 w5 [MASK] w5 w5", return_tensors="pt").input_ids
    with torch.inference_mode():
        best = fitted(ids).logits[0, 4].argmax()
    assert tokenizer.convert_ids_to_tokens(int(best)) == "w5"


@pytest.mark.slow
def test_the_notebook_of_a_study(model, text, tmp_path) -> None:
    printed = run("study.py", MODEL=model, TEXT=text, STUDY=tmp_path / "study")
    table = pq.read_table(tmp_path / "study" / "stats.parquet")
    assert set(table["step"].to_pylist()) == {"detect", "correlate"}
    assert f"outliers by parameters: [{OUTLIER}]" in printed
    assert "exit code: 5" in printed
    wanted = (
        (pc.field("statistic") == "pearson_abs")
        & (pc.field("covariate") == "log1p_count")
        & (pc.field("selection") == "text")
        & (pc.field("point") == "block.0")
    )
    rows = [row for row in table.filter(wanted).to_pylist() if not np.isnan(row["value"])]
    best = max(rows, key=lambda row: row["value"])
    assert re.search(rf"block\.0 +{best['dim']} +{best['value']:.4f}", printed)


def hidden_states(model: Path, text: Path) -> dict[str, np.ndarray]:
    """All hidden states [N, D] of the blocks, float64."""
    loaded, tokenizer = load_model(str(model)), load_tokenizer(str(model))
    found: dict[str, list[np.ndarray]] = {"block.0": [], "block.1": []}
    for line in text.read_text().splitlines():
        for ids in tokenizer(line, truncation=True, max_length=64, return_tensors="pt")[
            "input_ids"
        ].split(1):
            with torch.inference_mode():
                states = loaded(input_ids=ids, output_hidden_states=True).hidden_states[1:]
            for rows, state in zip(found.values(), states, strict=True):
                rows.append(state[0].double().numpy())
    return {point: np.concatenate(rows) for point, rows in found.items()}
