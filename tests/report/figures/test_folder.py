"""The folder of figures holds those of the reports there are, and what is not ours."""

import pytest
from outdim.files import json_bytes
from outdim.report.figures.folder import NAME, keep_only, note


@pytest.fixture
def write(tmp_path):
    def write(page: str, *ids: str) -> set[str]:
        note(tmp_path, page, set(ids))
        for id_ in ids:
            (tmp_path / f"{id_}.svg").write_text("x")
            (tmp_path / f"{id_}.csv").write_text("x")
        keep_only(tmp_path, page, set(ids))
        return {path.name for path in tmp_path.iterdir()}

    return write


def files(*ids: str) -> set[str]:
    return {NAME, *(f"{id_}.{kind}" for id_ in ids for kind in ("svg", "csv"))}


def test_what_a_report_has_no_more_is_removed_and_nothing_else(tmp_path, write):
    (tmp_path / "own.svg").write_text("of the user")
    (tmp_path / "d.svg").write_text("of the user, until a report writes it")
    assert write("report.html", "a", "b", "c") == files("a", "b", "c") | {"own.svg", "d.svg"}
    assert write("report.html", "b", "d") == files("b", "d") | {"own.svg"}
    assert write("report.html") == {NAME, "own.svg"}


def test_pages_that_share_a_folder_keep_theirs(write):
    write("one.html", "a", "b")
    assert write("two.html", "b", "c") == files("a", "b", "c")
    assert write("one.html", "a") == files("a", "b", "c")
    assert write("two.html", "c") == files("a", "c")


def test_a_report_that_was_broken_off_leaves_nothing_for_ever(tmp_path, write):
    write("report.html", "a")
    note(tmp_path, "report.html", {"b", "c"})
    (tmp_path / "b.svg").write_text("x")  # and killed
    assert write("report.html", "a") == files("a")


@pytest.mark.parametrize("broken", [b"", b"{}", b"[1]", json_bytes({"others": 1})])
def test_where_the_list_is_broken_nothing_is_removed(tmp_path, write, broken):
    write("report.html", "a", "b")
    (tmp_path / NAME).write_bytes(broken)
    assert write("report.html", "b") == files("a", "b")


def test_nothing_outside_of_the_folder_is_removed(tmp_path, write):
    (tmp_path.parent / "a.svg").write_text("x")
    write("report.html", "b")
    (tmp_path / NAME).write_bytes(json_bytes({"pages": {"report.html": ["../a", "b"]}}))
    write("report.html", "c")
    assert (tmp_path.parent / "a.svg").exists()
    assert not (tmp_path / "b.svg").exists()
