"""Sums by block: whole forwards only, cells, merging, shapes that do not fit."""

import numpy as np
import pytest
import torch
from outdim.errors import DataError
from outdim.stats.block_sums import BlockSums


def filled(rows, blocks=4, discarded=False):
    sums = BlockSums(blocks)
    for block, cell, value in rows:
        sums.add("plain", torch.tensor([block]), torch.tensor([[value, 2 * value]]))
        sums.add_cells("cells", torch.tensor([block * 3 + cell]), 3, torch.tensor([value]))
        sums.commit()
        if discarded:
            sums.add("plain", torch.tensor([block]), torch.tensor([[9.0, 9.0]]))
            sums.discard()
    return sums


ROWS = [(0, 1, 1.5), (3, 2, 2.0), (0, 1, 4.0), (1, 0, -1.0)]


def test_rows_are_added_to_their_block_and_cell():
    sums = filled(ROWS, discarded=True)
    assert sums["plain"].tolist() == [[5.5, 11], [-1, -2], [0, 0], [2, 4]]
    assert sums["cells"].shape == (4, 3)
    assert sums["cells"][0].tolist() == [0, 5.5, 0]
    assert sums["cells"].sum() == 6.5
    assert "nothing" not in sums


def test_a_value_that_is_not_finite_stays_in_its_cell():
    sums = filled([*ROWS, (0, 0, np.nan)])
    assert np.isnan(sums["cells"]).sum() == 1
    assert np.isnan(sums["plain"][0]).all()
    assert np.isfinite(sums["plain"][1:]).all()


@pytest.mark.parametrize("cut", range(5))
def test_merging_is_adding(cut):
    merged = filled(ROWS[:cut]).merge(filled(ROWS[cut:]).state_dict())
    for name in ("plain", "cells"):
        np.testing.assert_array_equal(merged[name], filled(ROWS)[name])


def test_a_state_of_another_shape_is_refused_whole():
    sums, before = filled(ROWS), filled(ROWS)["plain"].copy()
    with pytest.raises(DataError, match=r"expected \(4, 2\) at plain, got \(5, 2\)"):
        sums.merge(filled(ROWS, blocks=5).state_dict())
    np.testing.assert_array_equal(sums["plain"], before)
