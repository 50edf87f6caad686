"""``outdim compare``: two token counts of one vocabulary."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outdim.commands.step import OutputOptions
from outdim.files import sha256_of


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What is compared.

    Args:
        first: counts.parquet, or a run that counted.
        second: Another one of the same vocabulary.
    """

    first: Path = field(metadata={"positional": "FIRST", "example": "runs/first"})
    second: Path = field(metadata={"positional": "SECOND", "example": "runs/second"})


class Compare:
    """Compare two token counts."""

    def options(self) -> dict[str, list[type]]:
        """The two, and where the page goes."""
        return {"": [CompareOptions, OutputOptions]}

    def run(self, given: Mapping[type, Any]) -> Path:
        """Write the page that compares them, and say on stderr what it says; the directory."""
        from outdim.report.compare import comparison_in_words, write_comparison
        from outdim.run.derived import derived, given_counts
        from outdim.tokens import TokenFrequencies, compare

        options: CompareOptions = given[CompareOptions]
        output: Path = given[OutputOptions].output
        paths = [given_counts(path) for path in (options.first, options.second)]
        comparison = compare(*(TokenFrequencies.from_parquet(path) for path in paths))
        names = (str(options.first), str(options.second))
        hashes = [sha256_of(path) for path in paths]
        with derived(output, "compare", {"compare": list(names)}, {"counts": hashes}):
            page = write_comparison(comparison, output, names=names)
        said = [f"- {sentence}" for sentence in comparison_in_words(comparison, names)]
        print("\n".join([*said, "", f"report  {page}"]), file=sys.stderr)
        return output
