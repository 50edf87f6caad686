"""What the pages say one may type is what the command line takes."""

import re
import shlex
from pathlib import Path

import pytest
from outdim.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """Every whole `outdim ...` in blocks of shell code."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [re.sub(r"^torchrun .* -m ", "", line) for line in lines if "..." not in line]
    return [line for line in found if line.startswith("outdim ")]


def test_there_are_commands_to_be_checked() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize("line", commands())
def test_the_command_line_takes_it(line, capsys) -> None:
    words = shlex.split(line, comments=True)[1:]
    with pytest.raises(SystemExit) as left:
        main([*words, "--print_config"])
    assert left.value.code == 0, capsys.readouterr().err
    assert "output:" in capsys.readouterr().out


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)
