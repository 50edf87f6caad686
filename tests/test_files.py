"""Files that appear whole or not at all, and say when they were altered."""

import errno
import os
from pathlib import Path

import pytest
from outdim.errors import BackendError, DataError
from outdim.files import create, json_bytes, read_json, remove_stale, write_bytes, write_json


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def full(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BackendError, match="file: the disk is full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("links", [True, False])
def test_the_first_to_create_a_file_wins(tmp_path, monkeypatch, links):
    def refuse(*args):
        raise OSError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    assert create(tmp_path / "file", b"first")
    assert not create(tmp_path / "file", b"second")
    looked = iter([False, True])  # the file appears after we looked
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda self: next(looked))
        assert not create(tmp_path / "file", b"third")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_process_killed_at_once_leaves_is_removed_when_it_is_old(tmp_path, monkeypatch):
    def killed(*args, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", killed)
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            create(tmp_path / "file", b"first")
    (left,) = tmp_path.iterdir()
    remove_stale(tmp_path)
    assert left.exists()  # its process may be alive
    os.utime(left, (0, 0))
    remove_stale(tmp_path)
    assert not left.exists()


def test_json_comes_back_and_its_bytes_do_not_depend_on_the_order(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"nested": "ü\udcff"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert json_bytes(value) == json_bytes(dict(reversed(value.items())))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"7", b"[]", b'{"a": 1}', b'{"sha256": 1}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_such_json_is_a_data_error(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json: it"):
        read_json(tmp_path / "a.json")


def test_altered_json_is_a_data_error(tmp_path):
    write_json(tmp_path / "a.json", {"tokens": 10})
    path = tmp_path / "a.json"
    path.write_bytes(path.read_bytes().replace(b"10", b"11"))
    with pytest.raises(DataError, match="altered since outdim wrote it"):
        read_json(path)
