"""Which dimensions are looked at where none are named."""

import torch
from outdim.analysis.dimensions import default_dims, random_dims
from outdim.analysis.inputs import Inputs
from tiny import tiny_model

SIZE, PLANTED, ONCE = 64, 7, 9  # ONCE is extreme in one of three layers


def inputs(**asked):
    model = tiny_model("bert", num_hidden_layers=3, hidden_size=SIZE, outliers=(PLANTED,))
    norm = model.encoder.layer[1].output.LayerNorm
    with torch.no_grad():
        norm.weight[ONCE], norm.bias[ONCE] = 3.0, -2.0
    found = Inputs.of(model=model)
    found.asked = {"detect": asked}
    return found


def test_by_default_what_the_asked_rule_finds_stands_beside_random_ones():
    others = random_dims(SIZE, 10)
    assert not {PLANTED, ONCE} & set(others)
    assert default_dims(inputs()) == [PLANTED, *others]
    assert default_dims(inputs(min_fraction=1 / 3)) == [PLANTED, ONCE, *others]


def test_where_nothing_is_an_outlier_those_nearest_to_it_are_taken():
    nothing = default_dims(inputs(k=100.0))
    assert nothing[0] == PLANTED
    assert len(nothing) == 3 + 10


def test_of_many_outliers_the_first_are_taken():
    """Every dimension is further than 0.001 sigma from the mean of some layer."""
    found = default_dims(inputs(k=1e-3, min_fraction=1 / 3))
    assert found[0] == PLANTED
    assert len(found) == 16 + 10
