"""How the files under ``texts`` and ``values`` were made, from the code whose values they keep.

    PYTHONPATH=tests python tests/golden/make.py [JOB ...]

Made anew, they show what changed: commit that only where the change is meant and its reason said.
"""

import gzip
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from golden import digests, jobs
from golden.compare import KEY
from golden.kept import account, detection, kept_sums, tidy_table, token_counts
from safetensors.numpy import save_file

_WORDS = (
    "the of and to in a is that for it as with was on are by this be an at from or not w1 w2 w3 "
    "w4 w5 w6 w7 w8 w9 then there thing naïve café Straße 42 1,234 it's don't --- ( ) [SEP] [UNK] "
    "<|endoftext|> 中文 Ελλάδα 👍🏽 e\u0301 \u00a0 ﬁne x_1 == 0x7f"
)
#: Left out: of states rounded to bfloat16, how far another forward moves them is not known.
_ROUNDED = ("spearman", "spearman_abs", "median", "q05", "q95")
#: Every dimension of a job's whole point keeps these rows: an r, and what its tolerance needs.
_CHIEF = ("mean", "std", "mean_abs", "absmax", "pearson_abs")


def write_texts() -> None:
    """Documents of Zipf's words: long, short, blank and broken ones, in three formats."""
    random = np.random.RandomState(1)
    vocabulary = _WORDS.split(" ")
    weights = 1 / np.arange(1, len(vocabulary) + 1)

    def document(words: int) -> str:
        return " ".join(random.choice(vocabulary, words, p=weights / weights.sum()))

    def documents(count: int) -> list[str]:
        return [document(n) for n in random.randint(1, 45, count)]

    jobs.TEXTS.mkdir(exist_ok=True)
    lines = [line.encode() for line in [*documents(40), document(300), *documents(10)]]
    lines[5:5] = [b"", b" \t ", b"caf\xe9 is no UTF-8", b"the end of this line is CR LF\r"]
    Path(jobs.NOTES).write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines) + b"\n")
    rows = [json.dumps({"id": i, "body": text}) for i, text in enumerate(documents(50))]
    rows[10:10] = [
        '{"body": "cut off',
        '{"body": null}',
        '{"body": 7}',
        '{"text": "no such key"}',
        '{"body": "half a pair \\ud800 of surrogates"}',
        "",
        json.dumps({"body": document(250)}),
    ]
    Path(jobs.PAGES).write_text("\n".join(rows) + "\n")
    more = "".join(json.dumps({"body": text}) + "\n" for text in documents(20))
    Path(jobs.MORE).write_bytes(gzip.compress(more.encode(), mtime=0))
    texts = [*documents(30), None, "", "\n", document(280), *documents(30), None]
    table = pa.table({"id": np.arange(len(texts)), "text": pa.array(texts, pa.string())})
    pq.write_table(table, jobs.ARTICLES, row_group_size=12, compression="zstd")


def keep(job: jobs.Job, runs: jobs.Runs) -> None:
    """Write what is kept of a job's runs."""
    values = jobs.VALUES / job.name
    values.mkdir(parents=True, exist_ok=True)
    table = tidy_table(runs.correlate)[[*KEY, "value", "n", "reason"]]
    table = table[~table.statistic.isin(_ROUNDED)]
    counts = token_counts(runs.count).reset_index()
    about = {
        "account": account(runs.correlate),
        "inputs": digests.inputs(job, runs.model),
        "machine": digests.machine(runs),
        "table": digests.table_digest(table),
        "counts": {name: digests.column_digest(counts[name]) for name in ("count", "documents")},
        "detection": {name: detection(getattr(runs, name)) for name in ("detect", "correlate")},
    }
    (values / "about.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
    if job.dims:
        chief = (table.point == job.whole) & (table.selection == "text")
        chief &= table.statistic.isin(_CHIEF) & table.covariate.isin(("", "log1p_count"))
        table = table[chief | table.dim.isin(job.dims)]
        counts = counts.nlargest(100, "count").sort_index()
    write(table, values / "stats.parquet")
    write(counts, values / "counts.parquet")
    if "per_token" in job.flags:
        sums = kept_sums(runs.correlate)
        names = {name: sums.pop(name).tolist() for name in ("points", "dims")}
        save_file(sums, values / "tokens.safetensors", {"outdim": json.dumps(names)})


def write(table: pd.DataFrame, path: Path) -> None:
    """As small as parquet can be."""
    names = [name for name in table if table[name].dtype != np.float64]
    pq.write_table(
        pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(),
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=names,
        column_encoding={name: "BYTE_STREAM_SPLIT" for name in table if name not in names},
    )


def main(names: list[str]) -> None:
    """Make the texts, and the values of these jobs, or of all."""
    write_texts()
    for name in names or jobs.JOBS:
        with tempfile.TemporaryDirectory() as directory:
            keep(jobs.JOBS[name], jobs.run(jobs.JOBS[name], Path(directory)))


if __name__ == "__main__":
    main(sys.argv[1:])
