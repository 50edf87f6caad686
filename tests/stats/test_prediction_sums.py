"""Sums of predictions: what is put in comes out, however it is split and merged."""

import numpy as np
import pytest
import torch
from outdim.errors import DataError
from outdim.stats.prediction_sums import Layout, PredictionSums

LAYOUT = Layout(2, 3, variants=2, vocab_size=11, hidden_size=4, classes=5)
ROWS = 400


@pytest.fixture
def rows() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(-1, 11, (3, ROWS), generator=generator)
    ids[0].clamp_(min=0)
    return {
        "cell": torch.randint(0, LAYOUT.cells, (ROWS,), generator=generator),
        "ids": ids,
        "states": torch.randn(2, LAYOUT.cells, 2, 4, generator=generator, dtype=torch.float64),
        "classes": torch.randint(-1, 5, (3, ROWS), generator=generator),
    }


def filled(rows, part=slice(None), states: bool = True) -> PredictionSums:
    sums = PredictionSums(LAYOUT)
    sums.add(rows["cell"][part], rows["ids"][:, part], list(rows["states"]) if states else [])
    classes = rows["classes"][:, part]
    sums.add_classes(rows["cell"][part], classes[0], classes[1:])
    return sums


def test_counts_are_those_of_a_loop(rows):
    found = filled(rows)
    for reading in range(2):
        own = found.of_reading(reading)
        expected = np.zeros((3, 3, 11))
        tables = np.zeros((3, 2, 5, 5))
        for row in range(ROWS):
            cell = int(rows["cell"][row])
            if cell // 3 != reading:
                continue
            for series in range(3):
                if rows["ids"][series, row] >= 0:
                    expected[cell % 3, series, rows["ids"][series, row]] += 1
            true = rows["classes"][0, row]
            for variant, predicted in enumerate(rows["classes"][1:, row]):
                if true >= 0 and predicted >= 0:
                    tables[cell % 3, variant, true, predicted] += 1
        np.testing.assert_array_equal(own.counts, expected[:, :, own.ids])
        assert expected.sum() == own.counts.sum()
        np.testing.assert_array_equal(own.classes, tables)
        np.testing.assert_array_equal(own.rows, own.counts[:, 0].sum(-1))
        np.testing.assert_array_equal(own.rows[:, None] - own.amiss, own.counts[:, 1:].sum(-1))
        np.testing.assert_array_equal(own.rows[:, None] - own.untagged, own.classes.sum((2, 3)))


@pytest.mark.parametrize("cut", [0, 1, 37, ROWS])
def test_every_split_gives_the_same_bytes(rows, cut, monkeypatch):
    whole = filled(rows).state_dict()
    monkeypatch.setattr("outdim.stats.prediction_sums._PENDING", 10)
    first, second = filled(rows, slice(None, cut)), filled(rows, slice(cut, None), states=False)
    merged = PredictionSums(LAYOUT).merge(first.state_dict()).merge(second.state_dict())
    found = merged.state_dict()
    assert found.keys() == whole.keys()
    for name, tensor in whole.items():
        assert tensor.dtype == found[name].dtype, name
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)


def test_the_output_layer_is_known_from_the_first_state_that_has_it(rows):
    one, other = PredictionSums(LAYOUT), PredictionSums(LAYOUT)
    other.read_out = torch.ones(4, 4, dtype=torch.float64)
    assert one.merge(other.state_dict()).read_out.tolist() == [[1.0] * 4] * 4


def test_another_layout_is_refused_and_changes_nothing(rows):
    sums = filled(rows)
    before = {name: tensor.clone() for name, tensor in sums.state_dict().items()}
    other = PredictionSums(Layout(2, 3, variants=3, vocab_size=11, hidden_size=4, classes=5))
    with pytest.raises(DataError, match=r"state: expected \(6, 2\) at amiss, got \(6, 3\)"):
        sums.merge(other.state_dict())
    for name, tensor in sums.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_without_states_and_parts_of_speech_there_are_none():
    sums = PredictionSums(Layout(1, 2, variants=1, vocab_size=5))
    sums.add(torch.tensor([0, 1]), torch.tensor([[1, 2], [3, -1]]), [])
    own = sums.of_reading(0)
    assert own.states.shape == (2, 1, 2, 0)
    assert own.classes.size == 0
    assert own.amiss.tolist() == [[0], [1]]
