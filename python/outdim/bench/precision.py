"""What a lower precision of the model is worth on this machine."""

from __future__ import annotations

import time

import torch

# A feed-forward layer of BERT-base over a batch of 1,024 tokens.
_ROWS, _WIDTH, _INNER = 1024, 768, 3072
_ROUNDS = 5
# Of the whole model less remains: norms, softmax, statistics.
WORTH_IT = 1.3


def bfloat16_speedup(device: torch.device | str = "cpu") -> float:
    """How many times as fast a model's matrix products are in bfloat16 as in float32.

    Best of a few rounds in turn, with torch's threads and its setting of TF32: a fraction of a
    second. Processors without instructions for bfloat16 give less than 1.
    """
    device = torch.device(device)
    times = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    given = {
        dtype: (
            torch.ones(_ROWS, _WIDTH, dtype=dtype, device=device),
            torch.ones(_INNER, _WIDTH, dtype=dtype, device=device),
        )
        for dtype in times
    }
    for _ in range(1 + _ROUNDS):  # the first warms up
        for dtype, (x, weight) in given.items():
            _wait(device)
            start = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            _wait(device)
            times[dtype] = min(times[dtype], time.perf_counter() - start)
    return times[torch.float32] / times[torch.bfloat16]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
