"""Which files are read: each once, none silently left out, and no metadata."""

import json
import os
from pathlib import Path

import datasets
import pytest
from corpus_helpers import account, read
from outdim.corpus import open_corpus
from outdim.errors import DataError


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")
    return path


class TestFolders:
    def test_linked_folders_and_files_are_entered(self, tmp_path: Path) -> None:
        text(tmp_path / "data/a.txt", "here")
        text(tmp_path / "elsewhere/deep/b.txt", "linked folder")
        text(tmp_path / "other/c.txt", "linked file")
        (tmp_path / "data/more").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "data/z.txt").symlink_to(tmp_path / "other/c.txt")
        assert read(open_corpus(tmp_path / "data")) == ["here", "linked folder", "linked file"]
        assert len(read(open_corpus(str(tmp_path / "data/*")))) == 3

    def test_links_that_lead_back_end(self, tmp_path: Path) -> None:
        text(tmp_path / "data/a.txt", "one")
        text(tmp_path / "data/deep/b.txt", "two")
        (tmp_path / "data/deep/up").symlink_to(tmp_path / "data")
        (tmp_path / "data/self").symlink_to(tmp_path / "data")
        (tmp_path / "data/again").symlink_to(tmp_path / "data/deep")
        assert sorted(read(open_corpus(tmp_path / "data"))) == ["one", "two"]

    def test_hidden_files_and_folders_are_not_read(self, tmp_path: Path) -> None:
        text(tmp_path / "a.txt", "seen")
        for hidden in (
            ".b.txt",
            ".ipynb_checkpoints/a-checkpoint.txt",
            "._x.parquet",
            ".git/c.txt",
        ):
            text(tmp_path / hidden, "hidden")
        assert read(open_corpus(tmp_path)) == ["seen"]
        assert read(open_corpus(tmp_path / ".b.txt")) == ["hidden"]  # by its name it is
        assert read(open_corpus(tmp_path / ".git")) == ["hidden"]

    def test_a_folder_without_text_says_what_is_read(self, tmp_path: Path) -> None:
        text(tmp_path / "notes.md", "none")
        with pytest.raises(DataError, match=r"no text in here: expected \.txt, \.jsonl, \.parquet"):
            open_corpus(tmp_path)

    def test_a_folder_that_cannot_be_listed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text(tmp_path / "a.txt", "one")
        text(tmp_path / "locked/b.txt", "two")
        scan = os.scandir

        def refuse(path: str) -> object:  # root may list every folder
            if str(path).endswith("locked"):
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(DataError, match="locked: Permission denied"):
            open_corpus(tmp_path)
        corpus = open_corpus(tmp_path, on_error="skip")
        assert read(corpus) == ["one"]
        assert corpus.unreadable.skipped == {"unreadable folder": 1}


