"""Options of the commands, one frozen dataclass each, from which the command line is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """Which text is read.

    Args:
        column: Column (parquet, Hugging Face) or key (jsonl) that holds the text.
        name: Configuration of a Hugging Face dataset.
        split: Split of a Hugging Face dataset.
        min_chars: Leave out documents with fewer characters. Puccetti et al. 2022 use 71 on
            WikiText-2.
        on_error: Whether a broken line or file ends the run, or is skipped and accounted for.
        shard_bytes: Size of a commit unit in bytes of input. None: 1/256 of the data, between 256
            KiB (with a model 64 KiB) and 64 MiB.
    """

    column: str = "text"
    name: str | None = None
    split: str = "train"
    min_chars: int = 0
    on_error: Literal["fail", "skip"] = "fail"
    shard_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class SpreadOptions:
    """Who does the work. None of this changes the answer, threads excepted.

    Args:
        workers: Processes on this machine, or threads for counting. None: one per GPU, or one per
            core as memory allows.
        threads: Threads of a process. Matrix products split their sums by it, so it is part of the
            plan.
        shard_index: Which share of the shards is this process's (Slurm and torchrun set it by
            themselves).
        shard_count: How many shares there are.
        memory: Bytes the table of chunks may take while counting.
        engine: local or ray (needs pip install ray).
    """

    workers: int | None = None
    threads: int = 1
    shard_index: int | None = None
    shard_count: int | None = None
    memory: int = 1 << 30
    engine: Literal["local", "ray"] = "local"


@dataclass(frozen=True, kw_only=True)
class CountOptions(CorpusOptions, SpreadOptions):
    """Count how often each token of a tokenizer's vocabulary occurs in a corpus.

    Args:
        output: Run directory: new, empty, or of the same run, which then goes on.
        tokenizer: Hugging Face id or local directory of a fast tokenizer. Required.
        method: chunks tokenises each distinct chunk of text once, where that is provably exact;
            encode tokenises everything; auto decides and says why in the manifest.
        documents: Count as well in how many documents each token occurs.
    """

    output: Path
    tokenizer: str | None = None
    method: Literal["auto", "chunks", "encode"] = "auto"
    documents: bool = False


@dataclass(frozen=True, kw_only=True)
class RuleOptions:
    """How LayerNorm parameters tell outlier dimensions from others (Kovaleva et al. 2021).

    Args:
        rule: kovaleva2021: gamma AND beta beyond k sigma in min_fraction of the layers;
            puccetti2022: gamma OR beta in more than 3 layers, as in the code published with
            that paper.
        k: Threshold in standard deviations.
        min_fraction: Share of the layers.
        permutations: For the false-positive rate of the rule.
    """

    rule: Literal["kovaleva2021", "puccetti2022"] = "kovaleva2021"
    k: float = 3.0
    min_fraction: float = 0.5
    permutations: int = 1000


@dataclass(frozen=True, kw_only=True)
class DetectOptions(RuleOptions):
    """Find outlier dimensions by their LayerNorm parameters (Kovaleva et al. 2021).

    Args:
        model: Hugging Face id or local directory.
        output: Run directory.
    """

    model: str
    output: Path


@dataclass(frozen=True, kw_only=True)
class CorrelateOptions(CorpusOptions, SpreadOptions, RuleOptions):
    """Correlate hidden states with token frequency, in one pass (Puccetti et al. 2022).

    Args:
        output: Run directory: new, empty, or of the same run, which then goes on.
        model: Hugging Face id or local directory. Required, but with --from_run.
        tokenizer: Hugging Face id or local directory; None takes the model's.
        counts: counts.parquet of a run of outdim count, or the run; None counts the corpus
            itself.
        points: Where the model is observed, by name; none takes the embeddings and every block.
        max_length: Tokens per sequence with special tokens; None takes the model's limit, at most
            512.
        token_budget: Tokens per batch, padding included.
        device: cpu, cuda, cuda:1; auto takes a GPU where there is one.
        dtype: The model's parameters are converted to it; None leaves them.
        autocast: Run the forward under torch.autocast with this type.
        fused: Take the statistics inside our LayerNorm (may differ from torch's in the last bits).
        accum: exact (float64) or fast.
        per_token: Dimensions whose sums per (token id, point) are kept, for outdim correlate
            --from_run.
        from_run: Do not run the model: correlate the sums that this run kept with --counts.
    """

    output: Path
    model: str | None = None
    tokenizer: str | None = None
    counts: Path | None = None
    points: list[str] | None = None
    max_length: int | None = None
    token_budget: int = 4096
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    autocast: Literal["bfloat16", "float16"] | None = None
    fused: bool = True
    accum: Literal["exact", "fast"] = "exact"
    per_token: list[int] | None = None
    from_run: Path | None = None
