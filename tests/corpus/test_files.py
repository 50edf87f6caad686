"""Text that changes while it is read is an error, whatever it changes to."""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from outdim.corpus import Accounting, Corpus, open_corpus
from outdim.errors import DataError

ROWS = [f"document {i} {i * 7919 % 100003}" for i in range(2000)]
OTHER = [f"something {i} else" for i in range(2000)]


def write(path: Path, rows: list[str]) -> Path:
    table = datasets.Dataset.from_dict({"text": rows})
    name = path.name.removesuffix(".gz")
    plain = path.with_name(f"plain-{name}")
    if name.endswith("txt"):
        plain.write_text("".join(f"{row}\n" for row in rows))
    elif name.endswith("jsonl"):
        plain.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    elif name.endswith("csv"):
        plain.write_text("\n".join(["text", *rows]))
    elif name.endswith("parquet"):
        table.to_parquet(plain, batch_size=500)
    else:
        table.save_to_disk(path.with_suffix(".saved"))
        shutil.move(path.with_suffix(".saved") / "data-00000-of-00001.arrow", plain)
    data = plain.read_bytes()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    plain.unlink()
    return path


def replace(path: Path) -> None:
    other = write(path.with_name(f"other-{path.name}"), OTHER)
    os.replace(other, path)


def overwrite(path: Path) -> None:
    data = write(path.with_name(f"other-{path.name}"), OTHER).read_bytes()
    with path.open("r+b") as file:  # in place: the same file, and shorter
        file.write(data)
        file.truncate()


def restore(path: Path) -> None:
    """Replaced, and put back with size and time of modification as they were."""
    about, data = path.stat(), path.read_bytes()
    replace(path)
    path.write_bytes(data)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"and more\n" * 100)


CHANGES: dict[str, Callable[[Path], None]] = {
    "replaced": replace,
    "overwritten": overwrite,
    "replaced and restored": restore,
    "cut": cut,
    "appended": append,
    "emptied": lambda path: os.truncate(path, 0),
    "removed": lambda path: path.unlink(),
}
KINDS = ["txt", "txt.gz", "jsonl", "jsonl.gz", "csv", "parquet", "parquet.gz", "arrow"]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
class TestChanges:
    @pytest.mark.parametrize("on_error", ["fail", "skip"])
    def test_before_a_unit_is_read(
        self, tmp_path: Path, kind: str, change: str, on_error: str
    ) -> None:
        path = write(tmp_path / f"a.{kind}", ROWS)
        corpus = open_corpus(path, on_error=on_error)
        CHANGES[change](path)
        with pytest.raises(DataError, match=r"it was changed or replaced|no such file"):
            list(corpus.read(corpus.units[0], Accounting()))

    def test_while_a_unit_is_read(self, tmp_path: Path, kind: str, change: str) -> None:
        path = write(tmp_path / f"a.{kind}", ROWS)
        corpus = open_corpus(path, on_error="skip")
        documents = corpus.read(corpus.units[-1], Accounting())
        next(documents)
        CHANGES[change](path)
        with pytest.raises(DataError, match=r"it was changed or replaced|no such file"):
            list(documents)

    def test_before_it_is_hashed(self, tmp_path: Path, kind: str, change: str) -> None:
        path = write(tmp_path / f"a.{kind}", ROWS)
        corpus = open_corpus(path)
        CHANGES[change](path)
        with pytest.raises(DataError, match=r"it was changed or replaced|no such file"):
            corpus.files()


def count(corpus: Corpus) -> int:
    return sum(1 for unit in corpus.units for _ in corpus.read(unit, Accounting()))


@pytest.mark.parametrize("kind", KINDS)
def test_reading_changes_nothing(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"a.{kind}", ROWS)
    corpus = open_corpus(path)
    assert count(corpus) == count(corpus) == 2000
    assert corpus.files() == corpus.files()


def test_a_unit_that_ends_early_whatever_its_stamp_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.txt", ROWS)
    corpus = open_corpus(path, on_error="skip")
    monkeypatch.setattr("outdim.corpus.corpus.check_unchanged", lambda path, stamp: None)
    cut(path)  # as a file system may show it to another machine for a while
    with pytest.raises(DataError, match=r"it ends at byte \d+, not \d+"):
        count(corpus)


def test_reading_may_be_left_off(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", ROWS)
    corpus = open_corpus(path)
    documents = corpus.read(corpus.units[0], Accounting())
    next(documents)
    append(path)
    documents.close()  # type: ignore[attr-defined]


def test_units_of_other_files_are_refused(tmp_path: Path) -> None:
    first, second = (open_corpus(write(tmp_path / f"{name}.txt", ROWS)) for name in "ab")
    with pytest.raises(DataError, match="it is not, or no longer, a file of this corpus"):
        list(first.read(second.units[0], Accounting()))
