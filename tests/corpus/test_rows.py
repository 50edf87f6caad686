"""Where in a row the document is, and what is said of rows that hold none."""

from typing import Any

import pytest
from outdim.corpus.rows import RowError, document_of

CHAT = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}]


@pytest.mark.parametrize(
    ("row", "column", "text"),
    [
        ({"text": "a"}, "text", "a"),
        ({"text": None}, "text", None),
        ({"meta": {"text": "a", "n": 1}}, "meta.text", "a"),
        ({"meta": {"text": None}}, "meta.text", None),
        ({"meta": None}, "meta.text", None),
        ({"a": {"b": {"c": "deep"}}}, "a.b.c", "deep"),
        ({"meta.text": "the key itself", "meta": {"text": "path"}}, "meta.text", "the key itself"),
        ({"meta.text": None, "meta": {"text": "path"}}, "meta.text", "path"),
        ({"messages": CHAT}, "messages.content", "Hi.\nHello!"),
        ({"messages": []}, "messages.content", None),
        ({"messages": [{"content": None}, {"tool": 1}, CHAT[0]]}, "messages.content", "Hi."),
        ({"d": {"messages": [CHAT, CHAT[:1]]}}, "d.messages.content", "Hi.\nHello!\nHi."),
    ],
)
def test_documents(row: dict[str, Any], column: str, text: str | None) -> None:
    assert document_of(row, column) == text


@pytest.mark.parametrize(
    ("row", "column", "reason", "details"),
    [
        ({"a": 1, "b": 2}, "text", "no column", "no 'text' here; there are: 'a', 'b'"),
        ({}, "text", "no column", "there are: none"),
        ({"meta": {}}, "meta.text", "no column", "no 'meta.text' here; there are: 'meta'"),
        ({"meta": "x"}, "meta.text", "no column", "no 'meta.text' here"),
        (
            {"messages": [{"role": "user"}]},
            "messages.content",
            "no column",
            "no 'messages.content'",
        ),
        ({"text": 3}, "text", "not a string", "'text' is a int, expected a string"),
        ({"meta": {"text": ["a"]}}, "meta.text", "not a string", "'meta.text' is a list"),
        (
            {"messages": CHAT},
            "messages",
            "not a string",
            "in it there are: 'messages.role', 'messages.content'",
        ),
        ({"meta": {"text": "a"}}, "meta", "not a string", "in it there are: 'meta.text'"),
    ],
)
def test_errors(row: dict[str, Any], column: str, reason: str, details: str) -> None:
    with pytest.raises(RowError) as raised:
        document_of(row, column)
    assert raised.value.reason == reason
    assert details in str(raised.value)
