"""Dimensions that were ranked on the very text on which they are measured."""

import pytest
from outdim.analysis.sweeps.ranked_text import ranked_on
from outdim.files import write_json

WORST = ["5", "worst:3"]


@pytest.fixture
def ranking(tmp_path):
    files = [{"path": "a.txt", "sha256": "a"}, {"path": "b.txt", "sha256": "b"}]
    options = {"sweep-glue": {"items": {"rows": 3, "sha256": "c"}}, "screen-lm": {}}
    content = {"data": {"files": files}, "options": options}
    write_json(tmp_path / "manifest.json", content)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a"], "on 1 of the 1 text read here"),
        (["x", "b", "a"], "on 2 of the 3 texts"),
        (["c"], "on 1 "),
    ],
)
def test_the_same_text_is_told_by_its_content(ranking, texts, said):
    found = ranked_on(ranking, WORST, texts)
    assert found.startswith(f"{ranking} ranked the dimensions {said}")
    assert found.endswith("Rank on another text.")


def test_nothing_is_said_of_another_text_or_where_nothing_is_ranked(ranking):
    assert ranked_on(ranking, WORST, ["x", "y"]) == ""
    assert ranked_on(ranking, ["5", "0-9"], ["a"]) == ""
    assert ranked_on(None, ["5"], ["a"]) == ""


def test_of_a_table_alone_it_is_not_known(tmp_path):
    assert "is not known" in ranked_on(str(tmp_path), WORST, ["a"])
