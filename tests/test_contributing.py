"""The code of CONTRIBUTING.md runs; its analysis is the subject of test_newcomer.py."""

import re
import sys
import types

import pyarrow as pa
from newcomer import ROOT, blocks
from outdim.corpus import Accounting, formats, open_corpus


def test_the_analysis_is_the_example() -> None:
    assert blocks("python")[0] == (ROOT / "examples" / "norm_share.py").read_text()


def test_the_format_of_text_reads_what_was_written(tmp_path, monkeypatch) -> None:
    module = types.ModuleType("outdim.corpus.formats.arrow")
    exec(compile(blocks("python")[1], "CONTRIBUTING.md", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(formats._BY_ENDING, "arrow", "arrow")
    documents = [f"document {i} é" if i % 5 else None for i in range(40)]
    table = pa.table({"id": range(40), "text": documents})
    with (
        pa.OSFile(str(tmp_path / "text.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=7)

    account = Accounting()
    corpus = open_corpus(tmp_path / "text.arrow", unit_bytes=300)
    read = [text for unit in corpus.units for text in corpus.read(unit, account)]
    assert len(corpus.units) > 1
    assert read == [text for text in documents if text]
    assert account.skipped == {"null": 8}


def test_every_file_and_folder_that_it_names_is_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    named = {name for name in re.findall(r"`([\w./]+/[\w./]*|\w+\.py)`", page) if "<" not in name}
    homes = [ROOT, ROOT / "python" / "outdim", ROOT / "python" / "outdim" / "ops"]
    lost = [name for name in named if not any((home / name).exists() for home in homes)]
    assert len(named) > 15
    assert not lost
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert (ROOT / target).exists()
