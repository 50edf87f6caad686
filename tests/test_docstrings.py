"""Public names are documented in one dialect, Google's, argument by argument."""

import inspect
import re
from typing import Any

import outdim
import pytest

#: What is handed on as it is, or told by the class.
_UNNAMED = {"self", "cls", "args", "kwargs"}


def _arguments(value: Any) -> list[str]:
    return [name for name in inspect.signature(value).parameters if name not in _UNNAMED]


def _described(said: str) -> set[str]:
    found = re.findall(r"^    (\w[\w, ]*): ", said, re.M)
    return {name for names in found for name in names.split(", ")}


@pytest.mark.parametrize("name", sorted(outdim.__all__))
def test_every_argument_is_described(name: str) -> None:
    value = getattr(outdim, name)
    if not callable(value) or (isinstance(value, type) and issubclass(value, Exception)):
        return
    said = inspect.getdoc(value) or ""
    arguments = _arguments(value)
    if arguments:
        assert re.search(r"^(Args|Attributes):$", said, re.M), said
    assert not [argument for argument in arguments if argument not in _described(said)]


def test_the_check_sees_what_is_missing() -> None:
    def function(first: int, second: int) -> None:
        """Do.

        Args:
            first: One.
        """

    assert set(_arguments(function)) - _described(inspect.getdoc(function) or "") == {"second"}
