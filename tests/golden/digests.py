"""What tells whether inputs and machine are those of the kept values."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from corpus_helpers import read
from golden.jobs import Job, Runs
from outdim import load_model, load_tokenizer, open_corpus


def inputs(job: Job, model: Path) -> dict[str, str]:
    """SHA-256 of model, tokenizer and text."""
    return {
        "model": model_digest(load_model(model)),
        "tokenizer": tokenizer_digest(load_tokenizer(str(model))),
        "text": text_digest(job),
    }


def machine(runs: Runs) -> dict[str, str]:
    """What decides the last bits: the kernels' instruction set, and how the forward rounds."""
    manifest = json.loads((runs.correlate / "manifest.json").read_text())
    return {
        "isa": manifest["machine"]["isa"],
        "forward": forward_digest(load_model(runs.model)),
    }


def text_digest(job: Job) -> str:
    """SHA-256 of the documents, or of the files where there are some."""
    if all(Path(name).is_file() for name in job.source):
        return digest(*(Path(name).read_bytes() for name in job.source))
    return digest(*(text.encode() for text in read(open_corpus(job.source[0]))))


def table_digest(table: pd.DataFrame) -> str:
    """SHA-256 of n and reason of every row, in the order of the keys."""
    columns = ["point", "layer", "dim", "selection", "statistic", "covariate", "n", "reason"]
    return digest(table[columns].sort_values(columns).to_csv(index=False).encode())


def digest(*parts: bytes) -> str:
    """SHA-256 of bytes."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def model_digest(model: Any) -> str:
    """SHA-256 of the names and values of all weights."""
    return digest(
        *(
            part
            for name, tensor in sorted(model.state_dict().items())
            for part in (name.encode(), tensor.contiguous().numpy().tobytes())
        )
    )


def column_digest(column: pd.Series) -> str:
    """SHA-256 of the int64 values of a column."""
    return digest(column.to_numpy(np.int64).tobytes())


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of the ids of a text in which every byte but the controls' occurs."""
    text = "".join(map(chr, range(32, 0x250))) + " ".join(sorted(tokenizer.get_vocab()))
    return digest(np.array(tokenizer(text, verbose=False).input_ids).tobytes())


def forward_digest(model: Any) -> str:
    """SHA-256 of the hidden states that plain transformers computes on this machine.

    Where it is the recorded one, processor and libraries round as they did when the values were
    kept, and only the arithmetic of the statistics is left to differ.
    """
    length = min(model.config.max_position_embeddings, 128)
    ids = torch.arange(16 * length).reshape(16, length) * 7 % model.config.vocab_size
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        states = [
            model(ids[:rows, :columns], output_hidden_states=True).hidden_states
            for rows, columns in ((6, length), (9, 24), (5, 13), (1, 3))
        ]
    torch.set_num_threads(threads)
    return digest(*(state.numpy().tobytes() for shape in states for state in shape))
