"""Sums of what heads attend to: sequences in which a sliding window leaves no key to judge."""

import numpy as np
import pytest
import torch
from outdim.analysis.results.attention_side import AttentionSide
from outdim.ops import attention_received
from outdim.stats.head_sums import HeadSums

WINDOW, GROUPS, HEADS = 4, 3, 2


class Layers:
    """What a head finds of sequences of some lengths, with and without a sliding window."""

    def __init__(self, lengths, values=None, dtype=torch.float32):
        self.sums = HeadSums(len(lengths), GROUPS, (1, 2), HEADS, 1)
        self.ratios = []
        generator = torch.Generator().manual_seed(0)
        for block, length in enumerate(lengths):
            states = torch.randn(3, 1, HEADS, length, 8, generator=generator)
            query, key, value = states.to(dtype)
            if values is not None:
                value = torch.full_like(value, values[block])
            ids = torch.arange(length)[None]
            group = torch.ones(1, length, dtype=torch.uint8)
            place, starts = torch.zeros(1, length, 1).double(), torch.ones(1, dtype=torch.bool)
            self.sums.begin(ids, group, torch.tensor([block]), place, starts)
            for layer, window in ((1, WINDOW), (2, None)):
                received = attention_received(
                    query, key, causal=True, window=window, group=self.sums.query_groups,
                    groups=2 * GROUPS, entropy=True,
                )  # fmt: skip
                self.sums.add(layer, received, value)
                if window and length <= 2 * WINDOW:
                    self.ratios.append(ratio_of(received, value, length))
            self.sums.commit()

    def statistics(self):
        side = AttentionSide({1: HEADS, 2: HEADS}, self.sums, {}, {})
        return {name: (n, found) for name, _, _, n, found in side.of_heads()}


def ratio_of(received, value, length):
    """Norm at the most attended of the keys that half of the queries see, over the mean norm."""
    mean, seen = received.mean()[0], received.seen.sum(1)[0, 0]
    at = torch.where(2 * seen >= length, mean, -1).argmax(-1)
    norms = value[0].double().norm(dim=-1)
    return (norms[torch.arange(HEADS), at] / norms.mean(-1)).numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_sequences_without_a_key_to_judge_count_for_nothing(dtype):
    layers = Layers([8, 30, 6, 40], dtype=dtype)
    found = layers.statistics()
    for name in ("vertical", "value_ratio"):
        n, _ = found[name]
        assert n.tolist() == [[2.0, 2.0], [4.0, 4.0]]
    np.testing.assert_allclose(
        found["value_ratio"][1].value[0], np.mean(layers.ratios, 0), rtol=1e-6
    )


def test_where_no_sequence_has_one_nothing_is_said():
    found = Layers([30, 40]).statistics()
    for name in ("vertical", "value_ratio"):
        n, estimate = found[name]
        assert n.tolist() == [[0.0, 0.0], [2.0, 2.0]]
        assert np.isnan(estimate.value[0]).all()
        assert np.isfinite(estimate.value[1]).all()


@pytest.mark.parametrize("bad", [torch.nan, 0.0])
def test_values_without_a_ratio_hide_no_other_sequence(bad):
    found = Layers([8, 7, 6], values=[1.0, bad, 1.0]).statistics()
    np.testing.assert_allclose(found["value_ratio"][1].value, 1.0, rtol=1e-6)
    assert found["value_ratio"][0].tolist() == [[2.0, 2.0]] * 2
    assert found["vertical"][0].tolist() == [[3.0, 3.0]] * 2
