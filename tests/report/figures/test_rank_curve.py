"""Counts by rank: they fall, special tokens stand apart, and names stay text."""

import numpy as np
import pytest
from outdim.report.figures.rank_curve import rank_curve, thinned
from outdim.report.study import read_study
from report.synthetic import make_run


def test_frequency_curve_falls_and_keeps_special_tokens_apart(planted):
    truth, figures = planted
    table = figures["token_frequency"].table.to_pylist()
    ordinary = [row for row in table if not row["special"]]
    counts = truth["frequencies"].counts[~truth["frequencies"].special]
    assert [row["count"] for row in ordinary] == sorted(counts[counts > 0], reverse=True)
    assert [row["rank"] for row in ordinary] == list(range(1, len(ordinary) + 1))
    assert {row["token"] for row in table if row["special"]} == {"[UNK]", "[CLS]", "[SEP]"}


def test_a_few_frequent_tokens_are_named(tmp_path):
    long = "<b>" + "x" * 40
    truth = make_run(tmp_path, tokens={4: long, 6: "$\\frac{$"}, steps=("count",))["frequencies"]
    order = [i for i in np.argsort(-truth.counts, kind="stable") if not truth.special[i]]
    expected = [truth.tokens[order[rank - 1]] for rank in (1, 3, 10, 30, 100)]
    figure = rank_curve(read_study(tmp_path).frequencies)
    notes = figure.interactive.layout.annotations
    assert expected[:2] == [long, "$\\frac{$"]
    expected[:2] = ["&lt;b&gt;xxxxxxxxxx…", "&#36;\\frac{&#36;"]  # plotly reads tags and TeX
    assert [note.text for note in notes] == [f"“{name}”" for name in expected]
    assert [10**note.x for note in notes] == pytest.approx([1, 3, 10, 30, 100])
    svg = figure.svg().decode()
    assert all(f">“{name}”</text>" in svg for name in ["$\\frac{$", *expected[2:]])


@pytest.mark.parametrize("count", [0, 1, 1_200, 1_201, 30_522, 2_000_000])
def test_thinned_ranks_rise_and_keep_both_ends(count):
    ranks = thinned(count)
    assert len(ranks) <= 1_200
    assert (np.diff(ranks) > 0).all()
    if count:
        assert (ranks[0], ranks[-1]) == (0, count - 1)