class TestOneFile:
    @pytest.mark.parametrize("again", ["./a.txt", "link.txt", "hard.txt", "sub/../a.txt"])
    def test_by_two_paths_counts_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        path = text(tmp_path / "a.txt", "once")
        (tmp_path / "sub").mkdir()
        (tmp_path / "link.txt").symlink_to(path)
        (tmp_path / "hard.txt").hardlink_to(path)
        assert read(open_corpus(["a.txt", again])) == ["once"]
        assert read(open_corpus([str(path), "*.txt"])) == ["once"]
        assert [unit.path for unit in open_corpus([again, "a.txt"]).units] == [again]

    @pytest.mark.parametrize("kind", ["dangling", "pipe", "device", "loop", "folder"])
    def test_that_is_none_is_named_or_skipped(self, tmp_path: Path, kind: str) -> None:
        text(tmp_path / "a.txt", "one")
        odd = tmp_path / "odd.txt"
        if kind == "dangling":
            odd.symlink_to(tmp_path / "gone.txt")
        elif kind == "pipe":
            os.mkfifo(odd)
        elif kind == "device":
            odd.symlink_to("/dev/zero")
        elif kind == "loop":
            odd.symlink_to(odd)
        else:
            odd = tmp_path / "more"
            odd.symlink_to(tmp_path / "gone")  # what it led to may have been a folder
        for source in (tmp_path, odd, [tmp_path / "a.txt", odd], str(tmp_path / "*")):
            with pytest.raises(DataError, match=f"{odd.name}: "):
                open_corpus(source)
        corpus = open_corpus(tmp_path, on_error="skip")
        assert read(corpus) == ["one"]
        assert corpus.unreadable.skipped == {"unreadable file": 1}
        assert odd.name in corpus.unreadable.places[0]

    def test_that_may_not_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text(tmp_path / "a.txt", "one")
        text(tmp_path / "b.txt", "two")
        real = os.open

        def refuse(path: str, flags: int) -> int:  # root may read every file
            if str(path).endswith("b.txt"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, flags)

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(DataError, match=r"b\.txt: Permission denied"):
            open_corpus(tmp_path)
        assert read(open_corpus(tmp_path, on_error="skip")) == ["one"]

    def test_whose_name_is_not_utf8(self, tmp_path: Path) -> None:
        folder = os.fsencode(tmp_path) + b"/caf\xe9"
        os.mkdir(folder)
        for name, content in (
            (b"na\xefve.txt", b"one\n\xff\n"),
            (b"\xff.jsonl", b'{"text": "two"}'),
        ):
            Path(os.fsdecode(folder + b"/" + name)).write_bytes(content)
        pq_path = Path(os.fsdecode(folder + b"/\xfe.parquet"))
        datasets.Dataset.from_dict({"text": ["three"]}).to_parquet(tmp_path / "a.parquet")
        (tmp_path / "a.parquet").rename(pq_path)
        with pytest.raises(DataError, match="caf") as raised:
            read(open_corpus(os.fsdecode(folder)))
        assert r"na\udcefve.txt: line 2: invalid UTF-8" in str(raised.value).encode().decode()
        corpus = open_corpus(os.fsdecode(folder), on_error="skip")
        assert sorted(read(corpus)) == ["one", "three", "two"]
        account(corpus).places[0].encode()  # for people, and written as JSON writes it:
        stored = json.loads(json.dumps([unit.as_dict() for unit in corpus.units]))
        assert [unit["path"] for unit in stored] == [unit.path for unit in corpus.units]
        assert json.loads(json.dumps(corpus.files())) == corpus.files()

    def test_that_is_missing_is_an_error_even_so(self, tmp_path: Path) -> None:
        text(tmp_path / "a.txt", "one")
        with pytest.raises(DataError, match=r"b\.txt: no such file"):
            open_corpus([tmp_path / "a.txt", tmp_path / "b.txt"], on_error="skip")


class TestSavedDatasets:
    def test_are_read_without_metadata_and_caches(self, tmp_path: Path) -> None:
        data = datasets.Dataset.from_dict({"id": range(4), "text": ["a", "b", None, "d"]})
        data.save_to_disk(tmp_path / "saved", num_shards=2)
        data.select([0]).to_json(tmp_path / "saved/notes.jsonl")
        other = datasets.Dataset.from_dict({"text": ["cached"]})
        other.save_to_disk(tmp_path / "other")
        (tmp_path / "other/data-00000-of-00001.arrow").rename(tmp_path / "saved/cache-1.arrow")
        assert read(open_corpus(tmp_path / "saved")) == ["a", "b", "d"]
        assert read(open_corpus(str(tmp_path / "saved/data*"))) == ["a", "b", "d"]

    def test_with_splits_are_read_whole_or_by_their_folders(self, tmp_path: Path) -> None:
        splits = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
        datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
        assert read(open_corpus(tmp_path / "saved")) == ["test", "train"]
        assert read(open_corpus(tmp_path / "saved/train")) == ["train"]
        assert read(open_corpus(str(tmp_path / "saved/*"))) == ["test", "train"]

    def test_that_select_rows_are_refused(self, tmp_path: Path) -> None:
        datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(tmp_path / "saved")
        state = tmp_path / "saved/state.json"
        old = json.loads(state.read_text())
        state.write_text(json.dumps({**old, "_indices_data_files": [{"filename": "i.arrow"}]}))
        with pytest.raises(DataError, match="a selection of its rows; save it anew"):
            open_corpus(tmp_path / "saved")
