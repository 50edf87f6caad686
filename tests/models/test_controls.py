"""Controls: what they hold, the same on every machine, and none of what they stand beside."""

from itertools import chain

import pytest
import torch
from outdim import Ablation, ablate, controls
from outdim.errors import ArgumentError
from outdim.models import apply_ablation, architecture, keep_only
from tiny import HIDDEN, LAYERS, tiny_inputs, tiny_model

OUTLIERS = [7, 19]


@pytest.fixture(scope="module")
def bert():
    return tiny_model("bert", outliers=OUTLIERS)


@pytest.fixture(scope="module")
def found(bert):
    return architecture(bert)


def test_random_ones_are_other_dimensions_and_the_same_everywhere(bert, found):
    base = Ablation(OUTLIERS, [1, 2], "parameters", only="gamma")
    drawn = controls(bert, base, n=200, seed=5, exclude=[1, 2], found=found)
    assert len(drawn) == 200
    for one in drawn:
        assert len(one.dims) == 2
        assert not {*one.dims} & {*OUTLIERS, 1, 2}
        assert (one.layers, one.at, one.only) == ((1, 2), "parameters", "gamma")
    # 28 dimensions 400 times: each 14.3 on average, s.d. 3.6.
    counts = torch.bincount(torch.tensor([d for one in drawn for d in one.dims]), minlength=HIDDEN)
    assert int(counts[[d for d in range(HIDDEN) if d not in (7, 19, 1, 2)]].min()) >= 2
    assert int(counts.max()) <= 32
    # Values that no machine and no version may change.
    assert [one.dims for one in controls(bert, OUTLIERS, n=3, found=found)] == FIRST
    assert drawn == controls(bert, base, n=200, seed=5, exclude=[1, 2], found=found)
    assert drawn != controls(bert, base, n=200, seed=6, exclude=[1, 2], found=found)
    assert drawn[:7] == controls(bert, base, n=7, seed=5, exclude=[1, 2], found=found)
    assert drawn[0].label == f"random 1: {drawn[0].dims[0]}+{drawn[0].dims[1]} off (gamma of " + (
        "parameters, layers 1 to 2)"
    )


FIRST = [(2, 30), (23, 29), (4, 29)]


def test_random_positions_differ_from_layer_to_layer(bert, found):
    drawn = controls(bert, Ablation(OUTLIERS, at="parameters"), "random_positions", found=found)
    assert len(drawn) == 10
    for one in drawn:
        assert one.layers == tuple(range(1, LAYERS + 1))
        assert [len(row) for row in one.dims] == [2] * LAYERS
        assert len(set(one.dims)) > 1
        assert not {*chain.from_iterable(one.dims)} & {*OUTLIERS}
    with torch.inference_mode(), apply_ablation(bert, drawn[0], found=found) as edited:
        states = bert(**tiny_inputs(bert), output_hidden_states=True).hidden_states
    assert edited.parameters == 2 * 2 * LAYERS
    for h, dims in zip(states[1:], drawn[0].dims, strict=True):
        assert (h == 0).all((0, 1)).nonzero().flatten().tolist() == list(dims)


