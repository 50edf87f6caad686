"""Small files that hold very much: what counting them takes stays under a gigabyte."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc"),
]
MB = 1 << 20
PEAK_MIB = 1000


@pytest.fixture(scope="module")
def bombs(programs):
    return programs("bombs")


NAMES = [
    "short lines.txt.zst", "blank lines.txt.zst", "short lines.txt.gz", "short lines.jsonl.zst",
    "one line.txt.zst", "one line.txt.gz", "one line.jsonl.zst", "one field.csv.zst", "sparse.txt",
    "sparse.jsonl", "dictionary.parquet", "few values.parquet", "prefixes.parquet", "pages.parquet",
    "larger pages.parquet", "packed.parquet.gz", "chats.parquet", "one chat.parquet",
    "dictionary.arrow", "encoded.txt",
]  # fmt: skip


def test_all_are_tried(bombs) -> None:
    assert list(bombs.BOMBS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_peak_of_memory_of_the_command(bombs, tmp_path: Path, tiny_directory, name: str) -> None:
    expected = bombs.BOMBS[name]
    found = bombs.measure(name, tmp_path, tiny_directory)
    assert found.code == 0, found.said
    if not name.startswith("sparse"):
        assert found.file_bytes < 51 * MB
    assert (found.documents, found.size) == (expected.documents, expected.size)
    assert found.skipped == expected.skipped
    assert found.peak_mib < PEAK_MIB
    print(f"{name}: {found.peak_mib} MiB")


# Reads as counting does, two blocks ahead.
READING = """
import sys
from outdim.corpus import Accounting, open_corpus
from outdim.corpus.prefetch import prefetch
corpus, account = open_corpus(sys.argv[1], on_error="skip"), Accounting()
for unit in corpus.units:
    for block in prefetch(corpus.blocks(unit, account)):
        pass
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
print(account.documents, account.bytes, account.skipped.total(), peak // 1024)
"""


@pytest.mark.parametrize("content", ["a", "é", "👍"])
def test_the_longest_line_that_is_allowed(tmp_path: Path, content: str) -> None:
    line = content * ((64 * MB - 64) // len(content.encode()))
    (tmp_path / "a.txt").write_text(f"{line}\nsecond\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(
        f'{{"text": "{line}"}}\n{{"text": null}}\n{{"text": "second"}}\n', encoding="utf-8"
    )
    size = len(line.encode()) + len("second")
    for name, skipped in (("a.txt", 0), ("a.jsonl", 1)):
        done = subprocess.run(
            [sys.executable, "-c", READING, str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=True,
        )
        *found, peak = map(int, done.stdout.split())
        assert found == [2, size, skipped]
        assert peak < PEAK_MIB
