"""Looking at a model, and running it, leaves it as it was."""

import random

import numpy as np
import pytest
import torch
from outdim.models import Forward, architecture
from outdim.models.unchanged import unchanged
from tiny import tiny_model
from torch import nn
from transformers import ReformerConfig, ReformerModel, RwkvConfig, RwkvModel


def long_ids(length=256):
    return torch.randint(5, 99, (1, length), generator=torch.Generator().manual_seed(1))


def test_a_big_bird_keeps_its_attention(big_bird):
    with torch.no_grad():
        before = big_bird(long_ids()).last_hidden_state
        architecture(big_bird)
        assert big_bird.attention_type == "block_sparse"
        assert torch.equal(big_bird(long_ids()).last_hidden_state, before)


def test_a_run_does_not_depend_on_which_lengths_came_first(big_bird):
    forward = Forward(big_bird)
    ones = torch.ones_like(long_ids())
    with torch.no_grad():
        before = forward(long_ids(), ones).last_hidden_state
        forward(long_ids()[:, :9], ones[:, :9])
        assert torch.equal(forward(long_ids(), ones).last_hidden_state, before)
    with torch.no_grad():  # without, it does: or the test shows nothing
        big_bird(long_ids()[:, :9])
        assert not torch.equal(big_bird(long_ids()).last_hidden_state, before)


def test_weights_that_a_forward_rescales_are_put_back():
    config = RwkvConfig(
        vocab_size=99, hidden_size=16, num_hidden_layers=4, rescale_every=2, context_length=64
    )
    model = RwkvModel(config).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad(), unchanged(model) as changes:
        model(torch.tensor([[1, 2, 3]]))
        inside = model.state_dict()
        assert any(not torch.equal(inside[name], before[name]) for name in before)
    assert changes.found
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert not model.layers_are_rescaled


def test_random_numbers_go_on():
    config = ReformerConfig(
        attn_layers=["lsh"],
        hidden_size=16,
        num_attention_heads=2,
        attention_head_size=8,
        feed_forward_size=16,
        vocab_size=99,
        axial_pos_embds=False,
        lsh_attn_chunk_length=4,
        num_buckets=2,
        hash_seed=None,
    )
    model = ReformerModel(config).eval()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    architecture(model)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert states[2] == random.getstate()


class Restless(nn.Module):
    """Changes itself in every way there is."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.zeros(()))
        self.part = nn.Linear(3, 3)
        self.kept = {"last": None}
        self.listed = [1]

    def forward(self, x):
        self.weight.data.mul_(2)
        self.seen += 1
        self.part = nn.Identity()
        self.kept["last"] = x
        self.listed.append(x)
        self.fresh = 3
        random.random()
        np.random.rand()
        return x


def test_every_kind_of_change_is_put_back():
    model = Restless()
    part = model.part
    with unchanged(model) as changes:
        model(torch.rand(2, 3))
        model(torch.rand(2, 3))
    assert changes.found
    assert torch.equal(model.weight, torch.ones(3))
    assert model.seen == 0
    assert model.part is part
    assert (model.kept, model.listed, hasattr(model, "fresh")) == ({"last": None}, [1], False)


def test_it_is_put_back_when_the_forward_raises():
    model = Restless()
    model.register_forward_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError), unchanged(model):
        model(torch.rand(2, 3))
    assert torch.equal(model.weight, torch.ones(3))


def test_most_models_do_not_change():
    for family in ("bert", "gpt2", "llama", "t5"):
        model = tiny_model(family)
        model = model.get_encoder() if family == "t5" else model
        assert not Forward(model)._changes
