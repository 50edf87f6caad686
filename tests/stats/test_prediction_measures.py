"""Measures of predictions against their definitions and logits that are stored."""

import itertools

import numpy as np
import pytest
import torch
from outdim.stats.jackknife import LeftOut
from outdim.stats.prediction_measures import (
    FREQUENCY,
    OF_PLACES,
    by_other_blocks,
    contributions,
    frequency_classes,
    frequency_measures,
    measured,
    read_out,
)
from scipy.stats import rankdata


@pytest.fixture
def counts() -> tuple[np.ndarray, np.ndarray]:
    """Counts of predictions [S, U], and of a corpus that does not have all of them."""
    rng = np.random.default_rng(0)
    corpus = np.floor(2000 / np.arange(1, 301)).astype(np.int64)
    corpus[rng.choice(300, 40, replace=False)] = 0
    p = np.maximum(corpus, 0.3) ** 1.2
    return rng.multinomial(3000, p / p.sum(), 2).astype(float), corpus


def by_name(found: np.ndarray, series: int) -> dict[str, float]:
    return dict(zip(FREQUENCY, found[:, series].tolist(), strict=True))


def test_measures_are_as_defined(counts):
    predicted, corpus = counts
    found = frequency_measures(predicted, corpus.astype(float), corpus.sum())
    for series, own in enumerate(predicted):
        one = by_name(found, series)
        both = (own > 0) & (corpus > 0)
        p = own / own.sum()
        expected = {
            "mean_log_frequency": float((p * np.log1p(corpus)).sum()),
            "types": float((own > 0).sum()),
            "entropy": -sum(x * np.log(x) for x in p if x),
            "unseen_share": float(p[corpus == 0].sum()),
            "slope": np.polyfit(corpus[both] / corpus.sum(), p[both], 1)[0],
            "log_slope": np.polyfit(np.log(corpus[both]), np.log(own[both]), 1)[0],
            "spearman": np.corrcoef(rankdata(corpus[both]), rankdata(own[both]))[0, 1],
        }
        assert one == pytest.approx(expected, rel=1e-10)


def test_predicted_as_often_as_in_the_text_the_slopes_are_one():
    corpus = np.array([100, 50, 30, 10, 0])
    one = by_name(frequency_measures(corpus[None] / 10.0, corpus.astype(float), 190), 0)
    assert one["slope"] == pytest.approx(1)
    assert one["log_slope"] == pytest.approx(1)
    assert one["spearman"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("predicted", "corpus", "missing"),
    [
        ([0.0, 0.0, 0.0], [3, 2, 1], FREQUENCY),
        ([5.0, 0.0, 0.0], [3, 2, 1], ("slope", "log_slope", "spearman")),
        ([5.0, 2.0, 1.0], [2, 2, 2], ("slope", "log_slope", "spearman")),
        ([5.0, 2.0, 1.0], [0, 0, 0], ("slope", "log_slope", "spearman")),
        ([2.0, 2.0, 2.0], [3, 2, 1], ("spearman",)),
    ],
)
def test_what_is_not_defined_is_nan(predicted, corpus, missing):
    found = frequency_measures(np.array([predicted]), np.array(corpus, float), sum(corpus))
    one = by_name(found, 0)
    assert {name for name, value in one.items() if np.isnan(value)} == set(missing)


def test_without_each_block_it_is_that_of_the_others(counts):
    predicted, corpus = counts
    blocks = np.stack([predicted, predicted[:, ::-1], np.zeros_like(predicted)])
    found = measured(blocks, corpus.astype(float), corpus.sum())
    assert found.used.tolist() == [True, True, False]
    others = frequency_measures(predicted[:, ::-1], corpus.astype(float), corpus.sum())
    np.testing.assert_allclose(found.without[0], others, rtol=1e-12)
    np.testing.assert_array_equal(found.without[2], found.value)