@pytest.mark.parametrize("kind", ["largest_gamma", "largest_beta"])
def test_the_largest_wherever_they_are(bert, found, kind):
    (one,) = controls(bert, OUTLIERS, kind, found=found)
    name = "weight" if kind == "largest_gamma" else "bias"
    sizes = torch.stack(
        [getattr(layer.output.LayerNorm, name).detach().abs() for layer in bert.encoder.layer]
    )
    sizes[:, OUTLIERS] = 0
    places = sizes.flatten().topk(2 * LAYERS).indices.tolist()
    expected = sorted((place // HIDDEN + 1, place % HIDDEN) for place in places)
    assert [
        (layer, dim) for layer, dims in zip(one.layers, one.dims, strict=True) for dim in dims
    ] == expected
    assert one.label.startswith(f"{kind.replace('_', ' ')} off")


def test_the_largest_gamma_of_norms_that_read():
    model = tiny_model("llama")
    (one,) = controls(model, 3, "largest_gamma")
    assert sum(map(len, one.dims)) == LAYERS
    with pytest.raises(ArgumentError, match="kind: no norm with beta goes with layer 1"):
        controls(model, 3, "largest_beta")
    with pytest.raises(ArgumentError, match="no norm with gamma goes with layer 1"):
        controls(tiny_model("olmo2"), 3, "largest_gamma")


def test_like_size_is_of_like_size(bert, found):
    sizes = torch.arange(HIDDEN).double()
    for one in controls(bert, [20, 5], "magnitude_matched", 20, magnitude=-sizes, found=found):
        near, far = one.dims
        assert abs(near - 20) <= 4
        assert abs(far - 5) <= 5  # 20 is none of its neighbours
        assert near != far
    # By gamma, an outlier has no like, and dimensions of ordinary size have.
    gamma = torch.stack([n.gamma.abs() for n in found.norms()]).mean(0)
    order = gamma.argsort().tolist()
    for one in controls(bert, [order[10]], "magnitude_matched", found=found):
        assert abs(order.index(one.dims[0]) - 10) <= 8
    largest = {*order[-11:]} - {*OUTLIERS}
    for one in controls(bert, OUTLIERS, "magnitude_matched", found=found):
        assert {*one.dims} <= largest


def test_only_these_are_kept(bert, found):
    one = keep_only(bert, Ablation(OUTLIERS, [2], name="x"), found=found)
    assert one.label == "all but 7+19 off (state, layer 2)"
    with torch.inference_mode(), apply_ablation(bert, one, found=found):
        h = bert(**tiny_inputs(bert), output_hidden_states=True).hidden_states[2]
    assert (h != 0).any((0, 1)).nonzero().flatten().tolist() == OUTLIERS
    with pytest.raises(ArgumentError, match="expected fewer than all 32"):
        keep_only(bert, range(HIDDEN), found=found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "rand"}, "kind: expected one of 'random', 'random_positions'"),
        ({"n": 0}, "n: expected at least 1, got 0"),
        ({"kind": "largest_gamma", "n": 2}, "n: expected 1 for largest_gamma, got 2"),
        ({"exclude": range(31)}, "expected as many of the 32 dimensions left .*got 2 and 1 oth"),
        ({"kind": "magnitude_matched", "magnitude": [1.0]}, r"magnitude: expected \(32,\) finite"),
    ],
)
def test_errors(bert, found, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        controls(bert, OUTLIERS, found=found, **arguments)


def test_values_are_those_of_the_dimensions(bert, found):
    for value in ([1.0, 2.0], (3.0, 4.0)):
        with pytest.raises(ArgumentError, match=r"values of 7\+19 are not those of others.*with_m"):
            controls(bert, Ablation(OUTLIERS, mode="mean", value=value), found=found)
    (one, *_) = controls(bert, Ablation(OUTLIERS, mode="scale", value=0.5), found=found)
    assert (one.mode, one.value) == ("scale", 0.5)
    with pytest.raises(ArgumentError, match="dims: expected the same in every layer"):
        controls(bert, Ablation([[1], [2]], [1, 2]), found=found)
    with pytest.raises(ArgumentError, match="dims: expected 0 to 31, got 32"):
        controls(bert, 32, found=found)


def compensated(outlier, factor, *, carries):
    """BERT with gamma, beta of a dimension times `factor`, and what reads it divided by that.

    Its function stays. With `carries` False what reads the dimension is zero: then it is large and
    says nothing.
    """
    model = tiny_model("bert", head="MaskedLM")
    blocks = model.bert.encoder.layer
    with torch.no_grad():
        # The state after block 1 is read by block 2: query, key, value and, by the residual, the
        # norm behind the attention. The residual is what cannot be divided; so there it is cut.
        norm = blocks[1].output.LayerNorm
        norm.weight[outlier] *= factor
        norm.bias[outlier] *= factor
        attention = blocks[2].attention.self
        for reader in (attention.query, attention.key, attention.value):
            reader.weight[:, outlier] *= 1 / factor if carries else 0.0
    blocks[2].attention.output.register_forward_pre_hook(
        lambda module, args: (args[0], without(args[1], outlier)), prepend=True
    )
    return model


def without(hidden, dim):
    hidden = hidden.clone()
    hidden[..., dim] = 0
    return hidden


@pytest.mark.parametrize("at", ["state", "parameters"])
@pytest.mark.parametrize("factor", [1.0, 64.0])
def test_planted_outliers_matter_or_not_as_they_were_made(at, factor):
    """Size says nothing: a dimension of 64 times the size that nobody reads is harmless."""
    dim, control = 11, 23

    def damage(model, dims):
        inputs = tiny_inputs(model)
        with torch.inference_mode():
            plain = model(**inputs).logits
            with ablate(model, dims, [2], at=at):
                return float((model(**inputs).logits - plain).abs().max())

    useful, useless = (compensated(dim, factor, carries=c) for c in (True, False))
    plain = compensated(dim, 1.0, carries=True)
    with torch.inference_mode():
        same = [m(**tiny_inputs(m)).logits for m in (plain, useful)]
        h = useful(**tiny_inputs(useful), output_hidden_states=True).hidden_states[2]
    assert torch.allclose(*same, atol=1e-5)  # factor and 1 / factor are powers of two
    others = [d for d in range(HIDDEN) if d != dim]
    if factor > 1:
        assert float(h[..., dim].abs().mean()) > 20 * float(h[..., others].abs().mean())
    assert damage(useless, [dim]) == 0.0
    assert damage(useful, [dim]) > 1e-2
    # What it is worth does not depend on how large it was written.
    assert damage(useful, [dim]) == pytest.approx(damage(plain, [dim]), rel=1e-3)
    assert damage(useless, [control]) > 1e-2
