"""The examples in the docstrings of ops, stats and integrations."""

import doctest
import importlib
import pkgutil

import outdim.ops
import outdim.stats
import pytest

MODULES = [
    f"{package.__name__}.{found.name}"
    for package in (outdim.ops, outdim.stats)
    for found in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize("name", [*MODULES, "outdim.integrations.torchmetrics"])
def test_docstrings(name):
    if name.endswith("torchmetrics"):
        pytest.importorskip("torchmetrics")
    if name.endswith("_cuda"):
        pytest.skip("covered by the tests for GPUs")
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0
