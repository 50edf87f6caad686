"""Which models padding reaches, and what they pad by themselves."""

import pytest
import torch
from outdim.models import Padding, architecture, padding_reaches_text, probe_padding
from tiny import SINGLE, tiny_model
from transformers import ConvBertConfig, ConvBertModel, FNetConfig, FNetModel

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 16,
    "vocab_size": 99,
    "max_position_embeddings": 64,
}


def fnet():
    return FNetModel(FNetConfig(**SMALL)).eval()


def convbert():
    config = ConvBertConfig(**SMALL, num_attention_heads=2, embedding_size=16, conv_kernel_size=3)
    model = ConvBertModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "LayerNorm" not in name:  # as large as those of trained models
            parameter.data.normal_(0, 0.2, generator=generator)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [name for name in SINGLE if name != "vit"])
def test_padding_does_not_reach_the_text_of_most_models(family, dtype):
    assert not padding_reaches_text(tiny_model(family).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("build", [fnet, convbert])
def test_padding_reaches_models_that_mix_without_a_mask(build, dtype):
    if build is fnet and dtype is torch.bfloat16:
        pytest.skip("torch's Fourier transform has no bfloat16")
    assert padding_reaches_text(build().to(dtype))


def test_padding_at_the_left_moves_the_positions_of_some():
    assert padding_reaches_text(tiny_model("gpt2"), side="left")
    for family in ("llama", "xlnet", "opt"):  # relative positions, or those that the mask gives
        assert not padding_reaches_text(tiny_model(family), side="left"), family
    assert padding_reaches_text(tiny_model("bert"), side="left")


def test_an_outlier_dimension_does_not_hide_what_padding_does():
    model = convbert()
    model.encoder.layer[-1].output.LayerNorm.weight.data[3] = 1e6
    assert padding_reaches_text(model)
    model = tiny_model("bert")
    model.encoder.layer[-1].output.LayerNorm.weight.data[3] = 1e6
    assert not padding_reaches_text(model)


def test_long_sequences_that_a_model_pads_itself(big_bird):
    found = architecture(big_bird)
    assert probe_padding(big_bird, found, 40) == Padding(reaches_text=False, multiple=1)
    assert probe_padding(big_bird, found, 256) == Padding(reaches_text=False, multiple=256)
    assert big_bird.attention_type == "block_sparse"
