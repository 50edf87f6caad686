"""The page that compares two token counts."""

import json
import re

import numpy as np
from outdim.report import write_comparison
from outdim.tokens import TokenFrequencies, compare
from report.reading import Page, data_of


def test_comparison_page(tmp_path):
    rng = np.random.default_rng(3)
    tokens = ("[CLS]", "<b>", "$x", *(f"w{i}" for i in range(6_000)))
    special = np.arange(len(tokens)) == 0
    first = rng.poisson(1e5 / np.arange(1, len(tokens) + 1)).astype(np.int64)
    second = rng.permutation(first)
    comparison = compare(
        TokenFrequencies(first, special, tokens), TokenFrequencies(second, special, tokens)
    )
    path = write_comparison(comparison, tmp_path, names=("one<i>", "two"))
    page = Page(path.read_text(encoding="utf-8"))
    words = page.words()
    assert f"r = {comparison.correlation:.3f}" in words
    assert f"one<i> holds {first[1:].sum():,} text tokens" in words
    assert f"{comparison.largest(1)[0][2]:,}" in words
    assert {p.name for p in (tmp_path / "figures").glob("[!.]*")} == {
        f"{kind}_compared.{end}" for kind in ("counts", "ranks") for end in ("svg", "csv")
    }
    chosen = json.loads(data_of(page, "counts_compared"))["data"][1]["text"]
    assert len(chosen) <= 4_000


def test_compared_paths_are_shortened_where_they_then_differ(tmp_path):
    one = TokenFrequencies(np.array([3, 1]), np.zeros(2, bool), ("a", "b"))
    same = compare(one, one)

    def title(*names: str) -> str:
        page = write_comparison(same, tmp_path, names).read_text(encoding="utf-8")
        return re.search("<h1>(.*)</h1>", page).group(1)

    assert title("/home/me/runs/wiki", "/home/me/runs/books") == "runs/wiki and runs/books"
    assert title("/one/runs/wiki", "/two/runs/wiki") == "/one/runs/wiki and /two/runs/wiki"
