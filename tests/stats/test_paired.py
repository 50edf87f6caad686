"""Paired comparisons: planted effects are found, absent ones are not, intervals cover the truth."""

import numpy as np
import pytest
from outdim.errors import ArgumentError
from outdim.stats.paired import Statistic, adjusted, compare, families, ratio

CONTROLS = range(2, 12)


def planted(
    documents: int, effect: float, seed: int, *, control: float = 0.1, spread: float = 0.5
) -> Statistic:
    """Mean losses of the intact model, a variant that loses ``effect`` more, and ten controls.

    Lengths, losses and effects of documents vary; a control loses ``control`` more on average.
    """
    rng = np.random.default_rng([documents, seed])
    tokens = np.maximum(1, rng.lognormal(4, 0.5, documents)).round()
    base = 3 + rng.normal(0, 0.5, documents)
    shape = rng.lognormal(-(spread**2) / 2, spread, documents)
    means = [0.0, effect, *rng.normal(control, 0.05, len(CONTROLS))]
    noise = rng.normal(0, 1, (len(means), documents)) / np.sqrt(tokens)
    return ratio((base + np.outer(means, shape) + noise) * tokens, tokens)


def test_values_are_those_of_plain_arithmetic():
    losses, tokens = np.array([[2.0, 9.0, 1.0], [4.0, 9.0, 5.0], [3.0, 9.0, 1.0]]), [1, 3, 2]
    found = compare(ratio(losses, tokens), 3, controls=[2], draws=50)
    np.testing.assert_allclose(found.value.value, losses.sum(1) / 6)
    np.testing.assert_allclose(found.difference.value, [0, 1, 1 / 6])
    np.testing.assert_allclose(found.control, [np.nan, 1 / 6, np.nan])
    np.testing.assert_allclose(found.beyond.value, [np.nan, 1 - 1 / 6, np.nan])
    assert found.times[1] == pytest.approx(6)
    assert (found.value.low <= found.value.value).all()
    assert (found.value.value <= found.value.high).all()


def test_draws_are_resamples_of_whole_documents():
    """With one draw's weights known, every value follows from how often each document came."""
    seen = []

    def statistic(weights):
        seen.append(weights)
        return weights @ np.arange(7.0)[:, None]

    compare(statistic, 7, draws=500)
    assert (seen[0] == 1).all()
    drawn = np.concatenate(seen[1:])
    assert drawn.shape == (500, 7)
    assert (drawn.sum(1) == 7).all()
    assert (drawn == drawn.round()).all()
    # Multinomial: mean 1 and variance 1 - 1/7, to four standard errors.
    assert abs(drawn.mean() - 1) < 1e-12
    assert abs(drawn.var(0).mean() - 6 / 7) < 4 * np.sqrt(2 / 3500)


def test_a_planted_effect_is_found_and_its_gate_passed():
    found = compare(planted(100, 1.0, 0), 100, controls=CONTROLS)
    assert 0.75 < found.difference.low[1] < 1 < found.difference.high[1] < 1.25
    assert found.beyond.low[1] > 0.6
    assert found.gate == (None, "passed", *[None] * 10)
    assert found.p[1] == pytest.approx(found.q[1])
    assert found.p[1] < 0.003
    assert found.times[1] > 5


def test_an_effect_of_the_size_of_the_controls_is_none():
    """Over many data sets, the interval leaves out 0 about as often as it says."""
    false = sum(
        compare(planted(40, 0.1, s), 40, controls=CONTROLS, draws=400).p[1] < 0.05
        for s in range(60)
    )
    assert false <= 8  # P(Binomial(60, .05) > 8) = .001
    found = compare(planted(40, 0.1, 0), 40, controls=CONTROLS)
    assert found.gate[1] == "failed"


def test_an_effect_near_five_times_the_controls_is_undecided():
    assert compare(planted(30, 0.5, 1), 30, controls=CONTROLS).gate[1] == "undecided"


def test_where_smaller_is_worse_the_gate_turns_round():
    losses = planted(100, 1.0, 0)
    accuracy = compare(lambda w: -losses(w), 100, controls=CONTROLS, worse=-1)
    loss = compare(losses, 100, controls=CONTROLS)
    assert accuracy.gate == loss.gate
    np.testing.assert_allclose(accuracy.times, loss.times)
    assert compare(losses, 100, controls=CONTROLS, worse=-1).gate[1] == "failed"


def test_controls_that_do_good_and_harm_make_no_effect_larger():
    """Their mean is next to nothing, and any of them would be many times that."""
    rng = np.random.default_rng(0)
    tokens = np.full(100, 50.0)
    means = np.array([0, 0.3, *np.tile([0.3, -0.3], 5)])
    losses = (3 + means[:, None] + rng.normal(0, 0.02, (12, 100))) * tokens
    found = compare(ratio(losses, tokens), 100, controls=CONTROLS)
    assert abs(found.control[1]) < 0.01
    assert found.times[1] == pytest.approx(1, rel=0.1)
    assert found.gate[1] == "failed"
    helpful = compare(planted(100, 0.3, 0, control=-0.5), 100, controls=CONTROLS)
    assert helpful.control[1] < 0
    assert helpful.gate[1] == "failed"