def test_by_other_blocks_each_place_is_judged_by_what_others_count():
    rng = np.random.default_rng(0)
    counts, others = rng.poisson(0.7, (3, 2, 9)).astype(float), rng.poisson(1, (3, 9)).astype(float)
    others[2] = np.nan  # there is nothing else
    found = by_other_blocks(counts, others)
    for series in range(2):
        logs, unseen = ([], []), ([], [])
        for block, token in itertools.product(range(2), range(9)):
            times = int(counts[block, series, token])
            logs[block].extend([np.log(1 + others[block, token])] * times)
            unseen[block].extend([others[block, token] == 0] * times)
        for name, values in zip(OF_PLACES, (logs, unseen), strict=True):
            own = found[name]
            assert own.value[series] == pytest.approx(np.mean([*values[0], *values[1]]))
            assert own.without[0, series] == pytest.approx(np.mean(values[1]))
            assert own.used.tolist() == [True, True, False]
    assert np.isnan(by_other_blocks(counts, others * np.nan)[OF_PLACES[0]].value).all()


def test_what_is_as_frequent_as_the_truth_is_not_rarer_by_the_texts_own_counts():
    """Truth and predictions of 20 documents come of one Zipf distribution of 2,000 tokens."""
    p, rng, sure = 1 / np.arange(1, 2001), np.random.default_rng(0), np.zeros(2, int)
    for _ in range(40):
        counts = rng.multinomial(60, p / p.sum(), (20, 2)).astype(float)
        true = counts[:, 0]
        for way, others in enumerate([np.tile(true.sum(0), (20, 1)), true.sum(0) - true]):
            log = by_other_blocks(counts, others)["mean_log_frequency"]
            one, other = (LeftOut(log.value[i], log.without[:, i], log.used) for i in (0, 1))
            low, high = (one - other).interval()
            sure[way] += not low <= 0 <= high
    assert sure[0] >= 35
    assert sure[1] <= 5  # of 40, where 95 % intervals give 2


class TestClasses:
    def test_ties_are_shared_as_drawing_lots_would_on_average(self):
        counts = np.array([7, 7, 7, 3, 1, 1, 0, 9])
        special = np.array([False] * 7 + [True])
        found = frequency_classes(counts, special)
        orders = [
            sorted(range(6), key=lambda i: (-counts[i], order[i]))
            for order in itertools.permutations(range(6))
        ]
        # A tenth of 6 tokens is .6 of the first one.
        expected = np.zeros((2, 8))
        for order in orders:
            expected[0, order[0]] += 0.6 / len(orders)
            expected[1, order[-1]] += 0.6 / len(orders)
        np.testing.assert_allclose(found.frequent, expected[0], atol=1e-12)
        np.testing.assert_allclose(found.rare, expected[1], atol=1e-12)
        assert found.tokens == pytest.approx(0.6)
        assert found.unseen.tolist() == [0, 0, 0, 0, 0, 0, 1, 0]

    def test_of_many_tokens_a_tenth_is_taken_at_either_end(self):
        counts = np.arange(1, 101)
        found = frequency_classes(counts, np.zeros(100, bool))
        assert np.flatnonzero(found.frequent).tolist() == list(range(90, 100))
        assert np.flatnonzero(found.rare).tolist() == list(range(10))

    def test_nothing_counted_is_no_class(self):
        found = frequency_classes(np.zeros(3, np.int64), np.zeros(3, bool))
        assert found.frequent.sum() == found.rare.sum() == 0
        columns = read_out(torch.ones(3, 2), np.zeros(3, np.int64), np.zeros(3, bool))
        assert columns[:2].isnan().all()
        assert columns[2].tolist() == [1, 1]
        assert columns[3].isnan().all()


def test_weights_of_64_bits_are_no_ties():
    weight = 1 + 1e-12 * torch.arange(6, dtype=torch.float64)[:, None]
    columns = read_out(weight, np.arange(1, 7), np.zeros(6, bool))
    assert columns[3].tolist() == pytest.approx([1.0])


