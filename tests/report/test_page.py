"""The page: complete, inert, and nothing in it comes from anywhere else."""

import base64
import errno
import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from outdim.analysis.results.cautions import Doubt
from outdim.errors import BackendError
from outdim.report import summary, write_report
from outdim.report.study import read_study
from plotly.offline import get_plotlyjs
from report.reading import Page, data_of, unpacked
from report.synthetic import Planted, change_manifest, make_run, write_study

EVIL = '</script><script>document.title="pwned"</script><img src=x onerror=alert(1)>'
TOKENS = {10: EVIL, 11: "$\\frac{", 12: "\x00\x1b", 13: "{{ 7*7 }}"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    truth = make_run(path, model=EVIL, tokens=TOKENS)
    page = write_report(path)
    return truth, page, Page(page.read_text(encoding="utf-8"))


def test_numbers_of_the_page_are_those_of_the_run(written):
    truth, _, page = written
    words = page.words()
    r = truth["r"]["pearson_abs", "log1p_count", "text"]
    for row in r:
        top = int(np.argmax(np.abs(row)))
        assert f"{top} ({row[top]:.2f})".replace("-", "−") in words
        assert f"{np.median(np.abs(row)):.3f}" in words
    for z in truth["detection"].gamma_z[:, 7]:
        assert f"{z:.1f}".replace("-", "−") in words
    for number in ("612,345", "12,345", "20,111", "6,789", "109,482,240", "2,345,678"):
        assert number in words


def test_a_sentence_a_step_leads_and_the_rest_heads_its_section(tmp_path):
    """First what a model is without dimensions; what takes a headline back stands beside it."""
    found = {
        "detect": Planted({}, ("A dimension was found. By a rule.", "And another."), ("Mind it.",)),
        "evaluate-lm": Planted(
            {}, ("It loses 9.7 nats.", "More."), (Doubt("Few documents."), "Mind it.", "And this.")
        ),
    }
    page = Page(write_report(write_study(tmp_path, found)).read_text(encoding="utf-8"))
    words = page.words()
    top, loses, detects = re.split(r"What was found(?= It)|Evaluate lm(?= It)|Detect(?= A)", words)[
        1:
    ]
    assert top.startswith(" It loses 9.7 nats. But: Few documents. Evaluate lm A dimension")
    assert "By a rule" not in top
    assert "Mind it" not in top
    assert loses.startswith(
        " It loses 9.7 nats. But: Few documents. More. Beware: 2 cautions Mind it. And this."
    )
    assert detects.startswith(
        " A dimension was found. By a rule. And another. Beware: 1 caution Mind it."
    )
    links = [a["href"] for a in page.all("a") if a["href"].startswith("#step-")]
    assert links == ["#step-evaluate-lm", "#step-detect"] * 2
    assert len(page.all("details")) >= 2


def test_a_result_is_printed_as_its_run_is_summed_up(tmp_path):
    found = Planted({}, ("A dimension was found.", "And \x1b[2J."), ("Mind the gap.",))
    said = summary(write_study(tmp_path, {"detect": found}))
    assert said.startswith(f"{found}\n\n")
    assert str(found).splitlines()[1:] == ["- And \\x1b[2J.", "", "Beware:", "- Mind the gap."]


@pytest.mark.parametrize(
    ("model", "heading"),
    [({"name": "org/bert"}, "Outlier dimensions org/bert"), (None, "Token frequencies")],
)
def test_a_page_is_headed_by_what_the_study_is_of(tmp_path, model, heading):
    write_study(tmp_path, {"detect": Planted({})}, model=model)
    words = Page(write_report(tmp_path).read_text(encoding="utf-8")).words()
    assert heading in words
    assert "Outlier dimensions and token frequency" not in words


def test_a_run_that_has_no_results_yet_says_so(tmp_path):
    write_study(tmp_path, {"detect": Planted({})})
    change_manifest(tmp_path, finished=None)
    words = Page(write_report(tmp_path).read_text(encoding="utf-8")).words()
    assert "The run directory holds no results yet." in words
    assert "does not say that this run finished" in words


def test_layers_are_explained_once(tmp_path):
    make_run(tmp_path / "all")
    make_run(tmp_path / "count", steps=("count",))
    model = {**read_study(tmp_path / "all").manifest["model"], "hidden_states": "As hidden_states."}
    change_manifest(tmp_path / "all", model=model)
    said = "Layer i is the output of block i − 1 (block.0 is the first); layer 0, “emb”, is the"
    assert summary(tmp_path / "all").count(f"{said} embeddings. As hidden_states.") == 1
    assert said not in summary(tmp_path / "count")


def test_summary_for_the_terminal(tmp_path):
    make_run(tmp_path, model="\x1b[2Jmodel")
    text = summary(tmp_path)
    assert "2 of the 64 dimensions are outliers" in text
    assert "r was found." in text
    assert "Outlier dimension 7 follows it most" not in text
    assert "The report has 2 more sentences." in text
    assert "7 (0.85)" in text
    assert "8,686 tokens/s" in text
    assert "not written yet" in text
    assert "\x1b" not in text


def test_the_terminal_has_all_of_one_step_and_the_leads_of_several(tmp_path):
    said = ("One is off. By a lot.", "And two."), (Doubt("Few documents."), "Mind it.")
    write_study(tmp_path / "one", {"evaluate-lm": Planted({}, *said)})
    one = summary(tmp_path / "one")
    assert one.startswith(
        "- One is off. By a lot.\n- And two.\n\nBeware:\n- Few documents.\n- Mind"
    )
    write_study(tmp_path / "two", {"detect": Planted({}, *said), "evaluate-lm": Planted({}, *said)})
    line = "- One is off. But: Few documents.\n"
    rest = "\nThe report has 2 more sentences and 2 more cautions.\n"
    assert summary(tmp_path / "two").startswith(2 * line + rest)


def test_page_refers_to_nothing_outside(written):
    _, _, page = written
    for tag, attrs in page.elements:
        for name in ("src", "href", "action", "data", "srcset", "poster", "formaction"):
            value = attrs.get(name, "")
            assert not re.match(r"(?i)\s*([a-z]+:)?//", value), (tag, name, value)
            assert not re.match(r"(?i)[a-z]+:", value) or value.startswith("data:"), (tag, value)
    for style in page.styles + [attrs.get("style", "") for _, attrs in page.elements]:
        assert "url(" not in style
        assert "@import" not in style
    assert not page.all("iframe") + page.all("object") + page.all("embed") + page.all("base")


def test_foreign_text_stays_text(written):
    _, path, page = written
    assert EVIL in " ".join(page.text)
    assert len([tag for tag, _ in page.elements if tag == "script"]) == len(page.scripts)
    assert not any("onerror" in attrs for _, attrs in page.elements)
    executable = [text for attrs, text in page.scripts if "type" not in attrs]
    assert len(executable) == 2
    assert not any("pwned" in text for text in executable)
    assert "49" not in page.all("h1")
    tokens = json.loads(data_of(page, "token_frequency"))["data"][1]["text"]
    assert "&lt;/script&gt;" in "".join(tokens)
    assert "{{␣7*7␣}}" in tokens
    svg = (path.parent / "figures" / "token_frequency.svg").read_bytes()
    assert b"<script" not in svg


def test_policy_allows_only_the_own_scripts(written):
    _, _, page = written
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'; ")
    for attrs, text in page.scripts:
        if "type" not in attrs:
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
    assert policy.count("sha256-") == 3
    plotly = unpacked(page, "plotly")
    assert plotly == get_plotlyjs()
    assert base64.b64encode(hashlib.sha256(plotly.encode()).digest()).decode() in policy


def test_page_can_be_read_without_seeing_it(written):
    _, _, page = written
    assert page.all("html")[0]["lang"] == "en"
    assert all(image.get("alt") for image in page.all("img"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("caption") == tags.count("table")
    assert all(th.get("scope") for th in page.all("th"))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for a in page.all("a") if a["href"].startswith("#")]
    assert set(targets) <= set(ids)


def test_files_of_every_figure_lie_beside_the_page(written):
    _, path, page = written
    names = {a["href"] for a in page.all("a") if a["href"].startswith("figures/")}
    assert len(names) == 10
    assert {f"figures/{p.name}" for p in (path.parent / "figures").glob("[!.]*")} == names
    for svg in (path.parent / "figures").glob("*.svg"):
        ElementTree.parse(svg)


@pytest.mark.slow
def test_page_keeps_its_size(tmp_path):
    make_run(tmp_path, layers=12, dims=768, vocab=30_522, outliers=(308, 381))
    assert write_report(tmp_path).stat().st_size < 4.5e6


@pytest.mark.parametrize("steps", [("count",), ("detect",), ("correlate",)])
def test_only_steps_that_are_there_are_shown(tmp_path, steps):
    make_run(tmp_path, steps=steps)
    page = Page(write_report(tmp_path, tmp_path / "elsewhere.html").read_text(encoding="utf-8"))
    ids = {attrs.get("id") for _, attrs in page.elements}
    assert {name for name in ids if name and name.startswith("step-")} == {f"step-{steps[0]}"}
    assert ("token_frequency" in ids) == (steps == ("count",))
    assert ("correlate_heat_map" in ids) == (steps == ("correlate",))
    assert ("detect_parameters" in ids) == (steps == ("detect",))


@pytest.mark.parametrize("name", ["report.html", "figures/token_frequency.csv"])
def test_a_full_disk_leaves_the_old_page_whole_and_is_named(tmp_path, monkeypatch, name):
    make_run(tmp_path, steps=("count",))
    page = write_report(tmp_path)
    before = page.read_bytes()
    write = Path.write_bytes

    def full(path, content):
        if path.name.startswith(f".{Path(name).name}."):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BackendError, match=f"{name}: the disk is full"):
        write_report(tmp_path)
    assert page.read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_report_leaves_no_figure_of_what_is_gone(tmp_path):
    make_run(tmp_path / "run", steps=("detect", "count"))
    write_report(tmp_path / "run", tmp_path / "report.html")
    first = {path.name for path in (tmp_path / "figures").glob("[!.]*")}
    make_run(tmp_path / "other", steps=("detect",))
    write_report(tmp_path / "other", tmp_path / "report.html")
    second = {path.name for path in (tmp_path / "figures").glob("[!.]*")}
    assert second < first
    write_report(tmp_path / "other", tmp_path / "alone" / "report.html")
    assert {path.name for path in (tmp_path / "alone/figures").glob("[!.]*")} == second
