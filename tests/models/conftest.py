"""One thread: the tensors here are tiny, and threads that wait for each other double the time."""

from importlib import import_module
from weakref import WeakKeyDictionary

import pytest
import torch
from outdim.models import architecture
from transformers import BigBirdConfig, BigBirdModel

KNOWN: WeakKeyDictionary = WeakKeyDictionary()


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def found_once():
    """Edits and observers look for the architecture of a model once: 25 ms, often for one forward.

    For tests that are not about finding it. What a test calls itself is not replaced.
    """

    def once(model):
        if model not in KNOWN:
            KNOWN[model] = architecture(model)
        return KNOWN[model]

    with pytest.MonkeyPatch.context() as patch:
        for name in ("ablate", "observe", "screening"):
            patch.setattr(import_module(f"outdim.models.{name}"), "architecture", once)
        yield


@pytest.fixture
def big_bird():
    """Sequences of up to 56 tokens make it take full attention."""
    torch.manual_seed(0)
    config = BigBirdConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=99,
        max_position_embeddings=256,
        block_size=8,
        num_random_blocks=1,
    )
    return BigBirdModel(config).eval()