@pytest.mark.parametrize("shared", [0.0, 1.0])
@pytest.mark.parametrize("controls", [1, 10, 40])
def test_of_controls_that_do_nothing_no_effect_is_surely_less_than_five_times(controls, shared):
    """What they change is noise; any effect is more than five times nothing, or none."""
    gates = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        effects = np.array([0, 0.02, *[0.0] * controls])
        losses = effects[:, None] + rng.normal(0, 0.1, (controls + 2, 30))
        losses[0] += shared * rng.normal(0, 0.1, 30)  # noise that every difference has
        statistic = ratio(losses, np.ones(30))
        gates.append(compare(statistic, 30, controls=range(2, controls + 2), draws=300).gate[1])
    # Where the interval of the effect itself is below 0: one or two of a hundred.
    assert gates.count("failed") <= 1


def test_every_variant_may_have_controls_of_its_own():
    statistic = planted(50, 0.5, 0)
    both = compare(statistic, 50, controls={1: [2, 3, 4], 5: [6, 7, 8]})
    for variant, others in ((1, [2, 3, 4]), (5, [6, 7, 8])):
        columns = [0, variant, *others]
        alone = compare(lambda w, c=columns: statistic(w)[:, c], 50, controls=[2, 3, 4])
        assert both.beyond.low[variant] == pytest.approx(alone.beyond.low[1], rel=1e-12)
        assert both.control[variant] == pytest.approx(alone.control[1], rel=1e-12)
    assert np.isnan(both.p[[0, 2, 3, 4, 6, 7, 8]]).all()
    assert both.gate[9] is None  # no control of its own: p is of the difference
    assert both.p[9] == compare(statistic, 50).p[9]


def test_what_is_not_a_number_has_no_interval_and_no_p():
    losses = np.array([[1.0, 2.0, 3.0], [1.0, np.nan, 3.0], [2.0, 2.0, 3.0]])
    found = compare(ratio(losses, [1, 1, 1]), 3)
    assert np.isnan([found.difference.value[1], found.difference.low[1], found.p[1]]).all()
    assert np.isfinite([found.difference.low[2], found.p[2], found.q[2]]).all()


def test_variants_are_drawn_together_whatever_their_order():
    statistic = planted(20, 0.5, 3)
    order = [0, 5, 1, 2, 3, 4, *range(6, 12)]
    found = compare(statistic, 20, controls=CONTROLS)
    turned = compare(lambda w: statistic(w)[:, order], 20, controls=[1, 3, 4, 5, *range(6, 12)])
    np.testing.assert_array_equal(turned.difference.low, found.difference.low[order])
    assert turned.p[2] == pytest.approx(found.p[1], abs=0.003)  # the controls are drawn otherwise


def test_the_order_of_documents_matters_no_more_than_the_seed():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 50, 60).astype(float)
    sums = np.array([3 * tokens, 3.5 * tokens + rng.normal(0, 3, 60)])
    turn = rng.permutation(60)
    one = compare(ratio(sums, tokens), 60, draws=4000)
    other = compare(ratio(sums[:, turn], tokens[turn]), 60, draws=4000)
    np.testing.assert_allclose(other.difference.value, one.difference.value, rtol=1e-12)
    width = one.difference.high[1] - one.difference.low[1]
    assert abs(other.difference.low[1] - one.difference.low[1]) < 0.1 * width


def test_the_same_seed_gives_the_same_bytes_and_blocks_do_not_matter(monkeypatch):
    statistic = planted(30, 0.5, 0)
    one = compare(statistic, 30, controls=CONTROLS, seed=4)
    monkeypatch.setattr("outdim.stats.paired._WEIGHTS", 30 * 7)
    other = compare(statistic, 30, controls=CONTROLS, seed=4)
    # A product of fewer rows may round otherwise.
    np.testing.assert_allclose(other.beyond.low, one.beyond.low, rtol=1e-12)
    assert compare(statistic, 30, controls=CONTROLS, seed=5).beyond.low[1] != one.beyond.low[1]
    again = compare(statistic, 30, controls=CONTROLS, seed=4)
    assert again.beyond.low.tobytes() == other.beyond.low.tobytes()


def test_one_document_has_a_value_and_no_interval():
    found = compare(ratio([[3.0], [4.0]], [2.0]), 1)
    assert found.difference.value[1] == 0.5
    assert np.isnan(found.difference.low).all()
    assert np.isnan(found.p).all()


def test_without_controls_p_is_of_the_difference():
    found = compare(planted(50, 1.0, 0), 50)
    assert np.isnan(found.control).all()
    assert found.gate == (None,) * 12
    assert np.isnan(found.p[0])
    assert (found.p[1:] <= 1).all()
    assert found.p[1] < 0.003


