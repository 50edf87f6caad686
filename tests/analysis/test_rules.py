"""Every published rule finds what is planted for it, and among normal states what it says."""

import numpy as np
import pytest
import torch
from outdim.analysis.results.agreement import Criteria, by_chance, jaccard, layers_needed
from outdim.analysis.rule_states import States, kurtosis_flat, kurtosis_he
from outdim.analysis.rules import RULES
from outdim.errors import ArgumentError
from outdim.stats import Covariates, Extremes, Magnitudes, PointMoments

D, N, PLANTED = 256, 800, 7


def normal(seed=0, scale=1.0, n=N, dims=D):
    return scale * torch.randn(n, dims, generator=torch.Generator().manual_seed(seed))


def states(hidden):
    group = torch.ones(len(hidden), dtype=torch.uint8)
    ids = torch.zeros(len(hidden), dtype=torch.int64)
    parts = [PointMoments(["p"], ["text"], Covariates())]
    parts += [Magnitudes(["p"], ["text"]), Extremes(["p"], ["text"])]
    for part in parts:
        part.begin(ids, group, None)
        part.add("p", hidden)
        part.commit()
    moments, *counts = parts
    return States(
        moments.moments("p", ["text"]).compute(), *(c.counts("p", ["text"]) for c in counts)
    )


def one_token(value):
    """One token of the text has a huge value at the planted dimension."""

    def plant(hidden):
        hidden[17, PLANTED] = value

    return plant


def shifted(value):
    """Every token has a value about it."""

    def plant(hidden):
        hidden[:, PLANTED] += value

    return plant


def widened(hidden):
    hidden[:, PLANTED] *= 2.5


def often(hidden):
    hidden[::10, PLANTED] = -6.5


TRUTHS = {
    "int8_pooled": often,
    "int8_by_layer": often,
    "massive": one_token(-5000.0),
    "massive_mean": one_token(5000.0),
    "six_sigma": one_token(-40.0),
    "variance": widened,
    "median": shifted(4.0),
    "extremum": shifted(-5.0),
    "mean_3_sigma": shifted(2.0),
    "mean_5_sigma": shifted(-2.0),
    "mad": widened,
}


def test_there_is_a_truth_for_every_rule():
    assert TRUTHS.keys() == RULES.keys()


@pytest.mark.parametrize("name", RULES)
def test_a_planted_dimension_is_found_and_no_more_than_chance_beside_it(name):
    hidden = normal()
    expected = RULES[name].chance(states(hidden)) * D
    TRUTHS[name](hidden)
    verdict = RULES[name].judge(states(hidden))
    assert verdict.flagged[PLANTED]
    assert verdict.value[PLANTED] >= verdict.threshold
    assert verdict.flagged.sum() - 1 <= expected + 4 * np.sqrt(expected) + 1e-3


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_normal_states_are_flagged_as_often_as_the_rule_says(name, scale):
    """The rates are those of independent states: 12 layers of 256 dimensions, Poisson bounds."""
    rule = RULES[name]
    layers = [states(normal(seed, scale)) for seed in range(12)]
    found = sum(int(rule.judge(layer).flagged.sum()) for layer in layers)
    expected = sum(rule.chance(layer) * D for layer in layers)
    # 3 MAD of 256 dimensions are themselves uncertain by some 10 %.
    slack = 4 * np.sqrt(expected) + (0.25 * expected if name == "mad" else 0.0)
    assert abs(found - expected) <= slack + 1e-3
    if name not in ("mean_3_sigma", "mad") and (scale == 1 or not name.startswith("int8")):
        assert found == 0


