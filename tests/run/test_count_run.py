"""Runs of `outdim count`, `detect` and `compare`."""

import json

import numpy as np
import pytest
from outdim.errors import ArgumentError, DataError, PartialRunError, ResumeError
from outdim.tokens import TokenFrequencies, load_tokenizer
from run_helpers import Options, give, replaced


def test_counts_are_those_of_the_tokenizer(corpus, count_options):
    run = give("count", corpus, count_options)
    tokenizer = load_tokenizer(count_options.tokenizer)
    ids = [tokenizer(line).input_ids for line in corpus.read_text().splitlines()]
    found = TokenFrequencies.from_parquet(run / "counts.parquet")
    np.testing.assert_array_equal(found.counts, np.bincount(np.concatenate(ids), minlength=200))
    documents = np.bincount(np.concatenate([np.unique(row) for row in ids]), minlength=200)
    np.testing.assert_array_equal(found.documents, documents)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["tokens"]["read"] == sum(map(len, ids))
    assert manifest["tokens"]["documents"] == len(ids)
    assert manifest["counting"]["why"]


@pytest.mark.parametrize("method", ["chunks", "encode"])
def test_both_methods_give_the_same_bytes(corpus, count_options, method):
    auto = give("count", corpus, count_options)
    other = replaced(count_options, output=count_options.output.with_name(method), method=method)
    one = give("count", corpus, other)
    assert (one / "counts.parquet").read_bytes() == (auto / "counts.parquet").read_bytes()


def test_shares_of_a_count_give_the_same_bytes(corpus, count_options):
    whole = give("count", corpus, count_options)
    parts = replaced(count_options, output=count_options.output.with_name("parts"), shard_count=3)
    for index in (2, 0):
        with pytest.raises(PartialRunError, match="belong to others"):
            give("count", corpus, replaced(parts, shard_index=index))
        assert not (parts.output / "counts.parquet").exists()
    give("count", corpus, replaced(parts, shard_index=1))
    assert (parts.output / "counts.parquet").read_bytes() == (whole / "counts.parquet").read_bytes()


def test_a_broken_row_fails_or_is_accounted_for(count_options, tmp_path):
    source = tmp_path / "broken.jsonl"
    source.write_text('{"text": "w1 w2"}\n{"text": \n{"text": "w3"}\n')
    with pytest.raises(DataError, match="line 2"):
        give("count", source, count_options)
    assert not count_options.output.exists()
    run = give("count", source, replaced(count_options, on_error="skip"))
    manifest = json.loads((run / "manifest.json").read_text())
    assert sum(manifest["tokens"]["excluded"].values()) == 1
    assert manifest["tokens"]["documents"] == 2


def test_an_unknown_column_lists_those_there_are(count_options, tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text('{"body": "w1 w2"}\n')
    with pytest.raises(DataError, match="body"):
        give("count", source, count_options)
    assert not count_options.output.exists()


def test_a_detection_given_again_is_the_same_and_with_other_options_refused(
    tiny_directory, tmp_path
):
    options = Options(
        model=str(tiny_directory), output=tmp_path / "detected", permutations=10, device="cpu"
    )
    run = give("detect", (), options)
    before = (run / "detection.json").read_bytes()
    give("detect", (), options)
    with pytest.raises(ResumeError, match=r"options\.k: 3\.0 -> 2\.0"):
        give("detect", (), replaced(options, k=2.0))
    assert (run / "detection.json").read_bytes() == before


def test_a_comparison_may_be_repeated_and_is_not_overwritten_by_another(
    corpus, count_options, tmp_path, capsys
):
    first = give("count", corpus, count_options)
    fewer = replaced(count_options, output=tmp_path / "fewer", min_chars=60)
    second = give("count", corpus, fewer)
    there = give("compare", (), Options(first=first, second=second, output=tmp_path / "compared"))
    assert (
        give("compare", (), Options(first=first, second=second, output=tmp_path / "compared"))
        == there
        == tmp_path / "compared"
    )
    said = capsys.readouterr().err
    assert f"- {first} holds" in said
    assert f"report  {tmp_path / 'compared' / 'report.html'}" in said
    with pytest.raises(ResumeError, match=r"inputs\.counts"):
        give("compare", (), Options(first=second, second=first, output=tmp_path / "compared"))


def test_a_share_that_fails_leaves_the_directory_to_the_others(count_options, tmp_path):
    source = tmp_path / "broken.jsonl"
    source.write_text('{"text": "w1 w2"}\n' * 100 + "{\n")
    # The method is given: choosing one would read the data before there is a directory.
    share = replaced(count_options, method="encode", shard_index=1, shard_count=2)
    with pytest.raises(DataError, match="line 101"):
        give("count", source, share)
    assert (share.output / "plan" / "0.json").exists()


def test_negative_sizes_are_refused(corpus, count_options):
    for change in ({"min_chars": -1}, {"shard_bytes": 0}, {"memory": 5}):
        (name,) = change
        with pytest.raises(ArgumentError, match=f"^{name.replace('_', '-')}: expected"):
            give("count", corpus, replaced(count_options, **change))
