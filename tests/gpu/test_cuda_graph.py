"""Calls captured in a CUDA graph, and the rank histogram."""

import pytest
import torch
from gpu import checks
from outdim import ops

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("exact", [False, True])
def test_replay_gives_the_bytes_of_a_call(device, exact):
    n, d = 2000, 768
    x = torch.zeros(n, d, dtype=torch.bfloat16, device=device)
    args = checks.statistics(n, device, table=2 if exact else 1, exact=exact, shape=exact)

    def run():
        return ops.layer_norm_moments(x, statistics=args), ops.moments(x, **vars(args))

    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for seed in range(3):
        x.copy_(checks.hidden_states(n, d, torch.bfloat16, "spikes", seed))
        graph.replay()
        torch.cuda.synchronize(device)
        for got, want in zip(captured, run(), strict=True):
            for a, b in zip(_tensors(got), _tensors(want), strict=True):
                assert checks.same_bytes(a, b)


def _tensors(result):
    """Tensors of a MomentsState or of (y, None, MomentsState)."""
    for value in result:
        if isinstance(value, torch.Tensor):
            yield value
        elif value is not None:
            yield from _tensors(value)


@pytest.mark.parametrize(("n", "d"), [(0, 5), (1, 1), (1000, 33), (20_000, 768)])
def test_rank_histogram(device, n, d):
    checks.check_rank_histogram(device, n, d)