def test_values_are_those_of_the_definitions():
    hidden = normal(3) * torch.linspace(0.5, 3, D) + torch.linspace(-1, 1, D)
    x = hidden.double().numpy()
    found = {name: rule.judge(states(hidden)) for name, rule in RULES.items()}
    close = {"rtol": 1e-9}
    np.testing.assert_allclose(found["variance"].value, x.var(0) / x.var(0).mean(), **close)
    z = np.abs(x.mean(0) - x.mean()) / x.mean(0).std(ddof=1)
    np.testing.assert_allclose(found["mean_3_sigma"].value, z, **close)
    np.testing.assert_allclose(found["massive"].value, np.abs(x).max(0), **close)
    assert found["massive"].threshold == pytest.approx(1000 * np.median(np.abs(x)), rel=0.02)
    assert found["massive_mean"].threshold == pytest.approx(1000 * np.abs(x).mean())
    np.testing.assert_allclose(
        found["six_sigma"].value, (np.abs(x - x.mean()) / x.std()).max(0), **close
    )
    np.testing.assert_allclose(found["int8_by_layer"].value, (np.abs(x) >= 6).mean(0), **close)
    np.testing.assert_allclose(found["median"].value, np.median(np.abs(x), 0), rtol=0.07)
    assert found["median"].threshold == pytest.approx(np.quantile(np.abs(x), 0.99), rel=0.07)
    ends = [np.bincount(f(x, axis=1), minlength=D) / N for f in (np.argmin, np.argmax)]
    np.testing.assert_allclose(found["extremum"].value, np.max(ends, 0), **close)
    size = np.abs(x).mean(0)
    mad = np.median(np.abs(size - np.median(size)))
    np.testing.assert_allclose(
        found["mad"].value, (size - np.median(size)) / mad, rtol=1e-7, atol=1e-9
    )


def test_verdicts_within_a_bin_are_undecided():
    """The median rule compares two quantiles that the histogram knows to 6 %."""
    hidden = normal(dims=200)
    edge = np.quantile(np.abs(hidden.numpy()), 0.99)
    hidden[:, PLANTED] = float(edge) * 1.0001
    verdict = RULES["median"].judge(states(hidden))
    assert verdict.undecided[PLANTED]
    assert verdict.undecided.sum() == 1


def test_kurtoses_are_those_of_the_definitions():
    hidden = normal(4) * torch.linspace(0.2, 2, D) + torch.linspace(0, 1, D)
    x = hidden.double().numpy()
    found = states(hidden)
    assert kurtosis_he(found.squares) == pytest.approx(
        np.mean(np.mean(x**2, 0) ** 2) / np.mean(x**2) ** 2, rel=1e-9
    )
    assert kurtosis_flat(found) == pytest.approx(
        np.mean((x - x.mean()) ** 4) / x.var() ** 2, rel=1e-9
    )
    equal = states(normal(5, n=4000))
    assert kurtosis_he(equal.squares) == pytest.approx(1.0, abs=0.01)
    assert kurtosis_flat(equal) == pytest.approx(3.0, abs=0.05)


def test_a_dimension_that_overflows_does_not_hide_the_others():
    hidden = normal()
    TRUTHS["variance"](hidden)
    hidden[3, 0] = torch.inf
    for name in ("variance", "mean_3_sigma", "mad"):
        verdict = RULES[name].judge(states(hidden))
        assert not verdict.flagged[0]
        assert np.isnan(verdict.value[0])
    assert RULES["variance"].judge(states(hidden)).flagged[PLANTED]


def test_shares_are_said_only_where_the_histogram_tells_them():
    hidden = normal() + 1  # the mean of the layer is 1, its 6 σ reach from -5 to 7
    hidden[:40, 0], hidden[:40, 1] = 9.0, -6.0
    far = RULES["six_sigma"].judge(states(hidden))
    assert far.flagged[[0, 1]].all()
    assert far.share[0] == 40 / N
    assert np.isnan(far.share[1])  # |h| of 6 is below 7
    even = hidden - hidden.mean()
    even[:40, 1] = -9.0
    assert RULES["six_sigma"].judge(states(even)).share[[0, 1]] == pytest.approx([40 / N] * 2)
    hidden[3, 2] = torch.nan
    hidden[:8, 3] = 1e5
    found = states(hidden)
    assert np.isnan(found.share_over(6.0)[2])
    assert found.share_over(6.0)[3] >= 8 / N
    beyond = found.share_over(90_000.0)
    assert np.isnan(beyond[3])
    assert beyond[0] == 0


def model(layers, rules=tuple(RULES), min_fraction=0.5, parameters=(PLANTED,)):
    points = [f"block.{i}" for i in range(len(layers))]
    at = {(point, "all"): states(hidden) for point, hidden in zip(points, layers, strict=True)}
    tokens = {key: found.moments for key, found in at.items()}
    numbers = {point: i + 1 for i, point in enumerate(points)}
    return Criteria(numbers, at, tokens, rules, min_fraction, parameters)


