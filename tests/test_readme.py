"""What the pages say one may type is what the command line takes."""

import re
import shlex
from pathlib import Path

import pytest
from outdim.analysis.inputs import Inputs
from outdim.cli import main
from outdim.errors import DataError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """Every whole `outdim ...` in blocks of code, fenced or indented."""
    found = []
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        blocks += re.findall(r"^ {4,}outdim .*(?:\n {4,}.*)*", text, re.MULTILINE)
        for block in blocks:
            lines = block.replace("\\\n", " ").splitlines()
            found += [re.sub(r"^torchrun .* -m ", "", line.strip()) for line in lines]
    return [line for line in found if line.startswith("outdim ") and "..." not in line]


def test_there_are_commands_to_be_checked() -> None:
    assert len(commands()) >= 8


class Opened(Exception):  # noqa: N818 - that it comes so far is what is hoped for
    """A model or a tokenizer was about to be opened."""


def opens(self: Inputs) -> None:
    raise Opened


@pytest.mark.parametrize("line", commands())
def test_the_command_line_takes_it(line, capsys, monkeypatch, tmp_path) -> None:
    """It is run, up to where it needs a text, a run or a model: none of them is there."""
    words = shlex.split(line, comments=True)[1:]
    if words[0] in {"demo", "doctor", "bench"}:  # which need none
        words.append("--print_config")
    monkeypatch.chdir(tmp_path)
    for name in ("model", "tokenizer", "about_model"):
        monkeypatch.setattr(Inputs, name, property(opens))
    with pytest.raises((Opened, SystemExit)) as left:
        raise SystemExit(main(words))
    assert getattr(left.value, "code", 0) in (0, DataError.exit_code), capsys.readouterr().err


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)
