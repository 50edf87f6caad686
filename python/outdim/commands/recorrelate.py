"""``outdim recorrelate``: what a run kept against other token frequencies, without the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outdim.commands.step import Found, OutputOptions, report
from outdim.errors import DataError
from outdim.files import sha256_of

if TYPE_CHECKING:
    from outdim.analysis.recorrelate import KeptSums, Recorrelation
    from outdim.run.worker import Worker

_KEPT = "token_sums.parquet"
_COPIED = ("model", "tokenizer", "data")  # what the manifest says of the run


@dataclass(frozen=True, kw_only=True)
class RecorrelateOptions:
    """What is correlated with what.

    Args:
        run: Run directory of outdim correlate.
        counts: counts.parquet, a run that counted, or published counts as JSON; None takes those
            that the run was correlated with.
    """

    run: Path = field(metadata={"positional": "RUN", "example": "runs/first"})
    counts: Path | None = None


class Recorrelate:
    """Correlate what a run kept of every type of token."""

    def options(self) -> dict[str, list[type]]:
        """The run, the counts, and where results go."""
        return {"": [RecorrelateOptions, OutputOptions]}

    def run(self, given: Mapping[type, Any]) -> Path:
        """Write tables and report."""
        from outdim import manifest
        from outdim.analysis.inputs import COUNTS_FILE, Resources
        from outdim.run.derived import derived, given_counts
        from outdim.run.results import account_of, write_results
        from outdim.run.worker import Worker

        options: RecorrelateOptions = given[RecorrelateOptions]
        output: Path = given[OutputOptions].output
        about = manifest.read(options.run)
        worker = Worker(options.run, Resources())
        attached = worker.attached(["correlate"], COUNTS_FILE)
        own = attached or manifest.result_path(options.run, COUNTS_FILE)
        counts = own if options.counts is None else given_counts(options.counts)
        result = _recorrelation(worker, own, counts)
        names = {"run": str(options.run), "counts": str(counts)}
        inputs = {"plan": about["plan"], "counts": sha256_of(counts)}
        with derived(output, "recorrelate", names, inputs) as hashes:
            found = {"recorrelate": result}
            hashes |= write_results(output, found, list(found))
            copied = {name: about[name] for name in _COPIED if name in about}
            manifest.update(output, {**copied, **account_of(found)})
        report(Found(output))
        return output


def _recorrelation(worker: Worker, own_counts: Path, counts: Path) -> Recorrelation:
    from outdim.analysis.correlate import frequency_covariates
    from outdim.analysis.recorrelate import Recorrelation, check_vocabulary
    from outdim.analysis.results.worth import Worth
    from outdim.stats import TypeBuckets, TypeUnits
    from outdim.stats.named import below
    from outdim.tokens import TokenFrequencies, check_frequencies, load_tokenizer

    entry = worker.study["correlate"]
    types = entry.options["types"]
    if not types:
        raise DataError(
            f"{worker.run} kept no types of tokens (--types 0): nothing can be said without."
        )
    own = TokenFrequencies.from_parquet(own_counts)
    if counts.suffix == ".json":
        tokenizer = load_tokenizer(entry.options["tokenizer"])
        frequencies = TokenFrequencies.load(counts, tokenizer)
        check_frequencies(frequencies, tokenizer)
    else:
        frequencies = TokenFrequencies.load(counts)
    state = below("types/", worker.store("correlate").root(worker.merger(entry)).tensors)
    seen = state["tokens"].nonzero()[:, 0].tolist()
    check_vocabulary(seen, own.tokens, frequencies.tokens)
    units = TypeUnits.of_table(
        state, TypeBuckets.of_counts(own.counts, types), frequency_covariates(frequencies)
    )
    layers = dict(zip(entry.options["points"], entry.options["layers"], strict=True))
    return Recorrelation(
        Worth(units, frequencies.tokens), layers, frequencies, _kept_sums(worker.run)
    )


def _kept_sums(run: Path) -> KeptSums | None:
    from outdim import manifest
    from outdim.analysis.recorrelate import KeptSums
    from outdim.run.results import STATS
    from outdim.tables import read_parquet

    if _KEPT not in manifest.read(run)["results"]:
        return None
    paths = (manifest.result_path(run, name) for name in (_KEPT, STATS))
    return KeptSums.of_tables(*map(read_parquet, paths))
