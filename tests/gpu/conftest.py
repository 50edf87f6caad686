"""The device of the tests here, which need one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


class Skipped(pytest.Module):
    """A file of tests without a device: skipped whole, not 1,200 tests one by one."""

    def collect(self) -> Iterator[pytest.Item]:
        raise pytest.skip.Exception("needs a CUDA device")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> Skipped | None:
    if torch.cuda.is_available():
        return None
    return Skipped.from_parent(parent, path=module_path)


@pytest.fixture
def device():
    return torch.device("cuda", torch.cuda.current_device())
