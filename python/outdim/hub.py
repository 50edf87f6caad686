"""Names of models and tokenizers: local directories, or ids of the Hugging Face hub."""

import os
from pathlib import Path

from outdim.errors import DataError


def expand(argument: str, name: str | os.PathLike[str]) -> str:
    """A name as transformers takes it, ``~`` expanded.

    Raises:
        DataError: It is written as a path, and there is no such directory: the hub's answer to it
            would be about something else.
    """
    text = os.path.expanduser(os.fspath(name))
    written_as_path = text.startswith((os.sep, ".")) or text.count("/") > 1
    if written_as_path and not Path(text).is_dir():
        raise DataError(f"{argument}: there is no directory {text}")
    return text
