"""Read-outs without a dimension are those of vectors in which it is 0."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outdim.errors import ArgumentError
from outdim.stats.leave_one_out import (
    cosines_without,
    leave_one_out,
    ranks_without,
    retrieval_without,
)
from outdim.stats.scores import score


def zeroed(vectors, dim):
    found = np.array(vectors, np.float64)
    found[:, dim] = 0
    return found


def cosine(a, b):
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(1), length, out=np.zeros(len(a)), where=length > 0)


def vectors(n, d, seed=0, outlier=0.0):
    """Pairs that are more or less alike; dimension 1 may dwarf all others."""
    rng = np.random.default_rng([n, d, seed])
    left = rng.normal(size=(n, d))
    right = rng.random((n, 1)) * left + rng.normal(size=(n, d))
    if d > 1:
        left[:, 1] += outlier
        right[:, 1] += outlier
    return left, right


@pytest.mark.parametrize("n", [0, 1, 37, 4096])
@pytest.mark.parametrize("d", [1, 2, 65])
@pytest.mark.parametrize("outlier", [0.0, 1e3, 1e12])
def test_cosines_are_those_of_zeroed_vectors(n, d, outlier):
    left, right = vectors(n, d, outlier=outlier)
    found = cosines_without(left, right)
    assert found.shape == (n, d)
    for dim in range(d):
        expected = cosine(zeroed(left, dim), zeroed(right, dim))
        # Also at 1e12, where a sum less its largest part would keep no digit.
        np.testing.assert_allclose(found[:, dim], expected, rtol=1e-11, atol=1e-13)


def test_nothing_left_of_a_vector_is_alike_to_nothing():
    assert cosines_without([[3.0, 0.0]], [[5.0, 1.0]]).tolist() == [[0.0, 1.0]]


@given(seed=st.integers(0, 10_000))
def test_places_are_those_of_zeroed_vectors(seed):
    rng = np.random.default_rng(seed)
    candidates = rng.normal(size=(9, 4))
    queries = rng.normal(size=(5, 4))
    relevant = rng.integers(0, 9, 5)
    found = ranks_without(queries, candidates, relevant)
    for row, dim in enumerate([None, *range(4)]):
        q, c = (v if dim is None else zeroed(v, dim) for v in (queries, candidates))
        for n, right in enumerate(relevant):
            similar = cosine(np.repeat(q[n : n + 1], 9, axis=0), c)
            assert found[row, n] == 1 + (np.delete(similar, right) >= similar[right]).sum()


def test_places_keep_their_digits_beside_a_massive_dimension():
    """1e9 beside 1: its square less its square would leave nothing of the others."""
    rng = np.random.default_rng(0)
    candidates = rng.normal(size=(40, 6))
    queries = candidates + 0.3 * rng.normal(size=(40, 6))
    small = ranks_without(queries, candidates, np.arange(40))[1 + 2]
    for side in (queries, candidates):
        side[:, 2] = 1e9 * (1 + rng.random(40))
    found = ranks_without(queries, candidates, np.arange(40))
    assert found[1 + 2].tolist() == small.tolist()
    assert (small == 1).mean() > 0.8


def test_equal_candidates_come_first():
    rng = np.random.default_rng(1)
    candidates = np.repeat(rng.normal(size=(10, 7)), 2, axis=0)
    queries = 3 * candidates[::2]
    found = ranks_without(queries, candidates, np.arange(0, 20, 2))
    assert (found == 2).all()


def test_what_makes_all_alike_finds_nothing():
    found = ranks_without(np.eye(3)[:, :2], np.eye(3)[:, :2], [0, 1, 2])
    assert found.tolist() == [[1, 1, 3], [3, 1, 3], [1, 3, 3]]


def planted(n=300, seed=0):
    """People look at dimensions 0 to 3; 5 is noise of the same size, and 6 is hardly there."""
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=(2, n, 7))
    alike = rng.random((n, 1))
    right[:, :4] = alike * left[:, :4] + (1 - alike) * right[:, :4]
    for side in (left, right):
        side[:, 5] *= 2
        side[:, 4] *= 0.2
        side[:, 6] *= 0.01
    return left, right, cosine(left[:, :4], right[:, :4])


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_dimensions_whose_removal_helps_or_harms_are_found(metric):
    left, right, truth = planted()
    found = leave_one_out(left, right, truth, metric=metric, draws=500)
    assert found.intact == pytest.approx(score(metric, cosine(left, right), truth), abs=1e-12)
    for dim in range(7):
        expected = score(metric, cosine(zeroed(left, dim), zeroed(right, dim)), truth)
        assert found.value[dim] == pytest.approx(expected, abs=1e-12)
    assert found.helps() == [5]
    assert set(found.harms()) == {0, 1, 2, 3}
    assert found.harms()[0] == np.argmin(found.value)
    difference = found.difference
    assert (difference.low <= difference.value).all()
    assert (difference.value <= difference.high).all()
    assert difference.low[5] > 0 > difference.high[0]
    assert difference.low[6] <= 0 <= difference.high[6]


def test_of_many_dimensions_without_effect_hardly_one_helps():
    """By chance any does in 5 % of all cases: P(Binomial(40, .05) > 6) = .0034."""
    false = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        left, right = rng.normal(size=(2, 150, 20))
        found = leave_one_out(left, right, rng.normal(size=150), draws=200, seed=seed)
        false += bool(found.helps() or found.harms())
    assert false <= 6


def test_pairs_of_equal_texts_are_ties():
    """Their cosine is 1 in theory, and 1 - 1e-16 in float64 for some of them."""
    rng = np.random.default_rng(0)
    left = rng.normal(size=(60, 9))
    right = np.where(np.arange(60)[:, None] < 50, left, rng.normal(size=(60, 9)))
    found = leave_one_out(left, right, np.arange(60.0), draws=10)
    cosines = np.where(np.arange(60) < 50, 1, cosine(left, right))
    assert found.intact == pytest.approx(score("spearman", cosines, np.arange(60.0)), abs=1e-12)


def test_clusters_are_drawn_whole():
    left, right, truth = planted(100)
    alone = leave_one_out(left, right, truth, draws=300)
    twice = [np.concatenate([v, v]) for v in (left, right, truth)]
    naive = leave_one_out(*twice, draws=300)
    found = leave_one_out(*twice, clusters=np.tile(np.arange(100), 2), draws=300)
    np.testing.assert_allclose(found.difference.low, alone.difference.low, atol=1e-9)
    width = [(one.difference.high - one.difference.low)[0] for one in (naive, found)]
    assert width[1] > 1.2 * width[0]


def test_retrieval_finds_the_dimension_that_misleads():
    rng = np.random.default_rng(0)
    candidates = rng.normal(size=(200, 12))
    queries = candidates + 0.8 * rng.normal(size=(200, 12))
    queries[:, 2] = 6 * rng.normal(size=200)
    relevant = np.arange(200)
    for metric in ("mrr", "recall@1"):
        found = retrieval_without(queries, candidates, relevant, metric=metric, draws=400)
        assert found.helps()[0] == 2
        assert found.value[2] > found.intact + 0.2
    places = ranks_without(queries, candidates, relevant)
    assert found.intact == (places[0] == 1).mean()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cosines_without([1.0], [1.0]), "left: expected finite vectors"),
        (lambda: cosines_without([[np.nan]], [[1.0]]), "left: .* not finite"),
        (lambda: cosines_without(np.ones((2, 3)), np.ones((3, 3))), "right: expected"),
        (lambda: leave_one_out(*np.ones((2, 4, 3)), np.ones(3)), "truth: expected 4"),
        (lambda: leave_one_out(*np.ones((2, 4, 3)), np.full(4, np.inf)), "truth: expected 4"),
        (lambda: leave_one_out(*np.ones((2, 4, 3)), np.ones(4), metric="acc"), "metric: "),
        (lambda: leave_one_out(*np.ones((2, 4, 3)), np.ones(4), clusters=[1]), "clusters: "),
        (lambda: retrieval_without(np.ones((2, 3)), np.ones((2, 3)), [0, 2]), "relevant: "),
        (lambda: retrieval_without(np.ones((2, 3)), np.ones((2, 3)), [0.0, 1.0]), "relevant: "),
        (lambda: retrieval_without(np.ones((2, 3)), np.ones((2, 4)), [0, 1]), "candidates: "),
        (
            lambda: retrieval_without(np.ones((2, 3)), np.ones((2, 3)), [0, 1], metric="recall@0"),
            "metric: ",
        ),
    ],
)
def test_bad_input(call, said):
    with pytest.raises(ArgumentError, match=said):
        call()
