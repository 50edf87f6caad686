"""Models whose architecture cannot be told: errors instead of guesses."""

import pytest
import torch
from outdim.errors import ArgumentError, DataError
from outdim.models import architecture, model_sha256
from tiny import tiny_model
from torch import nn


def test_wrapped_models_are_refused():
    model = tiny_model("bert")
    with pytest.raises(ArgumentError, match=r"got Linear.*load_model"):
        architecture(nn.Linear(2, 2))
    with pytest.raises(ArgumentError, match=r"got DataParallel; pass the model inside, \.module"):
        architecture(nn.DataParallel(model))


@pytest.mark.slow  # torch.compile imports for seconds
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_models_are_refused():
    model = tiny_model("bert")
    with pytest.raises(ArgumentError, match=r"pass the model inside, \._orig_mod"):
        architecture(torch.compile(model))
    model.compile()
    with pytest.raises(ArgumentError, match="not compiled"):
        architecture(model)


def test_what_cannot_be_resolved_is_an_error():
    broken = tiny_model("bert")
    broken.encoder.layer[2].output.LayerNorm.bias.data[3] = torch.nan
    with pytest.raises(
        DataError,
        match=r"block 2 of BertModel is not finite for ordinary tokens: 1 tensors hold NaN or inf, "
        r"such as encoder\.layer\.2\.output\.LayerNorm\.bias",
    ):
        architecture(broken)
    huge = tiny_model("bert").half()
    huge.encoder.layer[1].output.LayerNorm.weight.data[:] = 6e4
    with pytest.raises(DataError, match="the dtype is too narrow: try float32"):
        architecture(huge)
    with pytest.raises(
        DataError, match=r"does not run on 2 x 5 dummy inputs \(ValueError: too long"
    ):
        architecture(_failing(tiny_model("gpt2")))
    mixed = tiny_model("bert")
    mixed.encoder.layer[1].output.LayerNorm = nn.Identity()
    with pytest.raises(
        DataError, match=r"neither post-LN nor pre-LN: of 4 blocks, \[0, 2, 3\] end with a norm"
    ):
        architecture(mixed)


def test_weights_that_are_not_in_memory():
    model = tiny_model("llama")
    model.layers[2].to("meta")
    for look in (architecture, model_sha256):
        with pytest.raises(
            DataError, match=r"9 of \d+ weights are offloaded to the meta device, such as layers\.2"
        ):
            look(model)
    model = tiny_model("bert")
    weight = model.pooler.dense.weight.data
    model.pooler.dense.weight = nn.Parameter(weight.to_sparse(), requires_grad=False)
    with pytest.raises(DataError, match=r"1 weights are sparse or nested .*pooler\.dense\.weight"):
        architecture(model)


def _failing(model):
    def forward(*args, **kwargs):
        raise ValueError("too long")

    model.forward = forward
    return model
