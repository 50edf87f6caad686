"""What is said of lives: tables, words, intervals, and what is not known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from outdim.analysis.analyze import analyze
from outdim.analysis.attention import AttentionStep
from outdim.analysis.input_options import ForwardOptions, ObserveOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.lifecycle import FollowLives, LifecycleOptions, lifecycle
from outdim.analysis.results.lives_tables import KINDS, LIVES, TOKENS, kinds_table, tokens_table
from outdim.analysis.results.lives_words import in_words, size
from outdim.corpus import open_corpus
from outdim.errors import ArgumentError
from outdim.models import observe
from outdim.text import percent
from planted_lives import (
    DIM,
    LAYER,
    SIZE,
    WORD,
    planted,
    spoiled,
    word_id,
)
from tiny import tiny_model, tiny_tokenizer


def test_a_life_is_told_with_what_takes_it_away_and_what_it_is_to_a_norm(planted_life):
    (said, *_) = planted_life.headline()
    assert f"in layers {LAYER} to 3, falls below half of its largest in layer 4, where the" in said
    share = percent(planted_life.lives[DIM].norm_share)
    assert f"worst token of a sequence it is {share} of what a norm divides by, on average" in said


def test_the_manifest_says_of_how_many_tokens_the_lives_are(planted_life, text_of_lives):
    texts = Path(text_of_lives).read_text().splitlines()
    tokens = sum(len(ids) for ids in tiny_tokenizer()(texts).input_ids)
    lives = {"lifecycle": tokens, "lifecycle_sequences": len(texts)}
    assert planted_life.account() == {"tokens": lives}


def test_what_is_nearly_all_is_not_called_all_and_stands_in_its_layer(planted_life):
    life = replace(
        planted_life.lives[DIM], kind_share=0.9973, positive=1.0, norm_share=0.99996, peak=2
    )
    (said,) = in_words([life])
    assert "Of its squares in layer 2, 99.7% stand at" in said
    assert "100% are of positive values" in said
    assert "it is 99.996% of what a norm" in said


def test_a_birth_that_hangs_on_one_block_is_told(planted_life):
    life = replace(planted_life.lives[DIM], agreement=0.9)
    assert "the first layer is so in 90% of the samples" in in_words([life])[0]
    assert "of the samples" not in planted_life.headline()[0]


def test_sizes_of_a_rise_are_those_of_the_figure_to_its_last_layer(planted_life):
    """Not what the token had before that is largest behind the layer."""
    life = planted_life.lives[DIM]
    (rise,) = life.rises
    assert rise.before == planted_life.spikes[f"block.{LAYER - 2}"].value[DIM]
    assert rise.top_size == planted_life.spikes[f"block.{rise.top - 1}"].value[DIM]
    said = in_words([replace(life, rises=(replace(rise, took=7.9, before=85.0),))])[0]
    assert f"layer {LAYER} (from 85.0 to {size(rise.size)})" in said
    assert "Sizes are the largest |h| of a sequence, on average." in said
    first = replace(rise, layer=0, size=0.8, top=3, top_size=142.0)
    assert (
        "there from the embeddings on (0.8, rising to 142 in layer 3), then written by"
        in (in_words([replace(life, rises=(first, rise))])[0])
    )


def test_the_norms_are_many(planted_life):
    life = replace(planted_life.lives[DIM], fall_branch="norms")
    assert "in layer 4, where the norms take most away" in in_words([life])[0]


def test_sizes_shares_and_what_is_added_have_their_intervals(planted_life):
    life = planted_life.lives[DIM]
    (rise,) = life.rises
    assert rise.added == rise.mlp
    for value, low, high in (
        (life.times, life.times_low, life.times_high),
        (life.norm_share, life.norm_low, life.norm_high),
        (rise.added, rise.added_low, rise.added_high),
        (rise.size, rise.size_low, rise.size_high),
    ):
        assert low < value < high


def test_what_stands_around_a_token_is_the_text(text_of_lives, tmp_path):
    """Blanks too, at the beginning of a word and within one."""
    text = Path(text_of_lives).read_text().replace(WORD, f"{WORD}55")
    (tmp_path / "parts.txt").write_text(text)
    assert tiny_tokenizer().tokenize(f"{WORD}55")[0] != f"{WORD}55"
    model = planted("mlp")
    found = lifecycle(model, tiny_tokenizer(), tmp_path / "parts.txt", dims=[DIM])
    lines = text.splitlines()
    for row in tokens_table(found).to_pylist():
        if row["token"] in ("[CLS]", "[SEP]"):
            continue
        context = row["before"] + row["text"] + row["after"]
        context = context.removeprefix("[CLS] ").removesuffix(" [SEP]")
        assert context in lines[row["document"]]
        assert row["text"].strip() == row["token"].removeprefix("##")
        assert row["text"].startswith(" ") != row["token"].startswith("##")


def test_tables_have_their_schema_whatever_was_found(planted_life, tmp_path):
    (tmp_path / "text.txt").write_text("w13 w14 .\nw13 .")
    model = spoiled(tiny_model("llama"), ("[CLS]", "w13", "w14", ".", "[SEP]"))
    none = lifecycle(model, tiny_tokenizer(), str(tmp_path / "text.txt"), dims=[5])
    assert none.lives[5].rises == ()
    for one in (planted_life, none):
        tables = one.tables()
        assert tables["lifecycle"].schema == LIVES
        assert tables["lifecycle_kinds"].schema == KINDS
        assert tables["lifecycle_tokens"].schema == TOKENS
    assert len(none.tables()["lifecycle_tokens"]) == 0


def test_a_kind_in_few_blocks_of_documents_has_no_interval(text_of_lives, tmp_path):
    lines = [line.removesuffix(" .") for line in Path(text_of_lives).read_text().splitlines()]
    (tmp_path / "text.txt").write_text("\n".join([f"{line} ." for line in lines[:2]] + lines[2:]))
    found = lifecycle(tiny_model("bert"), tiny_tokenizer(), str(tmp_path / "text.txt"), dims=[4])
    by_kind = {}
    for row in kinds_table(found).to_pylist():
        by_kind.setdefault(row["kind"], []).append(row)
    for row in by_kind["delimiters"]:
        assert (row["tokens"], row["reason"]) == (
            2, "in 2 blocks of documents, an interval needs 5"
        )  # fmt: skip
        assert np.isnan([row["squares_low"], row["squares_high"], row["low"], row["high"]]).all()
        assert row["squares"] > 0
    for row in by_kind["other text"]:
        assert row["reason"] == ""
        assert row["squares_low"] < row["squares"] < row["squares_high"]


def test_what_is_0_everywhere_is_said_to_be(text_of_lives):
    model = tiny_model("llama")
    model.embed_tokens.weight.data[:, 3:] = 0
    found = lifecycle(model, tiny_tokenizer(), text_of_lives, dims=[2, 5])
    rows = {(row["statistic"], row["dim"]): row for row in found.tables()["stats"].to_pylist()
            if row["point"] == "embeddings"}  # fmt: skip
    assert rows["positive_squares", 5]["reason"] == "all values are 0"
    assert rows["positive_squares", 2]["reason"] == ""
    assert rows["spike_times", 2]["reason"] == "the median dimension is 0"
    assert rows["spike", 5]["reason"] == ""
    kinds = [row for row in kinds_table(found).to_pylist()
             if (row["point"], row["dim"]) == ("embeddings", 5)]  # fmt: skip
    assert {row["reason"] for row in kinds} == {"all values are 0"}


def test_what_was_found_stays_as_it_is(text_of_lives):
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    inputs = Inputs.of(
        {"source": [text_of_lives]},
        model=model,
        tokenizer=tokenizer,
        corpus=open_corpus(text_of_lives),
    )
    inputs.resolve([ForwardOptions(), ObserveOptions()])
    recorded = {**inputs.options, **FollowLives.resolve(LifecycleOptions(dims=[3]), inputs)}
    step = FollowLives(recorded, inputs)
    (unit,) = FollowLives.work(recorded, inputs)
    first = step.update(unit, lambda tokens: None).result()
    sequences = first.sums.sums["sequences"].sum()
    second = step.update(unit, lambda tokens: None).result()
    assert second.sums.sums["sequences"].sum() == 2 * sequences
    assert first.sums.sums["sequences"].sum() == sequences


def test_values_that_are_not_finite_are_said(text_of_lives):
    model = tiny_model("llama")
    model.embed_tokens.weight.data[tiny_tokenizer()("w13").input_ids[1], 5] = torch.nan
    found = lifecycle(model, tiny_tokenizer(), text_of_lives, dims=[3, 5])
    (said,) = found.cautions()
    assert "is NaN or infinite" in said
    rows = [row for row in found.tables()["stats"].to_pylist()
            if (row["statistic"], row["point"]) == ("spike", "embeddings")]  # fmt: skip
    assert [row["dim"] for row in rows if row["reason"]] == [5]
    assert np.isfinite([row["value"] for row in rows if row["dim"] != 5]).all()


def test_a_size_that_is_not_finite_is_no_fall(text_of_lives):
    model = spoiled(tiny_model("llama"))
    model.embed_tokens.weight.data[word_id(), DIM] = SIZE
    found = lifecycle(model, tiny_tokenizer(), text_of_lives, dims=[DIM])
    life = found.lives[DIM]
    assert (life.born.layer, life.plateau) == (0, (0, 0))
    assert (life.fell, life.fall_branch) == (None, "not known")
    assert "and not finite in layer 1" in found.headline()[0]


def test_a_share_of_what_is_not_finite_is_not_known(text_of_lives):
    found = lifecycle(spoiled(tiny_model("llama")), tiny_tokenizer(), text_of_lives, dims=[3, 5])
    for share in (found.share("embeddings"), found.share_largest("embeddings")):
        assert np.isnan(share.value).all()
    assert np.isfinite(found.sums.spike("embeddings").value[3])
    rows = [row for row in found.tables()["stats"].to_pylist()
            if row["statistic"].startswith("denominator_share")]  # fmt: skip
    assert {row["reason"] for row in rows} == {"nonfinite values"}
    assert {found.lives[dim].norm_share for dim in (3, 5)} == {None}


def test_a_token_that_is_0_everywhere_has_no_share(text_of_lives):
    model = tiny_model("llama")
    model.embed_tokens.weight.data[tiny_tokenizer()("w13").input_ids[1]] = 0
    found = lifecycle(model, tiny_tokenizer(), text_of_lives, dims=[3])
    assert 0 < found.share("embeddings").value[0] < 1


def test_few_documents_have_no_intervals(text_of_lives, tmp_path):
    (tmp_path / "few.txt").write_text("\n".join(Path(text_of_lives).read_text().splitlines()[:4]))
    found = lifecycle(tiny_model("bert"), tiny_tokenizer(), str(tmp_path / "few.txt"), dims=[1])
    assert [said[:29] for said in found.cautions()] == ["Documents fill 4 blocks only,"]
    assert np.isnan(found.lives[1].low)


def test_sentences_are_drawn_in_memory_with_the_dimensions_that_are_followed(text_of_lives):
    options = LifecycleOptions(dims=[7, 7, 3], sentences=["w1 w2 .", "w3"])
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    found = analyze(model, tokenizer, text_of_lives, {"lifecycle": options})["lifecycle"]
    rows = found.maps.to_pylist()
    assert {row["sentence"] for row in rows} == {0, 1}
    assert [(row["dims"][: row["chosen"]], len(row["dims"])) for row in rows] == [([3, 7], 12)] * 10
    with torch.inference_mode(), observe(model, ["block.1"]) as seen:
        model(torch.tensor([tokenizer("w3").input_ids]))
    (values,) = (row["values"] for row in rows if (row["sentence"], row["layer"]) == (1, 2))
    np.testing.assert_allclose(values[:2], seen["block.1"][0, 0, [3, 7]])


@pytest.mark.parametrize("step", [FollowLives, AttentionStep])
@pytest.mark.parametrize(
    ("sentences", "message"),
    [(["w1"] * 5, "sentences: expected 4 at most, got 5"),
     (["w1", ""], "sentences: expected text, got '', which has no token")],
)  # fmt: skip
def test_sentences_that_cannot_be_drawn_are_refused(step, sentences, message):
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    inputs = Inputs.of({"source": ["x"]}, model=tiny_model("bert"), tokenizer=tokenizer)
    inputs.resolve([ForwardOptions(), ObserveOptions()])
    with pytest.raises(ArgumentError, match=message):
        step.resolve(step.Options(sentences=sentences), inputs)