def test_few_documents_give_wider_intervals_than_plain_percentiles():
    statistic = planted(6, 0.5, 0)
    found = compare(statistic, 6, draws=4000)
    weights = np.random.default_rng(1).multinomial(6, np.full(6, 1 / 6), 4000).astype(float)
    drawn = statistic(weights)
    plain = np.quantile(drawn[:, 1] - drawn[:, 0], [0.025, 0.975])
    assert found.difference.high[1] - found.difference.low[1] > 1.2 * np.ptp(plain)


def test_many_variants_are_adjusted_for():
    p = np.array([np.nan, 0.001, 0.02, 0.03, 0.9])
    np.testing.assert_allclose(adjusted(p), [np.nan, 0.004, 0.04, 0.04, 0.9])
    assert np.isnan(adjusted([np.nan, np.nan])).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"draws": 1}, "draws: expected at least 2, got 1"),
        ({"level": 1.0}, "level: expected 0 < level < 1"),
        ({"controls": [0]}, r"controls: expected numbers of variants, 1 to 11, got \[0\]"),
        ({"controls": [12]}, "controls: expected"),
        ({"documents": 0}, "documents: expected at least 1, got 0"),
        ({"seed": -1}, "seed: expected 0 or more, got -1"),
    ],
)
def test_bad_arguments_are_named(change, said):
    with pytest.raises(ArgumentError, match=said):
        compare(planted(20, 1.0, 0), **{"documents": 20, **change})


@pytest.mark.slow
@pytest.mark.parametrize(("documents", "least"), [(8, 0.88), (30, 0.9), (200, 0.91)])
def test_intervals_cover_the_planted_truth(documents, least):
    """Of the difference, and of what is beyond the controls, whose true mean is 0.1."""
    covered = np.zeros(2)
    runs = 400
    for seed in range(runs):
        found = compare(planted(documents, 0.5, seed), documents, controls=CONTROLS, draws=800)
        for i, (interval, truth) in enumerate(((found.difference, 0.5), (found.beyond, 0.4))):
            covered[i] += interval.low[1] <= truth <= interval.high[1]
    assert (covered / runs > least).all()
    assert (covered / runs < 0.99).all()


def test_one_effect_among_hundreds_is_found_and_no_other():
    """200 variants of no effect, one of a clear one: q cannot be small, the family's p is."""
    rng = np.random.default_rng(0)
    losses = 3 + rng.normal(0, 1, 80) + rng.normal(0, 0.3, (202, 80))
    losses[7] += 0.3
    found = compare(ratio(losses, np.ones(80)), 80, draws=500)
    assert found.family[7] == pytest.approx(found.least)  # 1 / 501 of the draws, but p is no less
    assert (np.delete(found.family, [0, 7]) > 0.05).all()
    assert found.q[7] > 0.05
    assert np.isnan(found.family[0])


def test_the_family_of_controls_and_of_nothing():
    losses = np.random.default_rng(0).normal(3, 1, (4, 50))
    losses[2] = losses[0]
    found = compare(ratio(losses, np.ones(50)), 50, controls=[3], draws=200)
    assert np.isnan(found.family[[0, 3]]).all()
    none = compare(ratio(losses[[0, 2]], np.ones(50)), 50, draws=200)
    assert none.family[1] == 1.0
    assert np.isnan(compare(ratio(losses[:, :1], np.ones(1)), 1).family).all()


@pytest.mark.parametrize("documents", [5, 10, 40])
def test_by_chance_the_family_errs_as_often_as_it_says_and_is_never_below_p(documents):
    """P(Binomial(80, .05) > 9) = .012."""
    false = 0
    for seed in range(80):
        losses = np.random.default_rng(seed).normal(3, 1, (21, documents))
        found = compare(ratio(losses, np.ones(documents)), documents, draws=300, seed=seed)
        assert (found.family[1:] >= found.p[1:]).all()
        false += bool(np.nanmin(found.family) < 0.05)
    assert false <= 9


def test_of_three_documents_nothing_is_sure_however_large():
    losses = 3 + np.random.default_rng(0).normal(0, 0.01, (4, 3))
    losses[1:] += 5
    found = compare(ratio(losses, np.ones(3)), 3)
    np.testing.assert_array_equal(found.family[1:], found.p[1:])
    assert found.least == pytest.approx(0.115, abs=0.001)


def test_one_family_of_several_comparisons_is_that_of_all_their_variants():
    losses = np.random.default_rng(0).normal(3, 1, (9, 30))
    losses[5] += 0.8
    whole = compare(ratio(losses, np.ones(30)), 30, draws=300)
    parts = [compare(ratio(losses[[0, *own]], np.ones(30)), 30, draws=300)
             for own in (range(1, 5), range(5, 9))]  # fmt: skip
    joined = np.concatenate([one[1:] for one in families(parts)])
    np.testing.assert_allclose(joined, whole.family[1:])
    assert (parts[0].family[1:] <= joined[:4]).all()
