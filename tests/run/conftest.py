"""A tiny model and a corpus on disk, and runs over them."""

import random
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_tokenizer

from outdim.options import CorrelateOptions


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory) -> Path:
    """A tiny BERT with its tokenizer, saved as a user would have it."""
    path = tmp_path_factory.mktemp("tiny-bert")
    tiny_model("bert", num_hidden_layers=2, hidden_size=16, intermediate_size=16, outliers=(3,)).save_pretrained(
        path
    )
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """120 documents, one a line, Zipf words: nine shards of 1 KB."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    rng = random.Random(0)
    words = [f"w{min(int(rng.paretovariate(0.9)), 90)}" for _ in range(4000)]
    lines = [" ".join(rng.sample(words, rng.randint(1, 40))) for _ in range(120)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def options(tiny_directory, tmp_path) -> CorrelateOptions:
    return CorrelateOptions(
        model=str(tiny_directory),
        output=tmp_path / "run",
        max_length=24,
        token_budget=256,
        shard_bytes=1024,
        workers=1,
        permutations=10,
        device="cpu",
    )
