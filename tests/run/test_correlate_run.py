"""Whole runs over a tiny model: the right numbers, and the same bytes whoever computed them."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from corpus_helpers import read
from outdim import manifest
from outdim.corpus import open_corpus
from outdim.counting import count_tokens
from outdim.errors import ArgumentError, DataError, ResumeError
from outdim.models import load_model
from outdim.run.plan import Study
from outdim.tokens import TokenFrequencies, load_tokenizer
from run_helpers import Options, give, replaced


def test_numbers_agree_with_hidden_states_kept_and_correlated_afterwards(corpus, options):
    run = give("correlate", corpus, options)
    table = pq.read_table(run / "stats.parquet").to_pandas()
    tokenizer, model = load_tokenizer(options.model), load_model(options.model)
    counts = count_tokens(str(corpus), tokenizer).counts
    hidden, frequency, special = [], [], []
    for text in read(open_corpus(str(corpus))):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        for start in range(0, len(ids), 22):
            piece = [2, *ids[start : start + 22], 3]
            with torch.inference_mode():
                states = model(torch.tensor([piece]), output_hidden_states=True).hidden_states
            hidden.append(torch.stack([state[0] for state in states], 1).double().numpy())
            frequency += counts[piece].tolist()
            special += [True, *[False] * (len(piece) - 2), True]
    hidden, frequency, special = np.concatenate(hidden), np.array(frequency), np.array(special)
    for selection, rows in (("text", ~special), ("all", np.ones(len(special), bool))):
        for statistic, values in (("pearson", hidden), ("pearson_abs", np.abs(hidden))):
            chosen = (table.selection == selection) & (table.statistic == statistic)
            found = table[chosen & (table.covariate == "count")].sort_values(["layer", "dim"])
            expected = [
                np.corrcoef(frequency[rows], values[rows, layer, dim])[0, 1]
                for layer in range(3)
                for dim in range(16)
            ]
            np.testing.assert_allclose(found.value, expected, atol=2e-6)
            assert set(found.n) == {rows.sum()}
    account = json.loads((run / "manifest.json").read_text())["tokens"]
    assert account["read"] == len(special)
    assert account["special"] == special.sum()
    assert account["used"] == (~special).sum()
    assert account["padded"] <= 0.05 * (account["padded"] + account["read"])


@pytest.mark.parametrize("change", [{"autocast": "bfloat16"}, {"dtype": "bfloat16"}])
def test_half_precision_gives_nearly_the_same_statistics(corpus, options, change):
    whole = pq.read_table(give("correlate", corpus, options) / "stats.parquet").to_pandas()
    half = replaced(options, output=options.output.with_name("half"), **change)
    found = pq.read_table(give("correlate", corpus, half) / "stats.parquet").to_pandas()
    for statistic, tolerance in (("mean", 0.02), ("std", 0.02), ("pearson_abs", 0.05)):
        values, others = (table[table.statistic == statistic].value for table in (whole, found))
        assert not np.array_equal(values, others)
        np.testing.assert_allclose(others, values, atol=tolerance)


def test_a_run_leaves_everything_a_reader_needs(corpus, options):
    run = give("correlate", corpus, options, page=True)
    assert json.loads((run / "detection.json").read_text())["dims"][0]["dim"] == 3
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["finished"]
    assert manifest["tokens_per_second"] > 0
    assert manifest["counting"]["accounting"]["documents"] == 60
    assert (run / "report.html").stat().st_size > 10_000
    assert TokenFrequencies.from_parquet(run / "counts.parquet").total_tokens > 1000
    assert not list(run.rglob("*.tmp"))


def test_empty_one_token_and_all_special_shards(options, tmp_path):
    source = tmp_path / "odd.txt"
    # One shard of blank lines, one with a single word, one with nothing but special tokens, one
    # ordinary.
    source.write_text(
        "\n" * 64 + "w1\n" + " " * 61 + "[SEP] [SEP]\n" + " " * 52 + "w1 w2 w3 w1 w2\n"
    )
    run = give("correlate", source, replaced(options, shard_bytes=64))
    table = pq.read_table(run / "stats.parquet").to_pandas()
    assert len(Study(run)["correlate"].work) == 4
    assert set(table.query("selection == 'text' and statistic == 'mean'").n) == {6}
    assert set(table.query("selection == 'all' and statistic == 'mean'").n) == {6 + 2 + 2 * 3}


def test_a_value_that_is_not_defined_has_a_reason(options, tmp_path):
    source = tmp_path / "one.txt"
    source.write_text("w1\n")
    run = give("correlate", source, options)
    table = pq.read_table(run / "stats.parquet").to_pandas()
    assert (table.value.isna() == (table.reason != "")).all()
    text = table[(table.selection == "text") & (table.statistic == "pearson_abs")]
    assert set(text.reason) == {"fewer than two tokens"}
    everything = table[(table.selection == "all") & (table.covariate == "count")]
    assert set(everything.reason) == {"constant covariate"}  # each of the three occurs once


def test_a_corpus_without_a_token_is_an_error_that_leaves_nothing(options, tmp_path):
    source = tmp_path / "blank.txt"
    source.write_text("\n\n \n")
    with pytest.raises(DataError, match="no token"):
        give("correlate", source, options)
    assert not options.output.exists()


def test_counts_of_another_vocabulary_are_refused(corpus, options, tmp_path):
    tokenizer = load_tokenizer(options.model)
    right = TokenFrequencies.for_tokenizer(tokenizer, np.ones(200, np.int64))
    labels = list(right.tokens)
    first, second = labels.index("w1"), labels.index("w2")
    labels[first], labels[second] = labels[second], labels[first]
    swapped = dataclasses.replace(right, tokens=tuple(labels))
    short = TokenFrequencies(right.counts[:150], right.special[:150], right.tokens[:150])
    for wrong, said in ((swapped, "2 of its 200 ids stand for"), (short, "the counts have 150")):
        wrong.to_parquet(tmp_path / "wrong.parquet")
        with pytest.raises(DataError, match=said) as caught:
            give("correlate", corpus, replaced(options, counts=tmp_path / "wrong.parquet"))
        assert len(str(caught.value)) < 400
    assert not options.output.exists()
    run = give("correlate", corpus, replaced(options, per_token=[3]))
    other = Options(output=tmp_path / "other", run=run, counts=tmp_path / "wrong.parquet")
    for wrong, said in ((swapped, "'w1' in the run, and is 'w2'"), (short, "is not there")):
        wrong.to_parquet(tmp_path / "wrong.parquet")
        with pytest.raises(DataError, match=said):
            give("recorrelate", [], other)
    assert not other.output.exists()


def test_rows_left_out_are_accounted_for_with_given_counts_too(options, tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "w1 w2 w3"}\n{"text": \n{"text": "w1"}\n{"text": " "}\n')
    counts = TokenFrequencies.for_tokenizer(load_tokenizer(options.model), np.ones(200, np.int64))
    counts.to_parquet(tmp_path / "counts.parquet")
    given = replaced(options, counts=tmp_path / "counts.parquet", on_error="skip")
    run = give("correlate", source, given)
    counting = replaced(options, output=tmp_path / "counting", on_error="skip")
    other = give("correlate", source, counting)
    accounts = [json.loads((path / "manifest.json").read_text())["tokens"] for path in (run, other)]
    assert accounts[0]["used"] == 4
    assert sum(accounts[0]["excluded"].values()) == 2
    assert accounts[0]["excluded"] == accounts[1]["excluded"]


def test_given_counts_are_used_and_belong_to_the_plan(corpus, options, tmp_path):
    tokenizer = load_tokenizer(options.model)
    counts = np.arange(200)[::-1].copy()
    TokenFrequencies.for_tokenizer(tokenizer, counts).to_parquet(tmp_path / "other.parquet")
    run = give("correlate", corpus, replaced(options, counts=tmp_path / "other.parquet"))
    kept = TokenFrequencies.from_parquet(run / "inputs" / "counts.parquet")
    assert kept.counts.tolist() == counts.tolist()
    own = count_tokens(str(corpus), tokenizer)
    found = TokenFrequencies.from_parquet(run / "counts.parquet")  # of which the ranks are
    assert found.counts.tolist() == own.counts.tolist()
    TokenFrequencies.for_tokenizer(tokenizer, counts + 1).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ResumeError, match=r"inputs\.attached\.counts"):
        give("correlate", corpus, replaced(options, counts=tmp_path / "other.parquet"))


def test_published_counts_are_refused_where_most_of_them_do_not_join(corpus, options, tmp_path):
    counts, other = tmp_path / "published.json", tmp_path / "other.json"
    known = [[f"w{i}", 1000 - i] for i in range(90)]
    counts.write_text(json.dumps([*known, [" the", 800]]))
    other.write_text(json.dumps([*known, [" the", 28_000]]))
    with pytest.raises(DataError, match=r"another vocabulary.*25% of what they count.*' the'"):
        give("correlate", corpus, replaced(options, counts=other))
    assert not options.output.exists()
    run = give("correlate", corpus, replaced(options, counts=counts))
    said = ["1% of what the published counts count, 1 string, belong to no single token id"]

    def cautions(run):
        return json.loads((run / "manifest.json").read_text())["cautions"]

    assert [one[: len(said[0])] for one in cautions(run)["inputs"]] == said
    manifest.update(run, {"cautions": {"inputs": ["Of another step.", *cautions(run)["inputs"]]}})
    give("correlate", corpus, replaced(options, counts=counts))
    assert len(cautions(run)["inputs"]) == 2
    again = Options(output=tmp_path / "again", run=run, counts=counts)
    assert said[0] in cautions(give("recorrelate", [], again))["recorrelate"][0]
    with pytest.raises(DataError, match="another vocabulary"):
        give("recorrelate", [], replaced(again, counts=other))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "/nowhere"}, DataError, "nowhere"),
        ({"token_budget": 0}, ArgumentError, "token-budget"),
        ({"max_length": 4000}, ArgumentError, "max_length: expected 3 to 64"),
        ({"points": ["block.9"]}, ArgumentError, "block.9"),
        ({"per_token": [16]}, ArgumentError, "per-token: expected dimensions 0 to 15"),
        ({"threads": 0}, ArgumentError, "threads"),
        ({"threads": 1_000_000}, ArgumentError, "threads: expected 1 to 1024"),
        ({"workers": 0}, ArgumentError, "workers"),
        ({"device": "tpu"}, ArgumentError, "device"),
        ({"shard_index": 1}, ArgumentError, "shard-index, shard-count"),
        ({"shard_index": 3, "shard_count": 3}, ArgumentError, "shard-index, shard-count"),
        ({"counts": "/nowhere.parquet"}, DataError, "counts: there is no"),
    ],
)
def test_bad_options_name_what_was_expected_and_leave_nothing(
    corpus, options, change, error, message
):
    if "counts" in change:
        change = {"counts": options.output / "nowhere.parquet"}
    with pytest.raises(error, match=message):
        give("correlate", corpus, replaced(options, **change))
    assert not options.output.exists()
