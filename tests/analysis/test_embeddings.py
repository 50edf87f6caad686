"""Embeddings taken apart: planted columns in each part, every family, runs and their page."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from outdim import cli
from outdim.analysis.embeddings import columns_of, embeddings
from outdim.errors import DataError
from outdim.models import architecture
from outdim.models.embedding_tables import embedding_parts
from tiny import HIDDEN, SINGLE, VOCAB, tiny_model

DIM = 7
FULL = {"word", "position", "type", "gamma", "beta"}
PARTS = {
    "bert": FULL,
    "roberta": FULL,
    "distilbert": FULL - {"type"},
    "deberta-v2": FULL - {"type"},
    "gpt2": {"word", "position"},
    "opt": {"word", "position"},
    "opt-post": {"position"},  # words are narrower
    "modernbert": {"word", "gamma"},
    "bloom": {"word", "gamma", "beta"},
    "electra": None,
    "albert": None,
    "vit": None,
}


@pytest.mark.parametrize("family", SINGLE)
def test_parts_are_found_by_what_they_give(family):
    model = tiny_model(family)
    expected = PARTS.get(family, {"word"})
    if expected is None:
        with pytest.raises(DataError, match="no embeddings that are 32 wide"):
            embedding_parts(model, architecture(model))
        return
    parts = embedding_parts(model, architecture(model))
    assert {one.part for one in parts} == expected
    assert all(one.weight.shape[1] == HIDDEN for one in parts)
    for one in parts:
        if one.part == "word":
            assert len(one.weight) == VOCAB
        module = model.get_submodule(one.path)
        name = "bias" if one.part == "beta" else "weight"
        assert torch.equal(one.weight.reshape(-1), getattr(module, name).reshape(-1))


def test_what_runs_within_a_block_is_no_part():
    class Counting(torch.nn.Module):
        """Has a table of positions of its own, as relative ones are."""

        def __init__(self, inner):
            super().__init__()
            self.inner, self.table = inner, torch.nn.Embedding(64, HIDDEN)

        def forward(self, hidden):
            self.table(torch.arange(hidden.shape[-2]))
            return self.inner(hidden)

    model = tiny_model("llama")
    model.layers[0].mlp = Counting(model.layers[0].mlp)
    parts = embedding_parts(model, architecture(model))
    assert [one.part for one in parts] == ["word"]


@pytest.mark.parametrize("part", sorted(FULL - {"type"}))
def test_a_planted_column_is_found_in_its_part_alone(part):
    model = tiny_model("bert", hidden_size=64)
    for name in ("word_embeddings", "position_embeddings"):  # columns alike but for chance
        table = getattr(model.embeddings, name).weight.data
        table /= table.std(0, keepdim=True)
        table -= table.mean(0, keepdim=True)
    parts = {one.part: one.weight for one in embedding_parts(model, architecture(model))}
    parts[part][:, DIM] += 8 * parts[part].std()
    found = embeddings(model)
    assert [name for name in FULL - {"type"} if DIM in found.outside(name)] == [part]
    assert found.parts[part].extreme[DIM] == pytest.approx(
        float(max(parts[part][:, DIM], key=lambda w: abs(w - parts[part].mean())))
    )


def test_the_chance_figure_is_that_of_both_values():
    rng = np.random.default_rng(0)
    beyond = (np.abs(rng.standard_normal((2000, 64, 2))) > 3).any(-1).sum(-1).mean()
    (said,) = embeddings(tiny_model("bert", hidden_size=64)).headline()
    assert beyond == pytest.approx(0.345, abs=0.03)
    assert said.endswith("Of 64 normal columns 0.3 are, 0.2 where there is one row.")
    assert embeddings(tiny_model("llama")).headline()[0].endswith("normal columns 0.2 are.")


def test_one_extreme_row_is_named():
    model = tiny_model("bert")
    model.embeddings.position_embeddings.weight.data[3, DIM] = -9
    found = embeddings(model).parts["position"]
    assert (int(found.row[DIM]), float(found.extreme[DIM])) == (3, -9.0)


def test_columns_are_those_of_numpy():
    weight = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    weight[:, 4] *= 30
    found = columns_of(weight)
    w = weight.double().numpy()
    np.testing.assert_allclose(found["mean"], w.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["sd"], w.std(0), rtol=1e-12)
    z = (w - w.mean()) / w.std()
    assert found["counts"].sum(1).tolist() == [50] * 9
    assert int(found["counts"][:, :40].sum()) == int((z <= 0).sum())
    assert found["counts"][:, 0].tolist() == (z <= -9.75).sum(0).tolist()


def test_columns_of_many_weights_are_taken_in_pieces(monkeypatch):
    weight = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    whole = columns_of(weight)
    monkeypatch.setattr("outdim.analysis.embeddings._AT_ONCE", 100)
    for name, part in columns_of(weight).items():
        assert torch.equal(part, whole[name]), name


def test_equal_weights_stand_nowhere():
    found = columns_of(torch.ones(5, 3))
    assert found["counts"].sum() == 15
    assert found["sd"].tolist() == [0.0] * 3


@pytest.fixture(scope="module")
def run(tiny_directory, tmp_path_factory):
    path = tmp_path_factory.mktemp("embeddings") / "run"
    given = ["--model", str(tiny_directory), "--output", str(path), "--device", "cpu"]
    assert cli.main(["embeddings", *given, "--detect.permutations", "10"]) == 0
    return path


def test_a_run_has_tables_and_a_page(run):
    document = json.loads((run / "embeddings.json").read_text())
    assert {one["part"] for one in document["parts"]} == FULL
    table = pq.read_table(run / "embedding_histograms.parquet").to_pylist()
    assert len(table) == 5 * 16
    assert all(sum(row["counts"]) == VOCAB for row in table if row["part"] == "word")
    page = (run / "report.html").read_text()
    assert "Where outliers begin: the embeddings" in page
    assert "Weights of single columns among all" in page
    stats = pq.read_table(run / "stats.parquet").to_pandas()
    mine = stats[stats.step == "embeddings"]
    assert set(mine.point) == {f"embeddings.{part}" for part in FULL}
