"""segment_sums on a GPU against float64, and a table of types against the CPU's."""

import pytest
import torch
from gpu import checks
from ops.oracles import zipf_ids
from outdim import ops
from outdim.errors import DataError
from outdim.stats.type_buckets import TypeBuckets
from outdim.stats.type_table import TypeTable

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("d", [1, 64, 768, 769, 1023, 4096])
@pytest.mark.parametrize("n", [0, 1, 37, 4096])
def test_matches_the_reference(device, n, d, dtype):
    checks.check_segment_sums(device, n, d, dtype, margin=3 * (n % 2))


def test_more_segments_than_a_grid_has_rows(device):
    count = 70_000
    segment = torch.arange(count, device=device)
    sums = torch.zeros(count, 3, 8, dtype=torch.float64, device=device)
    hidden = segment[:, None].float().expand(count, 8).contiguous()
    ops.segment_sums(hidden, *ops.segments(segment, count), sums)
    assert torch.equal(sums[:, 2, 5], segment.double() ** 2)


def test_indices_outside_are_left_out(device):
    hidden = torch.ones(3, 2, device=device)
    order, starts = torch.tensor([0, 9, -1], device=device), torch.tensor([0, 3, 3], device=device)
    sums = torch.zeros(2, 3, 2, dtype=torch.float64, device=device)
    ops.segment_sums(hidden, order, starts, sums)
    assert sums[0].unique().tolist() == [1.0]
    far = torch.tensor([2, 1], device=device)
    ops.segment_sums(hidden, order, starts, sums, write=far)
    assert sums[0].unique().tolist() == [1.0]


def test_a_table_of_types_is_that_of_the_cpu(device):
    counts = torch.bincount(zipf_ids(50_000), minlength=500).numpy()
    tables = {}
    for where in ("cpu", device):
        types = TypeTable(["p"], TypeBuckets.of_counts(counts, 64), device=where)
        for seed in range(4):
            ids = zipf_ids(700, seed).to(where)
            group = (torch.arange(700) % 3).to(torch.uint8).to(where)
            types.begin(ids, group)
            types.add("p", checks.hidden_states(700, 96, torch.bfloat16, seed=seed).to(where))
            types.discard() if seed == 2 else types.commit()
        tables[str(where)] = types.state_dict()
    a, b = tables.values()
    assert torch.equal(a["tokens"], b["tokens"])
    torch.testing.assert_close(a["p/sums"], b["p/sums"], rtol=1e-12, atol=1e-12)


def test_an_id_without_a_bucket_is_named_when_the_state_is_asked_for(device):
    types = TypeTable(["p"], TypeBuckets.of_counts(torch.arange(9).numpy(), 4), device=device)
    types.begin(
        torch.tensor([3, 9], device=device), torch.ones(2, dtype=torch.uint8, device=device)
    )
    types.add("p", torch.ones(2, 8, device=device))
    types.commit()
    with pytest.raises(DataError, match=r"1 counted tokens have ids outside of \[0, 9\)"):
        types.state_dict()
