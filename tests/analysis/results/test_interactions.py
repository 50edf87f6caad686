"""Pairs: two dimensions that carry the same are harmless alone and ruinous together."""

import dataclasses
import json

import numpy as np
import pytest
from outdim import manifest
from outdim.analysis.evaluate import evaluate
from outdim.analysis.results.evaluation import SUMS
from outdim.analysis.results.swept import Sweep
from outdim.analysis.sweep import sweep
from outdim.analysis.sweeps.ranking import Ranking, ranked_dims
from outdim.errors import ArgumentError
from planted_frequency import quiet_llama
from run_helpers import give, replaced, small
from tiny import tiny_texts

TWINS, DIMS = (4, 11), 16


def redundant(tokenizer, texts):
    """A llama that predicts how frequent tokens are, off two dimensions that are the same.

    What its blocks add is next to nothing, and the final norm makes the one that is left larger.
    """
    model, frequent = quiet_llama(tokenizer, texts, DIMS)
    words, head = model.model.embed_tokens.weight.data, model.lm_head.weight.data
    words[:, TWINS] = 4.0  # after the norm sqrt(16 / 2) each
    head[:, TWINS] = frequent[:, None] / (2 * 8**0.5)
    return model


@pytest.fixture(scope="module")
def model(tokenizer, texts):
    return redundant(tokenizer, texts)


@pytest.fixture(scope="module")
def texts():
    return tiny_texts(24, 30)


@pytest.fixture(scope="module")
def found(model, tokenizer, texts):
    return sweep(model, tokenizer, texts, dims=["2-6", TWINS[1]], pairs=True, controls=3, draws=300)


def test_twins_are_found_and_no_other_pair(found):
    harm = dict(zip(found.grid.sets, found.harm()[0], strict=True))
    assert len(harm) == 6 + 15
    assert harm[TWINS] > 2 * (harm[TWINS[:1]] + harm[TWINS[1:]])
    interactions = found.interactions
    (_, i), *others = interactions.sure(1)
    assert found.grid.sets[interactions.pairs[i][0] - 1] == TWINS
    size = interactions.found[0].difference.value
    assert all(abs(size[1 + other]) < 0.2 * size[1 + i] for _, other in others)
    said = " ".join(found.headline())
    assert "more harm together than the sum of both: 4+11 (" in said


def test_interactions_are_differences_of_paired_losses(found, model, tokenizer, texts):
    sets = [(4,), (11,), (2,), (4, 11), (2, 4)]
    alone = evaluate(model, tokenizer, texts, ablations=sets, controls=0)
    harm = {one: alone.value("loss", i) - alone.loss for i, one in enumerate(sets, 1)}
    expected = {(a, b): harm[a, b] - harm[a,] - harm[b,] for a, b in sets[3:]}
    table = found.tables()["sweep_lm_pairs"].to_pandas()
    assert len(table) == 15
    for row in table.itertuples():
        assert row.interaction == pytest.approx(row.together - row.harm - row.other_harm)
        assert row.interaction_low <= row.interaction <= row.interaction_high
        if (row.dim, row.other) in expected:
            assert row.interaction == pytest.approx(expected[row.dim, row.other], abs=1e-5)
    assert (table.q >= table.p).all()


def test_independent_dimensions_do_not_interact(tokenizer, texts):
    """Dimensions that nothing reads: all interactions are noise of rounding."""
    model = redundant(tokenizer, texts)
    model.lm_head.weight.data[:, [2, 3, 5]] = 0
    for layer in model.model.layers:
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight.data[[2, 3, 5]] = 0
    model.model.embed_tokens.weight.data[:, [2, 3, 5]] = 0
    found = sweep(model, tokenizer, texts, dims=[2, 3, 5], pairs=True, controls=0, draws=100)
    assert not found.interactions.sure(1)
    assert not found.interactions.sure(-1)
    assert "none surely does more or less harm" in " ".join(found.headline())


