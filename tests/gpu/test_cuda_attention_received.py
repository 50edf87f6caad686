"""attention_received on a GPU against float64."""

import pytest
import torch
from gpu import checks
from outdim import ops

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("name", checks.ATTENTION_OPTIONS)
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1, 1, 1), (2, 4, 2, 37, 37, 20), (3, 6, 1, 130, 130, 64), (2, 12, 12, 512, 512, 64),
     (2, 2, 2, 7, 130, 33), (1, 4, 2, 300, 300, 80), (1, 2, 1, 150, 150, 128),
     (1, 2, 1, 150, 150, 256), (1, 2, 1, 150, 150, 500)],
)  # fmt: skip
def test_matches_the_reference(device, shape, name, dtype):
    options = checks.attention_options(shape[0], shape[1], *shape[3:5])[name]
    checks.check_attention_received(device, shape, dtype, **options)


def test_a_group_that_there_is_not_is_left_out(device):
    query = torch.randn(1, 1, 9, 4, device=device)
    group = torch.full((1, 9), 7, dtype=torch.uint8, device=device)
    found = ops.attention_received(query, query, group=group, groups=2)
    assert not bool(found.sums.any())
