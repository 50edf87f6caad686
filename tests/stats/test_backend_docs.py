"""The page for libraries runs, and what they import is light."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def test_examples_run(capsys):
    pytest.importorskip("torchmetrics")
    text = (ROOT / "docs" / "backend.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 9
    names = {}
    torch.manual_seed(0)
    for block in blocks:
        exec(compile(block, "docs/backend.md", "exec"), names)
    assert "torch.Size([768])" in capsys.readouterr().out


def test_import_costs_torch_and_numpy_only():
    code = (
        "import sys, torch, numpy\n"
        "before = set(sys.modules)\n"
        "import outdim.ops, outdim.stats\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = set(done.stdout.split())
    assert ours <= {"outdim", *sys.stdlib_module_names, "torch", "numpy"}, ours