def test_what_is_not_finite_is_null_with_a_reason(found):
    place = found.places[0]
    sums, broken = place.sums.copy(), 1 + found.grid.sets.index((2,))
    sums[:, broken] = np.nan
    sums[:, broken, SUMS.index("nonfinite")] = 1
    again = Sweep(found.step, [dataclasses.replace(place, sums=sums)], found.grid)
    for row in again.tables()["sweep_lm_pairs"].to_pylist():
        amiss = row["dim"] == 2
        assert not any(isinstance(one, float) and np.isnan(one) for one in row.values())
        assert [row[name] is None for name in ("harm", "interaction", "p")] == [amiss] * 3
        assert row["other_harm"] is not None
        assert row["reason"] == ("24 tokens with logits that are not finite" if amiss else "")


@pytest.mark.parametrize(
    ("dims", "said"),
    [("3", "expected 2 to 64 single dimensions, got 1"), (["1,2", "3"], "got 1")],
)
def test_pairs_of_too_few_are_refused(model, tokenizer, texts, dims, said):
    with pytest.raises(ArgumentError, match=said):
        sweep(model, tokenizer, texts, dims=dims, pairs=True)


def test_a_run_takes_the_worst_of_another(model, tokenizer, corpus, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    options = {"controls": 2, "draws": 100, "block": 40}
    first = give("sweep lm", corpus, small(tmp_path / "model", tmp_path / "first", **options))
    worst = ranked_dims(first)
    assert sorted(worst) == list(range(DIMS))
    table = json.loads((first / "manifest.json").read_text())
    assert "pairs" not in str(table["results"])
    again = small(
        tmp_path / "model", tmp_path / "second", **options, dims=["worst:3", "least:1"],
        ranking=str(first), pairs=True,
    )  # fmt: skip
    run = give("sweep lm", corpus, again, page=True)
    grid = manifest.read(run)["options"]["sweep-lm"]["grid"]["sets"]
    assert grid[:4] == [[worst[0]], [worst[1]], [worst[2]], [worst[-1]]]
    assert len(grid) == 4 + 6
    assert "Pairs of dimensions, all layers at once" in (run / "report.html").read_text()
    said = f"{first} ranked the dimensions on 1 of the 1 text read here"
    assert manifest.read(run)["cautions"]["sweep-lm"][0].startswith(said)
    assert said in (run / "report.html").read_text()
    assert "ranked the dimensions" not in str(manifest.read(first)["cautions"])
    chosen = small(
        tmp_path / "model", tmp_path / "chosen", rounds=1, controls=0, draws=50, dims=["worst:3"],
        ranking=str(first),
    )  # fmt: skip
    cautions = manifest.read(give("greedy lm", corpus, chosen))["cautions"]["greedy-lm"]
    assert cautions[1].startswith(said)
    for changes, said in (
        ({"ranking": None}, "name its run: --ranking"),
        ({"ranking": str(tmp_path)}, "holds no sweep and no screening"),
        ({"dims": ["worst:17"]}, "expected 1 to 16"),
    ):
        with pytest.raises(ArgumentError, match=said):
            give("sweep lm", corpus, replaced(again, output=tmp_path / "bad", **changes))
    ranking = Ranking(str(first))
    assert ranking.named(["worst:2", "5-6"], DIMS) == [str(worst[0]), str(worst[1]), "5-6"]
    with pytest.raises(ArgumentError, match=f"ranks the {DIMS} dimensions of another model"):
        ranking.named(["worst:3"], DIMS * 2)


def test_a_verified_sweep_ranks_as_its_screening_which_has_all(model, tokenizer, corpus, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    asked = small(tmp_path / "model", tmp_path / "run", draws=100)
    run = give("screen lm", corpus, small(tmp_path / "model", tmp_path / "screen"))
    screened = ranked_dims(run)
    run = give("sweep lm", corpus, replaced(asked, verify=3, verify_random=4))
    assert ranked_dims(run) == screened
    assert sorted(screened) == list(range(DIMS))
    sets = replaced(asked, output=tmp_path / "sets", dims=["4,11", "2,3"], controls=0)
    run = give("sweep lm", corpus, sets)
    with pytest.raises(ArgumentError, match="swept no single dimension"):
        ranked_dims(run)
