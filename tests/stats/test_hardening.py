"""Accumulators under threads, forks, refused states and what callers do to their own arrays."""

import copy
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from ops.oracles import frequency_table, hidden_states, zipf_ids
from outdim.errors import ArgumentError, DataError
from outdim.stats import Covariates, Moments, RankHistogram
from outdim.stats.ranks import double_mid_ranks

NAMES = ("count", "log1p_count")


def in_threads(work, count=8):
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_rows_of_eight_threads_all_count():
    h, ids = hidden_states(400, 8), zipf_ids(400)
    total = Moments(Covariates(frequency_table(), NAMES))
    whole = RankHistogram([0, 3], 200 * torch.bincount(ids, minlength=500))

    def work(_):
        for _ in range(25):
            total.update(h, ids)
            whole.update(h.bfloat16(), ids)

    in_threads(work)
    once = Moments(total.covariates).update(h, ids).compute()
    result = total.compute()
    assert result.n == 200 * 400
    torch.testing.assert_close(result.mean, once.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.pearson("count"), once.pearson("count"), equal_nan=True)
    assert whole.compute().n == 200 * 400


def test_merging_both_ways_at_once_ends():
    one, two = (Moments().update(hidden_states(50, 4, seed=seed)) for seed in (0, 1))

    def work(i):
        for _ in range(5):
            (one, two)[i % 2].merge((two, one)[i % 2])

    in_threads(work, 2)
    assert one.compute().n >= 300


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_go_on_by_themselves(again):
    moments = Moments().update(hidden_states(50, 4))
    other = again(moments).update(hidden_states(10, 4))
    assert (moments.compute().n, other.compute().n) == (50, 60)


def test_a_refused_state_changes_nothing():
    moments = Moments().update(hidden_states(50, 4))
    before = moments.state_dict()
    damaged = [before | {"head": torch.zeros(3).double()}, before | {"body": torch.zeros(4)}]
    ids = zipf_ids(50)
    ranks = RankHistogram([1], torch.bincount(ids, minlength=500))
    ranks.update(hidden_states(50, 4).half(), ids)
    kept = ranks.state_dict()
    for state in damaged:
        with pytest.raises(DataError, match="damaged"):
            moments.load_state_dict(state)
    for name in ("seen", "page_index", "count", "rank_sum", "dtype"):
        for wrong in (kept[name].double(), kept[name].reshape(1, 1, -1)):
            with pytest.raises(DataError, match=f"damaged: {name}"):
                ranks.load_state_dict(kept | {name: wrong})
    with pytest.raises(DataError, match="damaged: page_index"):
        ranks.load_state_dict(kept | {"page_index": kept["page_index"] + 1})
    for accumulator, state in ((moments, before), (ranks, kept)):
        after = accumulator.state_dict()
        assert all(torch.equal(after[name], state[name]) for name in state)


def test_results_share_no_memory():
    moments = Moments().update(hidden_states(50, 4))
    first = moments.compute()
    first.body.zero_()
    assert bool((moments.state_dict()["body"][1] > 0).any())
    assert int(moments.update(hidden_states(5, 4)).compute().n) == 55


def test_a_table_changed_in_place_changes_nothing():
    table = frequency_table().numpy()
    covariates = Covariates(table, NAMES)
    h, ids = hidden_states(80, 4), zipf_ids(80)
    want = Moments(covariates).update(h, ids).compute().pearson("count")
    moments = Moments(covariates).update(h[:40], ids[:40])
    table[:] = 1 / (1 + table)
    got = moments.update(h[40:], ids[40:]).compute().pearson("count")
    torch.testing.assert_close(got, want, equal_nan=True)


def test_ranks_that_int64_cannot_hold():
    assert double_mid_ranks(np.array([2**61, 1])).tolist() == [2**61 + 3, 2]
    with pytest.raises(ArgumentError, match=r"counts: expected less than 2\^62 tokens"):
        RankHistogram([0], torch.tensor([2**61, 2**61]))


FORK = """
import os, signal, sys
import torch
from outdim.stats import Moments, RankHistogram

torch.set_num_threads(2)
torch.randn(1000, 1000) @ torch.randn(1000, 1000)
h, ids = torch.randn(200_000, 16), torch.arange(200_000) % 50_000
h.exp_()
half, mask = h.bfloat16(), torch.arange(200_000) % 3 != 0
counts, n = torch.bincount(ids[mask], minlength=50_000), int(mask.sum())
child = os.fork()
if not child:
    signal.alarm(20)  # the default action ends the child where it hangs
    RankHistogram(list(range(16)), counts).update(half, ids, mask).compute().spearman()
    assert Moments().update(h, mask=mask).compute().n == n
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_after_threaded_torch_goes_on():
    root = Path(__file__).parents[2] / "python"
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", FORK], env=os.environ | {"PYTHONPATH": path}, timeout=60, check=False
    )
    assert done.returncode == 0
