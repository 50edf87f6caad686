"""Runs on a small file system that is full at some time, and goes on once there is room.

python disk_full.py TEXT MODEL FOLDER COUNT, in a mount namespace of its own (`unshare -r -m`).
Prints a JSON object a size; tests/run/test_disk_full.py says what must be in them.
"""

import contextlib
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

from outdim import cli
from outdim.errors import DataError
from outdim.run.plan import Study
from outdim.run.store import StateStore
from outdim.run.worker import Worker

_PAGE = 4096  # tmpfs gives room by pages


def main() -> None:
    text, model, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    command = ["correlate", text, "--model", model, "--output", str(folder / "run")]
    # Ranks of one dimension: states of more outweigh the report, which then always fits.
    command += ["--shard-bytes", "1024", "--max-length", "24", "--token-budget", "256"]
    command += ["--workers", "1", "--device", "cpu", "--detect.permutations", "10", "--rank", "0"]
    whole = attempt(folder, command, 1 << 30)
    assert whole["code"] == 0, whole
    expected = whole["files"]
    print(json.dumps({**whole, "size": None}), flush=True)
    used = sum(map(pages, Path(folder / "run").rglob("*")))
    report = pages(folder / "run/report.html")
    figures = sum(map(pages, Path(folder / "run/figures").iterdir()))
    unmount(folder)
    results = used - report - figures
    for size in sizes(int(sys.argv[4]), results, figures, report):
        first = attempt(folder, command, size * _PAGE)
        missing = lacking(folder / "run")
        subprocess.run(["mount", "-o", "remount,size=1g", folder], check=True)
        second = attempt(folder, command, None)
        unmount(folder)
        found = {
            **{name: first[name] for name in ("code", "said")},
            "size": size * _PAGE,
            "missing": missing,
            "computed": second["computed"],
            "second": second["code"],
            "same": second["files"] == expected,
        }
        print(json.dumps(found), flush=True)


def sizes(count: int, results: int, figures: int, report: int) -> list[int]:
    """Pages: half of the sizes end before the report, a quarter in its figures, one in the page."""
    half, quarter = count // 2, count // 4
    before = [2 + results * i // half for i in range(half)]
    before += [results + 1 + figures * i // quarter for i in range(quarter)]
    return before + [results + figures + 1 + report * i // quarter for i in range(quarter)]


def attempt(folder: Path, command: list[str], size: int | None) -> dict[str, object]:
    """Give the command, on a new file system of so many bytes."""
    if size is not None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    computed: list[tuple[str, int]] = []
    compute = Worker.compute

    def counting(self, steps, shard, progress):
        compute(self, steps, shard, progress)
        computed.extend((step, shard) for step in steps)

    said = io.StringIO()
    Worker.compute = counting
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main(command)
    finally:
        Worker.compute = compute
    run = folder / "run"
    names = ("*.parquet", "*.json", "state/*/*", "plan/*", "figures/*")
    files = {path for name in names for path in run.glob(name) if path.name != "manifest.json"}
    digests = {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }
    return {"code": code, "said": said.getvalue(), "computed": computed, "files": digests}


def lacking(run: Path) -> list[tuple[str, int]]:
    """The shards of each step that are not committed."""
    steps = {"count": 4, "detect": 1, "correlate": 4}
    try:
        study = Study(run)
        entries = study.entries()
    except (OSError, DataError):
        entries = {}
    return [
        (step, shard)
        for step, number in steps.items()
        for shard in (
            StateStore(run, entries[step]).missing() if step in entries else range(number)
        )
    ]


def pages(path: Path) -> int:
    return 1 if path.is_dir() else -(-path.stat().st_size // _PAGE)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", folder], check=True)


if __name__ == "__main__":
    main()
