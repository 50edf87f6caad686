"""Token counts that a user gives to a step (``--counts``), of which the study keeps a copy."""

from __future__ import annotations

from pathlib import Path

from outdim.analysis.inputs import COUNTS_FILE, Inputs
from outdim.tables import parquet_bytes
from outdim.tokens import TokenFrequencies, check_frequencies


def counts_are_given(path: Path | None, inputs: Inputs) -> bool:
    """Whether there are any; they are of the tokenizer at hand, but for what is cautioned of.

    Raises:
        DataError: They are of another one, or cannot be read.
    """
    if path is not None:
        inputs.cautions += check_frequencies(_counts(path, inputs), inputs.tokenizer)
    return path is not None


def attached_counts(path: Path | None, inputs: Inputs) -> dict[str, bytes]:
    """What the study keeps of them; nothing where there are none."""
    return {} if path is None else {COUNTS_FILE: parquet_bytes(_counts(path, inputs).table())}


def _counts(path: Path, inputs: Inputs) -> TokenFrequencies:
    return inputs.keep("given counts", lambda: TokenFrequencies.load(path, inputs.tokenizer))
