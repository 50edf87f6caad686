"""What tests of analyses and of their results share, and leave as it is."""

import pytest
from outdim.analysis.lifecycle import lifecycle
from planted_lives import DIM, planted, write_text
from tiny import tiny_model, tiny_texts, tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def llama():
    return tiny_model("llama", head="CausalLM")


@pytest.fixture(scope="session")
def masked_bert():
    return tiny_model("bert", head="MaskedLM", outliers=(3,))


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Of which predictions are told."""
    return tiny_texts(60, 60)


@pytest.fixture(scope="session")
def few(texts) -> list[str]:
    """For what is computed one document at a time."""
    return texts[:15]


@pytest.fixture(scope="session")
def text_of_lives(tmp_path_factory):
    """A file that has the word of `planted_lives`."""
    return write_text(tmp_path_factory.mktemp("lives") / "text.txt")


@pytest.fixture(scope="session")
def planted_life(text_of_lives):
    """A dimension that is written in one layer and taken away in another, and a control."""
    return lifecycle(planted("mlp", erased=4), tiny_tokenizer(), text_of_lives, dims=[DIM, 5])
