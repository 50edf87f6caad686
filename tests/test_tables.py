"""Tables as files for people and for Arrow."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outdim.errors import DataError
from outdim.tables import csv_bytes, read_parquet

HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "=cmd|' /C calc'!A0", "a\0b", "\x1b[2J"]


def rows(table: pa.Table) -> list[list[str]]:
    return list(csv.reader(io.StringIO(csv_bytes(table).decode())))


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_no_cell_is_a_formula_and_every_character_can_be_seen(text, kind):
    ((cell,),) = rows(pa.table({"token": pa.array([text]).cast(kind)}))[1:]
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert cell.isprintable()


def test_other_cells_are_as_they_were():
    table = pa.table(
        {
            "token": ["the", "##s", 'say "so"', "a,b", "café", None],
            "r": [-0.5, 1.0, None, 0.1 + 0.2, float("nan"), 1e-300],
            "n": [-3, 1, 2, 3, 4, 5],
        }
    )
    found = rows(table)
    assert found[0] == ["token", "r", "n"]
    assert [row[0] for row in found[1:]] == ["the", "##s", 'say "so"', "a,b", "café", ""]
    assert float(found[1][1]) == -0.5  # a number is no formula
    assert float(found[4][1]) == 0.1 + 0.2
    assert found[1][2] == "-3"


def test_headers_are_safe_too():
    assert rows(pa.table({"=x": [1]}))[0] == ["'=x"]


def test_parquet_of_any_name_is_read_and_a_broken_one_is_a_data_error(tmp_path):
    path = Path(os.fsdecode(bytes(tmp_path) + b"/\xff.parquet"))
    with path.open("wb") as file:
        pq.write_table(pa.table({"a": [1]}), file)
    assert read_parquet(path)["a"].to_pylist() == [1]
    sound = path.read_bytes()
    for broken in (b"", sound[:-1], sound[:20], b"x" * 100):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="not a readable parquet file"):
            read_parquet(path)
    path.unlink()
    with pytest.raises(DataError, match="not a readable parquet file"):
        read_parquet(path)


THREADS = """
import os, sys
from pathlib import Path
import pyarrow.json, pyarrow.parquet
from outdim.corpus import Accounting, open_corpus
from outdim.tables import read_parquet
before = len(os.listdir("/proc/self/task"))
path, texts = sys.argv[1:]
assert read_parquet(Path(path)).num_rows == 70_000
corpus = open_corpus(texts)
assert sum(len(b) for unit in corpus.units for b in corpus.blocks(unit, Accounting())) == 70_000
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_arrow_reads_a_file_of_python_in_this_thread_alone(tmp_path, kind):
    # One of its own that lets go of the file while Python ends aborts the process: 32 of 300
    # processes that called pq.read_table(file) and ended, on a machine that was busy.
    table = pa.table({"text": [f"text {i}" for i in range(70_000)]})
    path, texts = tmp_path / "a.parquet", tmp_path / f"texts.{kind}"
    pq.write_table(table, path, row_group_size=7_000)
    if kind == "parquet":
        texts.write_bytes(path.read_bytes())
    else:
        texts.write_text("".join(f'{{"text": "text {i}"}}\n' for i in range(70_000)))
    done = subprocess.run(
        [sys.executable, "-c", THREADS, path, texts], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n", done.stderr
