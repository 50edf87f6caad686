"""A tiny model and a corpus on disk, and runs over them."""

import random
from pathlib import Path

import pytest
from outdim.options import CorrelateOptions
from outdim.run import commands
from run_helpers import replaced, results
from tiny import tiny_model, tiny_tokenizer


@pytest.fixture(autouse=True)
def no_report(request, monkeypatch):
    """The page takes seconds and is no matter of most tests here."""
    if "reader" not in request.node.name:
        monkeypatch.setattr(commands, "_report", lambda run: None)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory) -> Path:
    """A tiny BERT with its tokenizer, saved as a user would have it."""
    path = tmp_path_factory.mktemp("tiny-bert")
    tiny_model(
        "bert", num_hidden_layers=2, hidden_size=16, intermediate_size=16, outliers=(3,)
    ).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """60 documents, one a line, Zipf words: four shards of 1 KB."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    rng = random.Random(0)
    words = [f"w{min(int(rng.paretovariate(0.9)), 90)}" for _ in range(4000)]
    lines = [" ".join(rng.sample(words, rng.randint(1, 40))) for _ in range(60)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def base_options(tiny_directory) -> CorrelateOptions:
    return CorrelateOptions(
        model=str(tiny_directory),
        output=Path("replaced by every test"),
        max_length=24,
        token_budget=256,
        shard_bytes=1024,
        workers=1,
        permutations=10,
        device="cpu",
    )


@pytest.fixture
def options(base_options, tmp_path) -> CorrelateOptions:
    return replaced(base_options, output=tmp_path / "run")


@pytest.fixture(scope="session")
def undisturbed(corpus, base_options, tmp_path_factory) -> dict[str, bytes]:
    """The bytes of a run that nothing happened to."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "_report", lambda run: None)
        return results(commands.correlate([str(corpus)], replaced(base_options, output=output)))
