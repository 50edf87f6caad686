"""The one door through which models and tokenizers come in: no code of a repository is run."""

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from outdim.errors import DataError, OutdimError

Argument = Literal["model", "tokenizer"]

ADVICE = (
    "give a directory written by save_pretrained, or a Hugging Face id while the hub can be reached"
)


def expand(argument: Argument, name: str | os.PathLike[str]) -> str:
    """A name as transformers takes it, ``~`` expanded.

    Raises:
        DataError: It is written as a path, and there is nothing there: the hub's answer to it would
            be about something else.
    """
    text = os.path.expanduser(os.fspath(name))
    file = text.lower().endswith(".gguf")
    written_as_path = file or text.startswith((os.sep, ".")) or text.count("/") > 1
    if written_as_path and not Path(text).exists():
        raise DataError(f"{argument}: there is no {'file' if file else 'directory'} {text}")
    return text


def from_pretrained(argument: Argument, kind: Any, name: str, **options: Any) -> Any:
    """What ``kind.from_pretrained(name)`` gives, and nothing of what a repository wants to run.

    Code that lies beside the files is neither run nor asked about, pickled weights are read as
    tensors alone, and kernels that a configuration names are not fetched (`refuse_kernels`).

    Raises:
        DataError: It cannot be loaded; the reason is named.
    """
    with (
        quiet_unless_terminal(),
        foreign_errors(f"{argument}: {name!r} cannot be loaded", f"; {ADVICE}"),
    ):
        try:
            return kind.from_pretrained(name, trust_remote_code=False, **options)
        except pickle.UnpicklingError as error:
            raise DataError(
                f"{argument}: {_refused(name)} of {name!r} cannot be read as tensors alone "
                f"({_reason(error.__context__ or error)}), and a pickle is not read otherwise, as "
                "that would run the code in it; save the weights as safetensors"
            ) from error


def _refused(name: str) -> str:
    """Which of the pickled files of a directory hold more than tensors."""
    import torch

    found = []
    for path in sorted(Path(name).glob("pytorch_model*.bin")):
        try:
            torch.load(path, map_location="meta", weights_only=True)
        except pickle.UnpicklingError:
            found.append(path.name)
    return ", ".join(found) or "*.bin"


def refuse_kernels(config: Any) -> None:
    """Take implementations that a hub's kernel repository provides off a configuration."""
    for part in (config, *(getattr(config, key, None) for key in config.sub_configs)):
        for attribute in ("_attn_implementation", "_experts_implementation"):
            if "/" in str(getattr(part, attribute, None) or ""):
                setattr(part, attribute, None)


@contextmanager
def foreign_errors(
    what: str, advice: str = "", kind: type[DataError] = DataError
) -> Iterator[None]:
    """Turn whatever a library raises about its input into an error that says ``what`` failed.

    transformers lets through what its configurations raise (TypeError, AttributeError, ...);
    tokenizers raises bare Exceptions, and panics, which are no Exception at all.
    """
    try:
        yield
    except (OutdimError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # KeyboardInterrupt, SystemExit and their like
        raise kind(f"{what} ({_reason(error)}){advice}") from error


def _reason(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


@contextmanager
def quiet_unless_terminal() -> Iterator[None]:
    """Keep transformers' progress bar and load report off a stderr that nobody watches."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    with bars_on_terminals():
        try:
            logging.set_verbosity_error()
            yield
        finally:
            logging.set_verbosity(verbosity)


@contextmanager
def bars_on_terminals() -> Iterator[None]:
    """Keep transformers' progress bars out of a log, where stderr is no terminal."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    try:
        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        yield
    finally:
        if bars:
            logging.enable_progress_bar()
