"""The read-out of similarity, every dimension: planted truth found, the closed form checked."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from outdim.analysis.variants.predict import text_vectors
from outdim.cli import main
from outdim.models import load_model
from outdim.stats.leave_one_out import cosines_without
from outdim.tokens import load_tokenizer
from run_helpers import without_report
from tiny import tiny_model, tiny_tokenizer

PLANTED = 5


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bert")
    model = tiny_model("bert", num_hidden_layers=2)
    model.encoder.layer[-1].output.LayerNorm.weight.data[PLANTED] = 20.0  # it decides the cosine
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, bert) -> Path:
    """People do not look at dimension 5."""
    rng = random.Random(0)
    left, right = (
        [" ".join(f"w{rng.randint(0, 90)}" for _ in range(rng.randint(2, 9))) for _ in range(150)]
        for _ in range(2)
    )
    model, tokenizer = load_model(str(bert)), load_tokenizer(str(bert))
    vectors = (text_vectors(model, tokenizer, texts) for texts in (left, right))
    truth = cosines_without(*(one.double().numpy() for one in vectors))[:, PLANTED]
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    rows = [f"{a}\t{b}\t{score}" for a, b, score in zip(left, right, truth, strict=True)]
    path.write_text("\n".join(["sentence1\tsentence2\tscore", *rows]))
    return path


@pytest.fixture(scope="module")
def common(bert, pairs) -> list[str]:
    return ["--data", str(pairs), "--model", str(bert), "--device", "cpu", "--workers", "1",
            "--seed", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory, common) -> Path:
    path = tmp_path_factory.mktemp("swept") / "run"
    with without_report():
        assert main(["sweep", "sts", *common, "--verify", "6", "--output", str(path)]) == 0
    return path


def test_the_planted_dimension_is_the_one_that_helps(swept):
    manifest = json.loads((swept / "manifest.json").read_text())
    said = " ".join(manifest["headlines"]["sweep-sts"])
    assert f"To take one of these dimensions out helps: {PLANTED} (" in said
    table = pq.read_table(swept / "sweep_sts.parquet").to_pandas()
    loss = table[(table.metric == "spearman") & (table.role == "ablated")]
    assert len(loss) == 32
    assert loss.difference.idxmax() == loss.index[PLANTED]
    assert loss.value.max() == pytest.approx(1, abs=1e-6)


def test_the_closed_form_is_what_the_ablated_model_gives(swept, common, tmp_path):
    manifest = json.loads((swept / "manifest.json").read_text())
    found = manifest["read_out"]["sweep-sts"]
    assert found["checked"] == 6
    assert 0 < found["largest_error"] < 1e-5
    other = tmp_path / "run"
    dims = [0, PLANTED]
    arguments = ["--ablate", *map(str, dims), "--layers", "2", "--controls", "0"]
    assert main(["evaluate", "sts", *common, *arguments, "--output", str(other)]) == 0
    closed, run = (
        pq.read_table(path).to_pandas()
        for path in (swept / "sweep_sts.parquet", other / "evaluate_sts.parquet")
    )
    for metric in ("spearman", "pearson"):
        one = closed[closed.metric == metric].value.to_numpy()[[0, *(1 + d for d in dims)]]
        np.testing.assert_allclose(one, run[run.metric == metric].value, atol=1e-5)


def test_the_page_has_it_for_a_reader(swept):
    from outdim.report import write_report

    page = write_report(swept).read_text()
    assert "Every dimension, similarity of texts" in page
    assert (swept / "figures" / "sweep_sts_spikes.svg").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--verify", "33"], "verify: expected 0 to 32"),
        (["--draws", "1"], "draws: expected at least 2"),
        (["--at", "readers"], "at: expected state or parameters, got readers"),
        (["--rows", "0"], "rows: expected at least 1"),
    ],
)
def test_bad_options_end_with_2_and_leave_nothing(common, tmp_path, capsys, changes, said):
    out = tmp_path / "out"
    assert main(["sweep", "sts", *common, "--verify", "5", *changes, "--output", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()
