"""What is ablated, as plain data: round trips, words for people, and clear errors."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from outdim import Ablation
from outdim.errors import ArgumentError
from outdim.models import GroupValues

VALUES = [
    Ablation([3, 1]),
    Ablation([3], [0, 4], "parameters", only="beta"),
    Ablation([3, 1], mode="scale", value=[0.5, 2.0]),
    Ablation([3, 1], [1, 2], mode="mean", value=[[1.0, 2.0], [3.0, 4.0]]),
    Ablation([3], [2], mode="resample", value=[[[1.0], [2.0]]]),
    Ablation([3], mode="mean", value=GroupValues(text=1.0, first=(2.0,), special_ids=(0, 1))),
    Ablation([[1, 2], [], [3]], [1, 2, 3], name="odd"),
]


@pytest.mark.parametrize("ablation", VALUES, ids=lambda one: one.label)
def test_json_gives_the_same_again(ablation):
    assert Ablation(**json.loads(json.dumps(asdict(ablation)))) == ablation


def test_what_holds_numbers_may_be_anything():
    plain = Ablation((5, 2), (1, 3), mode="mean", value=((1.0, 2.0), (3.0, 4.0)))
    assert Ablation(torch.tensor([5, 2]), np.array([1, 3]), mode="mean",
                    value=torch.tensor([[1.0, 2.0], [3.0, 4.0]])) == plain  # fmt: skip
    assert Ablation(np.int64(5)).dims == Ablation(5).dims == (5,)
    assert Ablation(5, 2).layers == (2,)


@pytest.mark.parametrize(
    ("arguments", "label"),
    [
        ({"dims": [308, 381], "at": "parameters"}, "308+381 off (parameters)"),
        ({"dims": [7], "at": "parameters", "only": "gamma"}, "7 off (gamma of parameters)"),
        ({"dims": [7], "layers": [2, 3, 4]}, "7 off (state, layers 2 to 4)"),
        ({"dims": [7], "layers": [2, 4]}, "7 off (state, layers 2, 4)"),
        ({"dims": [7], "mode": "scale", "value": 0.25}, "7 times 0.25 (state)"),
        ({"dims": [7], "mode": "scale", "value": [0.25]}, "7 times factors (state)"),
        ({"dims": [7], "mode": "clip", "value": 6.0}, "7 clipped to 6 (state)"),
        ({"dims": [7], "mode": "mean", "value": (1.5,)}, "7 at their mean (state)"),
        ({"dims": [7], "mode": "mean", "value": 1.5}, "7 at 1.5 (state)"),
        ({"dims": range(9)}, "0+1+2+3+4+5 and 3 more off (state)"),
        ({"dims": [[1], [2]], "layers": [1, 2]},
         "2 dimensions, others in each layer, off (state, layers 1 to 2)"),
        ({"dims": [1], "name": "random 1: 1"}, "random 1: 1 off (state)"),
    ],
)  # fmt: skip
def test_labels(arguments, label):
    assert Ablation(**arguments).label == label


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": []}, "dims: expected at least one, got none"),
        ({"dims": [3, 3]}, "dims: expected each once, got 3 more than once"),
        ({"dims": [-1]}, "dims: expected numbers >= 0, got -1"),
        ({"dims": [1.0]}, r"dims: expected whole numbers, got 1\.0"),
        ({"dims": [True]}, "dims: expected whole numbers, got True"),
        ({"dims": [[1], [2]]}, "dims: expected one row for each of `layers`, got 2 rows for no"),
        ({"dims": [[], []], "layers": [1, 2]}, "dims: expected at least one dimension, got none"),
        ({"dims": [1], "layers": []}, "layers: expected at least one"),
        ({"dims": [1], "layers": [2, 2]}, "layers: expected each once, got 2"),
        ({"dims": [1], "at": "weights"}, "at: expected one of 'parameters', 'state', 'denomin"),
        ({"dims": [1], "mode": "off"}, "mode: expected one of 'zero'"),
        ({"dims": [1], "only": "bias"}, "only: expected one of 'gamma', 'beta', got 'bias'"),
        ({"dims": [1], "only": "beta"}, "only: 'beta' is a parameter of a norm; it goes with"),
        ({"dims": [1], "value": 3.0}, r"value: mode='zero' takes none here \(0\), got 3\.0"),
        ({"dims": [1], "mode": "mean"}, "value: mode='mean' needs one, .*with_means gives those"),
        ({"dims": [1], "mode": "resample"}, "value: mode='resample' needs one.*with_samples"),
        ({"dims": [1], "mode": "scale"}, "value: mode='scale' needs one, a factor, or one for"),
        ({"dims": [1], "mode": "scale", "value": [1.0, 2.0]}, "expected 1, one a dimension, got 2"),
        ({"dims": [1], "mode": "scale", "value": "half"}, "value: expected numbers, got 'half'"),
        ({"dims": [1], "mode": "scale", "value": float("nan")}, "value: expected finite numbers"),
        ({"dims": [1], "mode": "clip", "value": -1.0}, "value: expected bounds >= 0, got -1.0"),
        ({"dims": [1], "mode": "clip", "value": [[1.0]]}, "a bound, or one for each dimension"),
        ({"dims": [1], "mode": "mean", "value": [[1.0], [2.0]]}, "2 layers of numbers go with"),
        ({"dims": [1], "mode": "resample", "value": [1.0]}, r"samples \[layers, samples, dims\]"),
        ({"dims": [[1], [2]], "layers": [1, 2], "mode": "scale", "value": [1.0]}, "a single numb"),
        ({"dims": [1], "at": "denominator", "mode": "mean", "value": 1.0}, "expected 'zero', 'sca"),
        ({"dims": [1], "at": "parameters", "mode": "mean", "value": 1.0}, "the mean of the other"),
        ({"dims": [1], "at": "parameters", "mode": "resample", "value": 0.5}, "the seed, got 0.5"),
        ({"dims": [1], "mode": "clip", "value": GroupValues(text=1.0)}, "no values by group"),
    ],
)  # fmt: skip
def test_errors(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        Ablation(**arguments)


def test_values_of_no_group():
    with pytest.raises(ArgumentError, match="values of at least one group of tokens"):
        GroupValues(special_ids=(1, 2))


def test_values_of_special_tokens_need_their_ids():
    with pytest.raises(ArgumentError, match=r"special_ids: expected the ids .*, got none"):
        GroupValues(text=1.0, special=0.0)
