"""Small files that hold very much: what reading them takes stays under a gigabyte."""

import gzip
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc"),
]
MB = 1 << 20
# Reads as counting does, two blocks ahead. The peak is that of the process, which is a fresh one;
# ru_maxrss would be that of its parent, where it is higher.
PROGRAM = """
import re, sys
from pathlib import Path
from outdim.corpus import Accounting, open_corpus
from outdim.corpus.prefetch import prefetch
corpus, account = open_corpus(sys.argv[1], on_error="skip"), Accounting()
for unit in corpus.units:
    for block in prefetch(corpus.blocks(unit, account)):
        pass
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(account.documents, account.bytes, account.skipped.total(), int(peak) // 1024)
"""


def read(path: Path) -> tuple[int, int, int, int]:
    """Documents, their bytes, rows left out, and the peak of memory in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True
    )
    documents, size, skipped, peak = map(int, done.stdout.split())
    return documents, size, skipped, peak


def zst(path: Path, piece: bytes, times: int) -> Path:
    packer = zstandard.ZstdCompressor().compressobj()
    with path.open("wb") as file:
        for _ in range(times):
            file.write(packer.compress(piece))
        file.write(packer.flush())
    return path


def gz(path: Path, piece: bytes, times: int) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(times):
            file.write(piece)
    return path


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def parquet(path: Path, texts: list[str]) -> Path:
    pq.write_table(pa.table({"text": texts}), path, compression="zstd")
    return path


def parquet_gz(path: Path) -> Path:
    file = io.BytesIO()
    texts = pa.table({"text": [f"{i}" + "x" * 50_000 for i in range(12_000)]})
    pq.write_table(texts, file, compression=None, use_dictionary=False)
    path.write_bytes(gzip.compress(file.getvalue(), 1))
    return path


def arrow(path: Path) -> Path:
    texts = pa.array(["x" * MB] * 1500).dictionary_encode()
    with pa.ipc.new_stream(path, pa.schema([("text", texts.type)])) as stream:
        stream.write_batch(pa.record_batch([texts], ["text"]))
    return path


Made = tuple[Callable[[Path], Path], int, int, int, float]
# What is made, its documents, their bytes, the rows left out, and the size of the file in MB
BOMBS: dict[str, Made] = {
    "short lines.txt.zst": (lambda p: zst(p, b"a\n" * MB, 150), 150 * MB, 150 * MB, 0, 0.1),
    "blank lines.txt.zst": (lambda p: zst(p, b"\n" * MB, 150), 0, 0, 150 * MB, 0.1),
    "short lines.txt.gz": (lambda p: gz(p, b"a\n" * MB, 100), 100 * MB, 100 * MB, 0, 1),
    "short lines.jsonl.zst": (
        lambda p: zst(p, b'{"text": "a"}\n' * 99_000, 100),
        9_900_000,
        9_900_000,
        0,
        0.1,
    ),
    "one line.txt.zst": (lambda p: zst(p, b"a" * MB, 3000), 0, 0, 1, 0.2),
    "one line.txt.gz": (lambda p: gz(p, b"a" * MB, 1500), 0, 0, 1, 8),
    "one line.jsonl.zst": (lambda p: zst(p, b'{"text": "' + b"a" * MB, 3000), 0, 0, 1, 0.2),
    "one field.csv.zst": (lambda p: zst(p, b'text\n"' + b"a" * MB, 1500), 0, 0, 1500, 0.2),
    "sparse.txt": (lambda p: sparse(p, 3 << 30), 0, 0, 1, 4000),
    "sparse.jsonl": (lambda p: sparse(p, 3 << 30), 0, 0, 1, 4000),
    "dictionary.parquet": (
        # Above 1 MiB pyarrow leaves the dictionary: then it is 1,024 rows to a page, see the docs.
        lambda p: parquet(p, ["x" * 1_000_000] * 2000),
        2000,
        2000 * 1_000_000,
        0,
        0.1,
    ),
    "few values.parquet": (lambda p: parquet(p, ["x"] * 2_000_000), 2_000_000, 2_000_000, 0, 0.1),
    "packed.parquet.gz": (parquet_gz, 12_000, 12_000 * 50_000 + 48_890, 0, 20),
    "dictionary.arrow": (arrow, 1500, 1500 * MB, 0, 2),
}


@pytest.mark.parametrize("name", BOMBS)
def test_peak_of_memory(tmp_path: Path, name: str) -> None:
    make, documents, size, skipped, megabytes = BOMBS[name]
    path = make(tmp_path / name)
    assert path.stat().st_size < megabytes * MB
    *found, peak = read(path)
    assert found == [documents, size, skipped]
    assert peak < 1000


@pytest.mark.parametrize("content", ["a", "é", "👍"])
def test_the_longest_line_that_is_allowed(tmp_path: Path, content: str) -> None:
    line = content * ((64 * MB - 64) // len(content.encode()))
    (tmp_path / "a.txt").write_text(f"{line}\nsecond\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(
        f'{{"text": "{line}"}}\n{{"text": null}}\n{{"text": "second"}}\n', encoding="utf-8"
    )
    size = len(line.encode()) + len("second")
    for name, skipped in (("a.txt", 0), ("a.jsonl", 1)):
        *found, peak = read(tmp_path / name)
        assert found == [2, size, skipped]
        assert peak < 1000
