"""Metrics are those of scikit-learn and SciPy; weighted ones those of repeated items."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outdim.stats.scores import LABELS, score, smooth, weighted, weighted_each
from scipy import stats
from sklearn import metrics


def planted(metric: str, seed: int, n: int = 40):
    rng = np.random.default_rng(seed)
    if metric in ("pearson", "spearman"):
        x = rng.integers(0, 9, n).astype(float)  # with ties
        return x + rng.integers(-2, 3, n), x
    labels = 2 if metric == "f1" else 3
    truth = rng.integers(0, labels, n)
    return np.where(rng.random(n) < 0.5, truth, rng.integers(0, labels, n)), truth


@pytest.mark.parametrize("metric", LABELS)
def test_values_are_those_of_the_libraries(metric):
    predicted, truth = planted(metric, 0)
    expected = {
        "acc": lambda: metrics.accuracy_score(truth, predicted),
        "f1": lambda: metrics.f1_score(truth, predicted),
        "mcc": lambda: metrics.matthews_corrcoef(truth, predicted),
        "pearson": lambda: stats.pearsonr(predicted, truth).statistic,
        "spearman": lambda: stats.spearmanr(predicted, truth).statistic,
    }[metric]()
    assert score(metric, predicted, truth) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("metric", LABELS)
@given(seed=st.integers(0, 10_000))
def test_a_weight_is_how_often_an_item_stands(metric, seed):
    predicted, truth = planted(metric, seed)
    n = len(truth)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=3)
    found = weighted(metric, predicted, truth, weights.astype(float))
    repeated = [score(metric, np.repeat(predicted, w), np.repeat(truth, w)) for w in weights]
    np.testing.assert_allclose(found, repeated, atol=1e-12)


@pytest.mark.parametrize(
    ("metric", "predicted", "truth", "expected"),
    [
        ("mcc", [1, 1, 1], [0, 1, 1], 0.0),  # one label alone, as scikit-learn has it
        ("f1", [0, 0], [0, 0], 0.0),
        ("pearson", [1.0, 1.0], [0.0, 1.0], np.nan),
        ("spearman", [0.0, 1.0], [2.0, 2.0], np.nan),
    ],
)
def test_what_is_constant(metric, predicted, truth, expected):
    predicted, truth = np.array(predicted), np.array(truth)
    ones = np.ones((1, len(truth)))
    np.testing.assert_equal(score(metric, predicted, truth), expected)
    np.testing.assert_equal(weighted(metric, predicted, truth, ones), [expected])


@pytest.mark.parametrize("metric", LABELS)
def test_each_of_several_variants(metric):
    predicted, truth = zip(*(planted(metric, seed) for seed in range(4)), strict=True)
    weights = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=5).astype(float)
    found = weighted_each(metric, np.stack(predicted), truth[0], weights)
    for v, one in enumerate(predicted):
        np.testing.assert_allclose(
            found[:, v], weighted(metric, one, truth[0], weights), atol=1e-12
        )


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_many_draws_are_taken_in_parts(metric):
    """More than fit the cache at a time, and means far from 0."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=3000)
    predicted = 1e6 + truth + rng.normal(size=3000)
    weights = rng.multinomial(3000, np.full(3000, 1 / 3000), size=200).astype(float)
    found = weighted(metric, predicted, truth, weights)
    for row in (0, 86, 87, 199):
        times = weights[row].astype(int)
        expected = score(metric, np.repeat(predicted, times), np.repeat(truth, times))
        assert found[row] == pytest.approx(expected, abs=1e-9)


def test_what_becomes_constant_in_a_draw_has_no_correlation():
    x, y = np.array([0.1, 0.1, 5.0]), np.array([1.0, 2.0, 3.0])
    for metric in ("pearson", "spearman"):
        found = weighted(metric, x, y, np.array([[2.0, 1.0, 0.0], [1.0, 1.0, 1.0]]))
        assert np.isnan(found).tolist() == [True, False]


def test_smooth_metrics_are_those_of_the_libraries_item_by_item():
    rng = np.random.default_rng(0)
    outputs, truth = rng.normal(size=(30, 3)).astype(np.float32) * 5, rng.integers(0, 3, 30)
    loss, probability = (smooth(metric, outputs, truth) for metric in ("loss", "probability"))
    odds = np.exp(outputs.astype(np.float64))
    odds /= odds.sum(1, keepdims=True)
    np.testing.assert_allclose(probability, odds[np.arange(30), truth], rtol=1e-9)
    np.testing.assert_allclose(loss, -np.log(probability), rtol=1e-9)
    assert loss.mean() == pytest.approx(metrics.log_loss(truth, odds), rel=1e-6)
    scores = rng.normal(size=30)
    error = smooth("loss", outputs[:, :1], scores).mean()
    assert error == pytest.approx(metrics.mean_squared_error(scores, outputs[:, 0].astype(float)))
