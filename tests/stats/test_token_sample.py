"""A sample of tokens: even, and the same for every split into batches and order of merging."""

import numpy as np
import pytest
import torch
from outdim.errors import DataError
from outdim.stats.token_sample import TokenSample

KEPT = 50


@pytest.fixture(scope="module")
def stream():
    """Documents, places and states of 2,000 tokens, the first value of a state its number."""
    rng = np.random.default_rng(0)
    documents = torch.from_numpy(np.sort(rng.integers(0, 60, 2000)))
    starts = torch.searchsorted(documents, documents)
    places = torch.arange(2000) - starts
    states = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    states[:, 0] = torch.arange(2000)
    return documents, places, states


def taken(stream, rows, size=64, chosen=None) -> TokenSample:
    found = TokenSample(["a", "b"], KEPT)
    for part in torch.split(rows, size):
        documents, places, states = (tensor[part] for tensor in stream)
        kept = torch.ones(len(part), dtype=torch.bool) if chosen is None else chosen[part]
        found.begin(documents, places, kept)
        for point, own in (("a", states), ("b", -states), ("other", states)):
            found.add(point, own)
        found.commit()
    return found


def same(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_any_split_and_order_keeps_the_same(stream):
    rows = torch.arange(2000)
    whole = taken(stream, rows)
    assert len(whole.sample("a").rows) == KEPT
    assert torch.equal(whole.sample("b").rows, -whole.sample("a").rows)
    numbers = whole.sample("a").rows[:, 0].long()
    assert torch.equal(whole.sample("a").keys, stream[0][numbers])
    assert whole.sample("other") is None
    assert same(whole, taken(stream, rows, 1999))
    assert same(whole, taken(stream, rows[torch.randperm(2000)], 37))
    parts = [taken(stream, part) for part in (rows[:30], rows[30:900], rows[900:])]
    left = TokenSample(["a", "b"], KEPT)
    for part in parts:
        left.merge(part.state_dict())
    right = TokenSample(["a", "b"], KEPT).merge(parts[2].state_dict())
    right.merge(TokenSample(["a", "b"], KEPT).merge(parts[1].state_dict()).state_dict())
    right.merge(parts[0].state_dict())
    assert same(left, whole)
    assert same(right, whole)


def test_copies_of_a_token_take_no_more_room_than_one(stream):
    whole = taken(stream, torch.arange(2000))
    drawn = whole.sample("a").rows[3, 0].long()
    rows = torch.cat([torch.arange(2000), drawn.expand(400)])
    assert same(whole, taken(stream, rows))
    assert same(whole, taken(stream, rows.flip(0), 500))
    assert same(whole, taken(stream, rows[:900]).merge(taken(stream, rows[900:]).state_dict()))


def test_every_token_is_as_likely_as_any_other():
    """Of 400 texts of 200 tokens, 50 kept: each place a quarter of the times."""
    times = np.zeros(200)
    for text in range(400):
        found = TokenSample(["a"], KEPT)
        documents = torch.full((200,), 7919 * text)
        found.begin(documents, torch.arange(200), torch.ones(200, dtype=torch.bool))
        found.add("a", torch.arange(200.0)[:, None])
        found.commit()
        times[found.sample("a").rows[:, 0].long().numpy()] += 1
    expected = 400 / 4
    chi = ((times - expected) ** 2 / (expected * 0.75)).sum()
    assert 199 - 4 * 20 < chi < 199 + 4 * 20  # chi-square, 199 degrees of freedom: 199 +- 20


def test_what_is_not_chosen_or_discarded_is_not_there(stream):
    rows, chosen = torch.arange(2000), torch.arange(2000) % 2 == 0
    found = taken(stream, rows, chosen=chosen)
    assert (found.sample("a").rows[:, 0] % 2 == 0).all()
    before = found.state_dict()
    found.begin(stream[0][:5] + 100, stream[1][:5], chosen[:5])
    found.add("a", stream[2][:5])
    found.discard()
    assert same(found, TokenSample(["a", "b"], KEPT).merge(before))


def test_a_state_of_others_is_refused(stream):
    found = taken(stream, torch.arange(100))
    before = found.state_dict()
    for state in (
        {**before, "c": before["a"]},
        {name: part for name, part in before.items() if name != "b"},
        {**before, "a": before["a"][:, :2]},
        {**before, "number": before["number"][:1]},
    ):
        with pytest.raises(DataError, match="state: expected rows of a, b"):
            found.merge(state)
    assert same(found, TokenSample(["a", "b"], KEPT).merge(before))
