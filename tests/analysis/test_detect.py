"""Detection: planted truths, the published rule, and its false positives under a known null."""

import json

import numpy as np
import pytest
import torch
from outdim.analysis.detect import detect
from outdim.analysis.results.detection import detect_parameters
from outdim.errors import ArgumentError, DataError
from tiny import tiny_model

L, D = 12, 768


def parameters(seed=0, rho=0.0):
    """Gaussian gamma and beta [L, D] whose layers are correlated by ``rho``, without outliers."""
    rng = np.random.default_rng(seed)

    def draw():
        shared = rng.standard_normal(D)
        return np.sqrt(rho) * shared + np.sqrt(1 - rho) * rng.standard_normal((L, D))

    return 1 + 0.02 * draw(), 0.02 * draw()


def test_planted_dimensions_are_found_and_nothing_else():
    gamma, beta = parameters()
    gamma[:6, 308], beta[:6, 308] = 2.0, -1.0
    gamma[3:, 381], beta[3:, 381] = 0.1, 1.5
    found = detect_parameters(gamma, beta)
    assert found.dims == (308, 381)
    assert found.min_layers == 6
    assert found.layers_both[308] == 6
    assert found.layers_both[381] == 9
    assert found.false_positives.expected_dims == 0
    assert found.false_positives.probability_any == 0


def test_one_layer_less_than_asked_for_is_not_enough():
    gamma, beta = parameters()
    gamma[:5, 308], beta[:5, 308] = 2.0, -1.0
    assert detect_parameters(gamma, beta).dims == ()
    assert detect_parameters(gamma, beta, min_fraction=5 / 12).dims == (308,)


def test_gamma_and_beta_are_both_needed_except_by_the_published_code():
    gamma, beta = parameters()
    gamma[:, 1] = 3.0
    beta[:, 2] = 3.0
    gamma[:, 3], beta[:, 3] = 3.0, 3.0
    assert detect_parameters(gamma, beta).dims == (3,)
    assert detect_parameters(gamma, beta, rule="puccetti2022").dims == (1, 2, 3)


def test_the_published_rule_asks_for_more_than_three_layers():
    gamma, beta = parameters()
    gamma[:3, 1] = 3.0
    gamma[:4, 2] = 3.0
    assert detect_parameters(gamma, beta, rule="puccetti2022").dims == (2,)


@pytest.mark.parametrize("rule", ["kovaleva2021", "puccetti2022"])
@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_what_reaches_beyond_k_is_an_outlier_and_nothing_else(rule, fraction):
    gamma, beta = parameters(rho=0.9)
    for parts in ((gamma, beta), (gamma, None)):
        found = detect_parameters(*parts, rule=rule, k=1.5, min_fraction=fraction, permutations=0)
        assert 0 < len(found.dims) < D
        assert tuple(np.flatnonzero(found.reach > 1.5)) == found.dims


def test_z_scores_use_the_unbiased_standard_deviation():
    gamma, beta = parameters()
    found = detect_parameters(gamma, beta)
    expected = (
        torch.from_numpy(gamma) - torch.from_numpy(gamma).mean(1, keepdim=True)
    ) / torch.from_numpy(gamma).std(1, keepdim=True)
    np.testing.assert_allclose(found.gamma_z, expected.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "low", "high"), [("kovaleva2021", 0.0, 0.1), ("puccetti2022", 2.0, 8.0)]
)
def test_layer_correlated_null_shows_why_both_parameters_are_asked_for(rule, low, high):
    # Simulated for papers' rules: intersection 0.007 false dimensions, union 4.7 (layers correlated
    # by 0.9).
    counts = [
        len(
            detect_parameters(
                *parameters(seed, rho=0.9), rule=rule, min_fraction=1 / 3, permutations=0
            ).dims
        )
        for seed in range(40)
    ]
    assert low <= np.mean(counts) <= high


def test_permutation_null_agrees_with_the_rate_of_independent_layers():
    # At 1 sigma in 2 of 12 layers nearly everything is flagged by chance, and the permutations must
    # say so.
    gamma, beta = parameters()
    found = detect_parameters(gamma, beta, k=1.0, min_fraction=2 / 12)
    p = 0.3173**2  # two independent two-sided tails
    expected = D * (1 - (1 - p) ** L - L * p * (1 - p) ** (L - 1))
    assert found.false_positives.expected_dims == pytest.approx(expected, rel=0.1)
    assert len(found.dims) == pytest.approx(expected, rel=0.2)
    assert found.false_positives.probability_any == 1


