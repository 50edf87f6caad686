"""comoments on a GPU, by the kernel of all moments, against the reference."""

import pytest
from gpu import checks

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize(
    ("n", "d", "margin"), [(0, 64, 0), (1, 1, 0), (37, 130, 3), (4096, 769, 8)]
)
def test_matches_the_reference(device, n, d, margin, dtype):
    checks.check_comoments(device, n, d, dtype, margin)