class TestContributions:
    @pytest.fixture
    def planted(self):
        """States of 600 rows, 2 variants; an output layer whose column 3 grows with frequency."""
        rng = np.random.default_rng(1)
        counts = np.floor(1000 / np.arange(1, 201)).astype(np.int64)
        weight = torch.from_numpy(rng.normal(size=(200, 8)))
        weight[:, 3] = torch.from_numpy(np.log(counts + 1.0))
        weight[:, 5] = 2.0  # the same for all tokens: no difference
        states = rng.normal(size=(2, 600, 8))
        states[0, :, 3] += 4
        return counts, np.zeros(200, bool), weight, states, rng.integers(0, 10, 600)

    def sums(self, states, block):
        found = np.zeros((10, 2, 2, states.shape[-1]))
        for variant, own in enumerate(states):
            np.add.at(found[:, variant, 0], block, own)
            np.add.at(found[:, variant, 1], block, np.abs(own))
        return found, np.repeat(np.bincount(block, minlength=10)[:, None], 2, 1)

    def test_they_add_up_to_the_mean_logits(self, planted):
        counts, special, weight, states, block = planted
        columns = read_out(weight, counts, special).numpy()
        found = contributions(*self.sums(states, block), columns)
        classes = frequency_classes(counts, special)
        logits = states @ weight.numpy().T  # [2, 600, V]
        for name in ("frequent", "rare"):
            share = getattr(classes, name)
            mean = (logits * share).sum(-1).mean(-1) / share.sum()
            np.testing.assert_allclose(getattr(found, name).sum(-1), mean, rtol=1e-10)
        gap = found.frequent.sum(-1) - found.rare.sum(-1)
        np.testing.assert_allclose(found.gap.value, gap, rtol=1e-10)
        np.testing.assert_allclose(found.share.value.sum(-1), 1, rtol=1e-10)
        moved = np.abs(states * (columns[0] - columns[1])).mean(1)
        np.testing.assert_allclose(found.moved, moved, rtol=1e-10)

    def test_the_planted_dimension_makes_the_difference(self, planted):
        counts, special, weight, states, block = planted
        found = contributions(*self.sums(states, block), read_out(weight, counts, special).numpy())
        low, high = found.difference.interval()
        assert np.argmax(np.abs(found.difference.value[0])) == 3
        assert low[0, 3] > 5
        assert found.share.value[0, 3] > 0.8
        # And where its mean is 0, or its column is the same for all, it makes none.
        assert low[1, 3] < 0 < high[1, 3]
        assert found.difference.value[0, 5] == pytest.approx(0, abs=1e-12)

    def test_left_out_blocks_are_those_of_the_other_rows(self, planted):
        counts, special, weight, states, block = planted
        columns = read_out(weight, counts, special).numpy()
        found = contributions(*self.sums(states, block), columns)
        rest = contributions(*self.sums(states[:, block != 4], block[block != 4]), columns)
        np.testing.assert_allclose(found.difference.without[4], rest.difference.value, rtol=1e-10)
        np.testing.assert_allclose(found.share.without[4], rest.share.value, rtol=1e-10)

    def test_columns_are_ranked_against_counts(self, planted, monkeypatch):
        counts, special, weight, *_ = planted
        monkeypatch.setattr("outdim.stats.prediction_measures._COLUMNS", 3)
        monkeypatch.setattr("outdim.stats.prediction_measures._ROWS", 7)
        found = read_out(weight, counts, special)
        assert found[3, 3] == pytest.approx(1)
        assert found[3, 5].isnan()
        expected = np.corrcoef(rankdata(counts), rankdata(weight[:, 0]))[0, 1]
        assert found[3, 0].item() == pytest.approx(expected, rel=1e-6)
        whole = frequency_classes(counts, special).frequent
        np.testing.assert_allclose(found[0], whole @ weight.numpy() / whole.sum(), rtol=1e-10)