def test_a_dimension_of_the_model_recurs_in_enough_layers():
    layers = [normal(seed) for seed in range(6)]
    for hidden in layers[1:4]:
        widened(hidden)
    widened(layers[5][:, 1:])  # at another place
    found = model(layers)
    assert found.dims("variance") == (PLANTED,)
    assert found.found["variance", "all"].layers == {PLANTED: (2, 3, 4), PLANTED + 1: (6,)}
    assert found.found["variance", "all"].layers_needed == 3
    assert model(layers, min_fraction=0.6).dims("variance") == ()
    assert found.flagged("variance", "block.1") == [PLANTED]
    with pytest.raises(ArgumentError, match="rule, selection: expected one of"):
        found.dims("variance", "text")


def test_int8_asks_for_a_quarter_of_the_layers_and_six_percent_of_the_tokens():
    layers = [normal(seed) for seed in range(4)]
    often(layers[0])  # 10 % of the tokens of one of four layers: 2.5 % of all
    found = model(layers)
    assert found.dims("int8_by_layer") == (PLANTED,)
    assert found.dims("int8_pooled") == ()
    layers[1][::5, PLANTED] = 7.0  # and 20 % of another's: 7.5 % of all
    found = model(layers)
    assert found.dims("int8_pooled") == (PLANTED,)


def test_the_number_found_by_chance_is_that_of_shuffled_layers():
    rng = np.random.default_rng(0)
    flagged = rng.random((8, 300)) < np.linspace(0.05, 0.5, 8)[:, None]
    shares = np.where(flagged, 0.2, 0.0)
    rule = RULES["variance"]
    draws = [np.sum(rng.permuted(flagged, axis=1).sum(0) >= 4) for _ in range(400)]
    expected = by_chance(rule, flagged, shares, 4)
    assert expected == pytest.approx(np.mean(draws), abs=5 * np.std(draws) / 20)
    pooled = by_chance(RULES["int8_pooled"], flagged, shares, 4)
    both = [
        np.sum((moved.sum(0) >= 4) & (moved.mean(0) * 0.2 >= 0.06))
        for moved in (rng.permuted(flagged, axis=1) for _ in range(400))
    ]
    assert pooled == pytest.approx(np.mean(both), abs=6 * np.std(both) / np.sqrt(200))
    assert by_chance(rule, np.ones((3, 5), bool), np.ones((3, 5)), 2) == pytest.approx(5.0)


def test_agreement_is_the_jaccard_index():
    assert jaccard({1, 2, 3}, {3, 4}) == 0.25
    assert np.isnan(jaccard(set(), set()))
    layers = [normal(seed) for seed in range(4)]
    for hidden in layers:
        widened(hidden)
    names, matrix = model(layers).agreement()
    assert names[-1] == "parameters"
    assert np.array_equal(matrix, matrix.T, equal_nan=True)
    assert matrix[names.index("variance"), -1] == 1.0
    assert matrix[names.index("extremum"), -1] == 0.0
    assert np.isnan(matrix[names.index("extremum"), names.index("massive")])
    assert model(layers, parameters=None).agreement()[0] == list(RULES)
    names, matrix = model(layers).agreement(damage=model(layers).dims("variance"))
    assert names[-2:] == ["parameters", "damage"]
    assert matrix[names.index("variance"), -1] == 1.0


def test_what_chance_finds_as_well_is_no_vote_and_is_said():
    layers = [normal(seed, scale=4.0) for seed in range(4)]
    for hidden in layers:
        hidden[:, PLANTED] *= 2.5
    found = model(layers)
    assert found.found["int8_by_layer", "all"].a_layer == D
    assert not found.found["int8_by_layer", "all"].telling
    assert next(iter(found.votes())) == PLANTED
    assert "int8_by_layer" not in found.votes()[PLANTED]
    assert "variance" in found.votes()[PLANTED]
    assert any("int8_by_layer finds may be chance" in said for said in found.cautions())
    assert str(PLANTED) in found.headline()[0]
    silent = model([normal(seed) for seed in range(4)], rules=("variance", "massive"))
    assert silent.headline()[0].startswith("None of 2 rules")


@pytest.mark.parametrize(("fraction", "layers", "needed"), [(0.5, 12, 6), (0.5, 7, 4), (0.1, 3, 1)])
def test_layers_needed(fraction, layers, needed):
    assert layers_needed(RULES["variance"], fraction, layers) == needed
    assert layers_needed(RULES["int8_by_layer"], fraction, 12) == 3
