"""A disk that is full at any time of a run: nothing is lost, and the run goes on to the same bytes.

The report is written as well: an error there names its file.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SIZES = 20


def _may_mount() -> bool:
    """Whether a small file system can be had."""
    if shutil.which("unshare") is None:
        return False
    mounting = ["unshare", "-r", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(mounting, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_at_twenty_sizes(corpus, tiny_directory, tmp_path):
    if not _may_mount():
        pytest.skip("no mount namespace can be had here")
    folder = tmp_path / "small"
    folder.mkdir()
    given = [corpus, tiny_directory, folder, str(SIZES)]
    program = Path(__file__).with_name("disk_full.py")
    done = subprocess.run(
        ["unshare", "-r", "-m", sys.executable, program, *given],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, *trials = map(json.loads, done.stdout.splitlines())
    assert len(trials) == SIZES
    ended_in = []
    for trial in trials:
        print({name: trial[name] for name in ("size", "code", "missing", "said")})
        assert (trial["second"], trial["same"]) == (0, True), trial
        # What was committed stays, and is not computed again.
        assert trial["computed"] == trial["missing"], trial
        assert "Traceback" not in trial["said"]
        if trial["code"] == 0:
            continue
        assert trial["code"] == 3, trial
        assert trial["said"].startswith("outdim correlate: ")
        assert "the disk is full" in trial["said"] or "No space left" in trial["said"]
        assert str(folder / "run") in trial["said"].splitlines()[-1]
        named = [part for part in ("figures/", "report.html", "state/") if part in trial["said"]]
        ended_in.append(named[0] if named else "others")
    assert {"state/", "report.html"} <= set(ended_in), ended_in
