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


@pytest.mark.parametrize("name", sorted(outdim.__all__))
def test_every_argument_is_described(name: str) -> None:
    value = getattr(outdim, name)
    if not callable(value) or (isinstance(value, type) and issubclass(value, Exception)):
        return
    said = inspect.getdoc(value) or ""
    arguments = _arguments(value)
    if arguments:
        assert re.search(r"^(Args|Attributes):$", said, re.M), said
    described = re.findall(r"^    (\w+)(?: \([^)]*\))?: ", said, re.M)
    assert not [argument for argument in arguments if argument not in described]
    assert not re.search(r"^>>> ", said, re.M), "an example stands under Example:"


def test_the_check_sees_what_is_missing() -> None:
    def function(first: int, second: int) -> None:
        """Do.

        Args:
            first: One.
        """

    described = re.findall(r"^    (\w+)(?: \([^)]*\))?: ", inspect.getdoc(function) or "", re.M)
    assert set(_arguments(function)) - set(described) == {"second"}
