"""What a stranger's package looks like once it is installed: the example, and nothing of outdim."""

import shutil
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "norm_share.py"
_METADATA = """\
Metadata-Version: 2.1
Name: norm-share
Version: 1.0
Summary: Measure how much of a token's squared norm sits in its largest dimensions.
"""
_ENTRY_POINTS = "[outdim.steps]\nnorm-share = norm_share:NormShare\n"


def install(folder: Path) -> None:
    """Put the example's package into a folder of the search path, as pip would."""
    shutil.copy(EXAMPLE, folder)
    about = folder / "norm_share-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(_METADATA)
    (about / "entry_points.txt").write_text(_ENTRY_POINTS)
