"""The influence of rows: the derivative that it is, and what it averages."""

import pytest
import torch
from outdim.stats.spectrum import effective_rank, influence, participation_ratio

STATISTICS = (effective_rank, participation_ratio, lambda means: means / means.sum())


@pytest.mark.parametrize("statistic", STATISTICS)
def test_influence_is_how_far_one_more_row_moves_it(statistic):
    rows = torch.rand(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows[:, 2] = 0  # variance nowhere: the entropy has no slope there
    mean, step = rows.mean(0), 1e-6
    found = influence(statistic, mean, rows)
    moved = torch.stack([statistic(mean + step * (row - mean)) for row in rows])
    torch.testing.assert_close(found, (moved - statistic(mean)) / step, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.sum(0), torch.zeros_like(found[0]))
