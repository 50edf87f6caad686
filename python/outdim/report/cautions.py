"""What a reader must know before trusting the numbers of a study."""

from collections.abc import Sequence

from outdim.report.study import Study
from outdim.text import listing


def cautions(study: Study, steps: Sequence[str] | None = None) -> list[str]:
    """Those of the study as a whole, then those of its steps, or of some, each said once."""
    said = []
    if study.manifest.get("finished") is None:
        said.append(
            "The manifest does not say that this run finished: its numbers may cover part of the "
            "data."
        )
    if study.unknown:
        said.append(
            f"The package that brings {listing(study.unknown)} is not installed here, or broken: "
            "its statistics are shown by their bare names."
        )
    for step in ("inputs", *(study.steps if steps is None else steps)):
        said += study.sentences("cautions", step)
    return list(dict.fromkeys(said))
