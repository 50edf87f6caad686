"""PointComoments: whole forwards only, merged in order, and states that do not belong."""

import pytest
import torch
from ops.oracles import same_bytes
from outdim.errors import DataError
from outdim.ops import comoments
from outdim.stats import PointComoments

GROUPS = ("text", "special")


def forward(seed, n=40):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(1, n, 6, generator=generator)
    rows = torch.rand(3, n, dtype=torch.float64, generator=generator)
    group = torch.randint(0, 3, (n,), generator=generator).byte()
    return hidden, rows, group


def filled(*seeds):
    sums = PointComoments(("read", "written"), GROUPS, 3)
    for seed in seeds:
        hidden, rows, group = forward(seed)
        sums.begin(torch.zeros(40, dtype=torch.int64), group, rows)
        sums.add("read", hidden)
        sums.commit()
    return sums


def test_forwards_add_up_and_those_that_fail_leave_nothing():
    sums, parts = filled(1, 2), [forward(1), forward(2)]
    hidden, rows, group = (
        torch.cat([part[i] for part in parts], axis) for i, axis in enumerate((1, 1, 0))
    )
    whole = comoments(hidden, rows, group, 2)
    for found, want in zip(sums.of("read"), whole, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-13)
    before = sums.state_dict()
    hidden, rows, group = forward(3)
    sums.begin(torch.zeros(40), group, rows)
    sums.add("read", hidden)
    sums.discard()
    sums.commit()
    assert same_bytes(before.values(), sums.state_dict().values())
    assert before.keys() == {"read/head", "read/body"}  # "written" was never reached


def test_states_merge_as_of_later_rows():
    merged = filled(1).merge(filled(2).state_dict())
    assert same_bytes(merged.of("read"), filled(1, 2).of("read"))
    empty = PointComoments(("read", "written"), GROUPS, 3)
    assert same_bytes(empty.merge(filled(1).state_dict()).of("read"), filled(1).of("read"))


def test_what_forwards_in_inference_mode_gave_is_merged_outside_of_it():
    with torch.inference_mode():
        mine = filled(1)
    assert same_bytes(mine.merge(filled(2).state_dict()).of("read"), filled(1, 2).of("read"))


@pytest.mark.parametrize(
    ("field", "change", "text"),
    [
        ("read/head", lambda part: part[:, :5], "read/head: expected (2, 7) float64"),
        ("read/body", lambda part: part[:1], "read/body: expected (2, 5, 6) float64"),
        ("read/body", lambda part: part.float(), "got (2, 5, 6) torch.float32"),
        ("other/body", lambda part: part, "expected the points read, written"),
    ],
)
def test_states_that_do_not_belong_are_refused(field, change, text):
    mine, state = filled(1), filled(2).state_dict()
    state[field] = change(state.get(field, state["read/body"]))
    before = mine.state_dict()
    with pytest.raises(DataError, match="state: ") as caught:
        mine.merge(state)
    assert text in str(caught.value)
    assert same_bytes(before.values(), mine.state_dict().values())
