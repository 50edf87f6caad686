"""Options of runs over a tiny model and corpus."""

from pathlib import Path

import pytest
from run_helpers import Options, give, replaced, results, small, without_report
from tiny import tiny_model, tiny_tokenizer


@pytest.fixture(autouse=True)
def no_report():
    """Of commands that tests here give in words; `run_helpers.give` says itself."""
    with without_report():
        yield


def saved_llama(path: Path, **config: int) -> Path:
    """A language model of two layers with its tokenizer, saved as a user would have it."""
    tiny_model("llama", head="CausalLM", num_hidden_layers=2, **config).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> Path:
    return saved_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def narrow_llama(tmp_path_factory) -> Path:
    """For runs that try every dimension."""
    path = tmp_path_factory.mktemp("narrow-llama")
    return saved_llama(path, hidden_size=8, num_attention_heads=2)


@pytest.fixture(scope="session")
def base_options(tiny_directory) -> Options:
    return small(tiny_directory, "replaced by every test", permutations=10)


@pytest.fixture
def options(base_options, tmp_path) -> Options:
    """Of `outdim correlate`."""
    return replaced(base_options, output=tmp_path / "run")


@pytest.fixture
def count_options(tiny_directory, tmp_path) -> Options:
    """Of `outdim count`."""
    return Options(
        output=tmp_path / "counts",
        tokenizer=str(tiny_directory),
        shard_bytes=1024,
        documents=True,
        device="cpu",
    )


@pytest.fixture(scope="session")
def undisturbed(corpus, base_options, tmp_path_factory) -> dict[str, bytes]:
    """The bytes of a run that nothing happened to."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    return results(give("correlate", corpus, replaced(base_options, output=output)))
