"""What a stranger's package looks like once it is installed: the code of CONTRIBUTING.md."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(language: str) -> list[str]:
    """The pieces of code of the page."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def install(folder: Path) -> None:
    """Put the analysis of the page into a folder of the search path, as pip would."""
    project = tomllib.loads(blocks("toml")[0])["project"]
    about = folder / f"norm_share-{project['version']}.dist-info"
    about.mkdir()
    (folder / "norm_share.py").write_text(blocks("python")[0])
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        f"Summary: {project['description']}\n"
    )
    (points,) = project["entry-points"].items()
    lines = [f"{name} = {target}" for name, target in points[1].items()]
    (about / "entry_points.txt").write_text("\n".join([f"[{points[0]}]", *lines, ""]))
