"""How long sequences may be."""

import pytest
from outdim.errors import ArgumentError
from outdim.models import sequence_length
from tiny import tiny_model
from transformers import IBertConfig, IBertModel, MambaConfig, MambaModel, MptConfig, MptModel


def test_the_positions_of_the_model():
    assert sequence_length(tiny_model("bert"), None) == 64
    assert sequence_length(tiny_model("gpt2"), None) == 64
    assert sequence_length(tiny_model("roberta"), None) == 64  # of 66, numbered from 2
    assert sequence_length(tiny_model("bert", max_position_embeddings=2048), None) == 512
    assert sequence_length(tiny_model("bert", max_position_embeddings=2048), 2048) == 2048
    with pytest.raises(ArgumentError, match=r"expected 3 to 64, the number of positions .* got 65"):
        sequence_length(tiny_model("bert"), 65)
    with pytest.raises(ArgumentError, match=r"expected 3 to 64, .* got 2"):
        sequence_length(tiny_model("bert"), 2)


@pytest.mark.parametrize("family", ["xlnet", "bloom"])
def test_models_without_a_limit(family):
    assert sequence_length(tiny_model(family), None) == 512
    assert sequence_length(tiny_model(family), 5000) == 5000
    with pytest.raises(ArgumentError, match="expected 3 up, got -1"):
        sequence_length(tiny_model(family), -1)


def test_other_names_and_other_tables():
    small = {"vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 1}
    assert sequence_length(MambaModel(MambaConfig(**small)), 9000) == 9000
    mpt = MptModel(MptConfig(d_model=16, n_heads=2, n_layers=1, vocab_size=99, max_seq_len=100))
    assert sequence_length(mpt, None) == 100
    with pytest.raises(ArgumentError, match="expected 3 to 100"):
        sequence_length(mpt, 101)
    config = IBertConfig(
        **small, num_attention_heads=2, intermediate_size=16, max_position_embeddings=66
    )
    assert sequence_length(IBertModel(config), None) == 64


@pytest.mark.parametrize("unlimited", [None, -1, 0])
def test_no_limit_is_written_in_many_ways(unlimited):
    model = tiny_model("llama")
    vars(model.config)["max_position_embeddings"] = unlimited  # past the checks of transformers
    assert sequence_length(model, 5000) == 5000
