"""What a terminal shows fits its lines, and loses nothing."""

import fcntl
import os
import pty
import struct
import termios

from hypothesis import given
from hypothesis import strategies as st
from outdim.report import summary, terminal_width
from outdim.report.columns import in_columns
from outdim.report.section import Cell, Table
from report.synthetic import make_run

PROSE = "12: 43.8 → 23,353, the feed-forward part adds 23,307 [22,757, 23,858]; 30: 1 → 2"


STARRED = Cell("−0.1", marked=True)
TEXTS = st.sampled_from(["", "1.5", "−0.123 [−1.000, 1.000]", PROSE])


def table(columns, rows, left=1, marks=""):
    return Table("title", "caption", columns, rows, left=left, marks=marks)


def test_what_fits_stays_on_its_line_numbers_right_and_words_left():
    shown = table(["layer", "r", "by"], [["emb", "0.70", "a"], ["1", STARRED, "b"]], marks="more")
    assert in_columns(shown, 80) == ["layer      r  by", "emb     0.70   a", "1      −0.1*   b"]


def test_headings_give_way_first_then_words_then_columns_go_below():
    head = ["dimension", "written in", "same birth", "median |r| of all"]
    wide = table(head, [["507", PROSE, "100%", "0.224"], ["17", "n/a", "n/a", "−0.010"]], left=2)
    assert in_columns(wide, 200)[0].split("  ")[-1] == "median |r| of all"
    lines = in_columns(wide, 60)
    assert lines == [
        "                                                      median",
        "                                                same  |r| of",
        "dimension  written in                          birth     all",
        "507        12: 43.8 → 23,353, the               100%   0.224",
        "           feed-forward part adds 23,307",
        "           [22,757, 23,858]; 30: 1 → 2",
        "17         n/a                                   n/a  −0.010",
    ]
    below = in_columns(wide, 44)
    assert below.count("") == 1
    second = below[below.index("") + 1 :]
    assert [line.split()[0] for line in second if line[0] != " "] == ["dimension", "507", "17"]


@given(
    rows=st.lists(st.lists(TEXTS, min_size=9, max_size=9), min_size=1, max_size=4),
    left=st.integers(1, 9),
    width=st.integers(60, 160),
)
def test_every_line_fits_and_every_word_is_there(rows, left, width):
    head = [f"what is {place} of it" for place in range(9)]
    lines = in_columns(table(head, rows, left=left), width)
    assert max(map(len, lines)) <= width
    said = " ".join(lines).split()
    for word in {word for row in [head, *rows] for text in row for word in text.split()}:
        expected = sum(text.split().count(word) for row in [head, *rows] for text in row)
        assert said.count(word) >= expected, word


def test_a_summary_fits_a_terminal_and_is_a_line_a_sentence_in_a_file(tmp_path):
    make_run(tmp_path / "run")
    whole, narrow = (summary(tmp_path / "run", width) for width in (None, 50))
    lines = narrow.splitlines()
    assert max(len(line) for line in lines if "  /" not in line and "tables" not in line) <= 50
    assert whole.split("\nspeed")[0].count("\n- ") < narrow.split("\nspeed")[0].count("\n")
    first = whole.splitlines()[0]
    assert len(first) > 50
    assert " ".join(narrow.split()).startswith(" ".join(first.split()))
    assert "stats.parquet" in lines[-2]
    assert lines[-1].startswith("report  ")


def test_a_summary_of_some_steps_names_the_others(tmp_path):
    run = tmp_path / "run"
    make_run(run)
    said = summary(run, steps=["correlate"], briefly=["count", "correlate"])
    first, others = said.split("\nOn the way, count: ")
    assert "- r was found." in first
    assert summary(run, steps=["detect"]).splitlines()[0] not in first
    assert others.split("\n")[1] == "Also in this study: detect; see the report."
    assert "Layer i is" in first
    assert "Layer i is" not in summary(run, steps=["count"])
    assert "Also in this study" not in summary(run)


def test_the_width_is_that_of_the_terminal_written_to(tmp_path):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream, os.fdopen(ours):
        fcntl.ioctl(stream, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 93, 0, 0))
        assert terminal_width(stream) == 93
        fcntl.ioctl(stream, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        assert terminal_width(stream) is None
    with (tmp_path / "log").open("w") as log:
        assert terminal_width(log) is None