def test_permutations_are_seeded():
    gamma, beta = parameters()
    draws = [
        detect_parameters(gamma, beta, k=1.0, permutations=20, seed=s).false_positives
        for s in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_untrained_norms_are_constant_and_have_no_outliers():
    found = detect_parameters(np.ones((4, 64)), np.zeros((4, 64)))
    assert found.dims == ()
    assert np.isfinite(found.gamma_z).all()


def test_tiny_gamma_of_1e_minus_33_is_no_special_case():
    gamma, beta = parameters()
    gamma[:, 127], beta[:, 127] = 5e-33, 4.0
    assert detect_parameters(gamma, beta).dims == (127,)


def test_json_is_plain_and_complete():
    gamma, beta = parameters()
    gamma[:, 5], beta[:, 5] = 3.0, 3.0
    content = detect_parameters(gamma, beta, permutations=10).to_dict()
    assert [dim["dim"] for dim in content["dims"]] == [5]
    assert len(content["bounds"]) == L
    assert content["dims"][0]["layers_both"] == L


def test_a_model_with_planted_dimensions():
    model = tiny_model("bert", num_hidden_layers=4, hidden_size=64)
    for layer in model.encoder.layer:
        torch.nn.init.normal_(layer.output.LayerNorm.weight, 1, 0.02)
        torch.nn.init.normal_(layer.output.LayerNorm.bias, 0, 0.02)
        layer.output.LayerNorm.weight.data[7] = 3.0
        layer.output.LayerNorm.bias.data[7] = -2.0
    found = detect(model)
    assert found.dims == (7,)
    assert len(found.layers) == 4


def test_rmsnorm_decides_by_gamma_and_says_so():
    found = detect(tiny_model("llama"))
    assert found.beta is None
    assert "no beta" in found.note


def test_a_model_without_norms_is_an_error():
    model = tiny_model("bert")
    for layer in model.encoder.layer:
        layer.output.LayerNorm = torch.nn.Identity()
    with pytest.raises(DataError, match="no LayerNorm or RMSNorm"):
        detect(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k: expected a positive"),
        ({"min_fraction": 0}, "min_fraction: expected a share"),
        ({"min_fraction": 1.1}, "min_fraction: expected a share"),
        ({"rule": "both"}, "rule: expected"),
    ],
)
def test_bad_arguments_name_what_was_expected(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        detect_parameters(*parameters(), **arguments)


def test_shapes_must_agree():
    with pytest.raises(ArgumentError, match="beta: expected the shape of gamma"):
        detect_parameters(np.ones((3, 8)), np.ones((4, 8)))
    with pytest.raises(ArgumentError, match="gamma: expected"):
        detect_parameters(np.ones(8), None)


@pytest.mark.parametrize(("rule", "beta"), [("kovaleva2021", False), ("puccetti2022", True)])
def test_the_null_of_gamma_against_beta_is_for_rules_that_ask_for_both(rule, beta):
    rng = np.random.default_rng(0)
    gamma, other = rng.normal(size=(2, 6, 64))
    found = detect_parameters(gamma, other if beta else None, rule=rule, permutations=5)
    assert np.isfinite(found.false_positives.expected_dims)
    assert np.isnan(found.false_positives.expected_dims_layers_kept)
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert written["false_positives"]["expected_dims_layers_kept"] is None
    nothing = detect_parameters(gamma, other, permutations=0).to_dict()
    json.dumps(nothing, allow_nan=False)


def test_parameters_of_any_kind():
    rng = np.random.default_rng(0)
    gamma, beta = rng.normal(1, 0.02, (4, 64)), rng.normal(0, 0.02, (4, 64))
    gamma[:, 7], beta[:, 7] = 3, -2
    expected = detect_parameters(gamma, beta)
    for kind in (np.float32, list, torch.tensor, lambda x: torch.tensor(x).bfloat16()):
        given = [
            values.astype(np.float32) if kind is np.float32 else kind(values.tolist())
            for values in (gamma, beta)
        ]
        found = detect_parameters(*given)
        assert found.dims == expected.dims == (7,)
        assert found.gamma.dtype == found.gamma_z.dtype == np.float64
        np.testing.assert_allclose(found.gamma_z[:, 7], expected.gamma_z[:, 7], rtol=0.02)
    assert detect_parameters(gamma).beta is None


def test_values_that_are_not_finite_are_named():
    gamma, beta = np.ones((3, 8)), np.zeros((3, 8))
    beta[1, [2, 5]] = np.nan, np.inf
    with pytest.raises(
        DataError, match=r"beta: layer 4 \(b\) is NaN or infinite at dimensions \[2, 5\] \(2 of 8\)"
    ):
        detect_parameters(gamma, beta, layers=[2, 4, 6], norms=["a", "b", "c"])


@pytest.mark.parametrize("rule", ["kovaleva2021", "puccetti2022"])
def test_a_norm_that_all_layers_share_is_one_layer(rule):
    """Twelve uses of one norm of noise agree with each other, which says nothing."""
    model = tiny_model("albert", num_hidden_layers=12)
    norm = model.encoder.albert_layer_groups[0].albert_layers[0].full_layer_layer_norm
    generator = torch.Generator().manual_seed(0)
    for parameter in (norm.weight, norm.bias):
        parameter.data.normal_(generator=generator)
    norm.weight.data[:2], norm.bias.data[1:3] = 9.0, 9.0
    found = detect(model, rule=rule, permutations=2000)
    assert (found.layers, found.gamma.shape) == ((1,), (1, 32))
    if rule == "puccetti2022":  # in more than three layers: there is one
        assert found.dims == ()
        assert found.false_positives.expected_dims == 0
    else:
        over = [int((np.abs(z) > 3).sum()) for z in (found.gamma_z, found.beta_z)]
        assert (found.dims, over) == ((1,), [2, 2])
        assert found.false_positives.expected_dims == pytest.approx(2 * 2 / 32, abs=0.03)
    assert found.note == "12 layers share 1 distinct norm; each counts once, with its first layer."
