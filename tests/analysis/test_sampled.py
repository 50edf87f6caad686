"""Informativity and a rotation: by pairs one after the other, and planted truths."""

import itertools

import numpy as np
import outdim
import pytest
from outdim.analysis.results.directions import NO_SAMPLE
from outdim.analysis.sampled import ROTATED, STRONGEST, Sampled
from outdim.analysis.table import STATISTICS, TidyRows
from scipy.stats import linregress
from tiny import tiny_model, tiny_texts, tiny_tokenizer

OF_ALL_TOKENS = ("isoscore", "effective_rank", "participation_ratio", "kurtosis_he")


def rows(size=80, dims=16, factor=1.0):
    found = np.random.default_rng(0).normal(size=(size, dims))
    found[:, 3] *= factor
    return Sampled(found, np.arange(size) % 20)


def by_pairs(found, dims):
    def cosine(i, j, x):
        return x[i] @ x[j] / (np.linalg.norm(x[i]) * np.linalg.norm(x[j]))

    part = np.delete(found.rows, dims, 1)
    pairs = list(itertools.combinations(range(len(part)), 2))
    whole, left = ([cosine(i, j, x) for i, j in pairs] for x in (found.rows, part))
    return linregress(whole, left).rvalue ** 2


def test_informativity_is_that_of_all_pairs():
    found = rows(factor=3)
    one = found.informativity([3, 5])
    assert one.value == pytest.approx(by_pairs(found, [3, 5]))
    rest = Sampled(found.rows[found.blocks != 4], found.blocks[found.blocks != 4])
    assert one.without[4] == pytest.approx(by_pairs(rest, [3, 5]))
    assert found.informativity([3, 5]).value == one.value  # a second time


def test_one_dimension_is_not_counted():
    one, three = (STATISTICS[f"informativity_{k}"].label for k in STRONGEST[:2])
    assert one.endswith("without the strongest dimension")
    assert three.endswith("without the 3 strongest dimensions")


def test_a_dimension_that_decides_similarity_takes_it_along():
    assert rows(factor=30).informativity([3]).value < 0.1
    assert rows(factor=30).informativity([4]).value > 0.99
    assert rows().informativity([3]).value > 0.8


def test_its_interval_covers_the_truth_of_more_rows():
    every = rows(2000, factor=2)
    truth = every.informativity([3]).value
    covered = 0
    for start in range(20):
        part = every.rows[100 * start : 100 * (start + 1)]
        low, high = Sampled(part, np.arange(100) % 20).informativity([3]).interval(share=True)
        covered += low <= truth <= high
    assert 16 <= covered <= 20


def test_a_rotation_spreads_an_outlier():
    plain, planted = rows(), rows(factor=100)
    before, after = planted.rows, planted.rotated()
    assert np.median(np.abs(before).max(1) / np.median(np.abs(before), 1)) > 50
    assert after["max_median_rotated"].value < 4
    assert after["kurtosis_he_rotated"].value == pytest.approx(1, abs=0.3)
    assert after["kurtosis_token_rotated"].value < 0  # all alike in size: 1 - 3
    assert plain.rotated()["kurtosis_token_rotated"].value == pytest.approx(-0.3, abs=0.3)
    matrix = np.array([[1.0]])
    while len(matrix) < 16:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    rotated = plain.rows @ matrix / 4
    sizes = np.abs(rotated)
    median = np.sort(sizes, 1)[:, 7]
    expected = (sizes.max(1) / median).mean()
    assert plain.rotated()["max_median_rotated"].value == pytest.approx(expected)
    without = (sizes.max(1) / median)[plain.blocks != 2].mean()
    assert plain.rotated()["max_median_rotated"].without[2] == pytest.approx(without)


@pytest.fixture(scope="module")
def texts():
    return tiny_texts(40, 20)


def stats(found, point="block.3"):
    table = found.tables()["stats"].to_pandas()
    table = table[(table.point == point) & (table.selection == "text")]
    return table[table.dim == 0].set_index("statistic")


def test_geometry_tells_it_where_the_covariance_is(texts):
    found = outdim.geometry(tiny_model("bert", outliers=(5,)), tiny_tokenizer(), texts, top=1)
    table = stats(found)
    names = [*ROTATED, *(f"informativity_{k}" for k in STRONGEST)]
    assert (table.loc[names].reason == "").all()
    assert (table.loc[names].low <= table.loc[names].value).all()
    assert (table.loc[names].value <= table.loc[names].high).all()
    assert table.loc["kurtosis_he_rotated"].value < table.loc["kurtosis_he"].value
    assert table.loc["max_median_rotated"].value < table.loc["max_median"].value
    even = stats(outdim.geometry(tiny_model("bert"), tiny_tokenizer(), texts, top=1))
    one = table.loc["informativity_1"].value
    assert one < even.loc["informativity_1"].value
    of_all = [f"{name}{end}" for end in ("", "_left_out") for name in OF_ALL_TOKENS]
    assert (table.loc[of_all].reason == "").all()
    assert (table.loc[of_all].low < table.loc[of_all].value).all()
    assert (table.loc[of_all].value < table.loc[of_all].high).all()
    share = table.loc["variance_share"]
    assert 0 <= share.low < share.value < share.high <= 1
    everywhere = found.tables()["stats"].to_pandas()
    others = everywhere[(everywhere.selection == "all") & everywhere.statistic.isin(of_all)]
    assert set(others.reason) == {NO_SAMPLE}
    assert others.low.isna().all()
    assert set(everywhere[everywhere.statistic == names[0]].point) == {"block.1", "block.3"}


def test_what_is_not_known_has_its_reason(texts):
    narrow = tiny_model("bert", hidden_size=36, num_attention_heads=4)
    assert (
        stats(outdim.geometry(narrow, tiny_tokenizer(), texts)).loc[[*ROTATED]].reason == ""
    ).all()
    odd = tiny_model("bert", hidden_size=50, num_attention_heads=5)
    table = stats(outdim.geometry(odd, tiny_tokenizer(), texts))
    assert set(table.loc[[*ROTATED]].reason) == {"there is no Hadamard matrix of this width"}
    model = tiny_model("bert")
    model.embeddings.word_embeddings.weight.data[tiny_tokenizer()("w1").input_ids[1]] = np.nan
    table = stats(outdim.geometry(model, tiny_tokenizer(), texts))
    assert set(table.loc[[*ROTATED, "informativity_1"]].reason) == {"nonfinite values"}


def test_a_token_of_zeros_has_no_ratio_and_says_so():
    found = rows()
    found.rows[7] = 0
    kept = TidyRows()
    found.add_to(kept, [3, 5, 1, 2, 4], point="p", layer=0)
    reasons = {row["statistic"]: row["reason"] for row in kept.table().to_pylist()}
    unknown = "a token of zeros, or all values are alike"
    assert {name for name, reason in reasons.items() if reason == unknown} == {
        "max_median_rotated", "top3_median_rotated", "kurtosis_token_rotated",
    }  # fmt: skip
    assert reasons["informativity_1"] == ""
