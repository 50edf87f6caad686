"""The largest tokens: those of a full sort, whatever the batches and the order of merging."""

import itertools

import numpy as np
import pytest
import torch
from outdim.errors import DataError
from outdim.stats.extreme_tokens import AFTER, BEFORE, ExtremeTokens

POINTS, DIMS, KEPT = ("a", "b"), 2, 5


def sequences(seed=0, count=12):
    """Documents of two sequences of several lengths each, with values that tie often."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        length = int(rng.integers(1, 20))
        values = {point: torch.tensor(rng.integers(-2, 3, (length, DIMS)).astype(float))
                  for point in POINTS}  # fmt: skip
        place = number // 2, 19 * (number % 2)
        found.append((place, torch.tensor(rng.integers(0, 99, length)), values))
    return found


def taken(given, size):
    """In batches of so many sequences, padded, the first token of each left out."""
    tokens = ExtremeTokens(POINTS, DIMS, KEPT)
    for start in range(0, len(given), size):
        part = given[start : start + size]
        width = max(len(ids) for _, ids, _ in part)
        ids = torch.full((len(part), width), -1)
        columns = {point: torch.full((len(part), width, DIMS), torch.nan) for point in POINTS}
        kept = torch.zeros(len(part), width, dtype=torch.bool)
        for row, (_, one, values) in enumerate(part):
            ids[row, : len(one)] = one
            kept[row, 1 : len(one)] = True
            for point in POINTS:
                columns[point][row, : len(one)] = values[point]
        documents, offsets = torch.tensor([place for place, _, _ in part]).unbind(1)
        tokens.add(columns, kept, ids, documents, offsets)
        tokens.commit()
        tokens.add(columns, kept, ids, documents, offsets)
        tokens.discard()
    return tokens


def expected(given, point, dim):
    every = [
        (-abs(float(values[point][position, dim])), *place, position, int(ids[position]))
        for place, ids, values in given
        for position in range(1, len(ids))
    ]
    return sorted(every)[:KEPT]


@pytest.mark.parametrize("size", [1, 3, 12])
def test_they_are_those_of_a_full_sort(size):
    given = sequences()
    ids_at = {place: ids.tolist() for place, ids, _ in given}
    tokens = taken(given[::-1], size)
    for point, dim in itertools.product(POINTS, range(DIMS)):
        found = tokens.tokens(point, dim)
        assert [(-abs(one.value), *one[1:5]) for one in found] == (expected(given, point, dim))
        for one in found:
            ids = ids_at[one.document, one.offset]
            assert list(one.before) == ids[max(0, one.position - BEFORE) : one.position]
            assert list(one.after) == ids[one.position + 1 : one.position + 1 + AFTER]


def test_merging_knows_no_order():
    given = sequences()
    parts = [given[:1], given[1:6], given[6:]]
    states = [taken(part, 2).state_dict() for part in parts]
    whole = taken(given, 4).state_dict()
    for order in itertools.permutations(states):
        merged = ExtremeTokens(POINTS, DIMS, KEPT)
        for state in order:
            merged.merge(state)
        for name, tensor in merged.state_dict().items():
            assert torch.equal(tensor, whole[name])


def test_values_that_are_not_finite_and_places_that_are_empty_are_left_out():
    tokens = ExtremeTokens(("a",), 1, KEPT)
    column = torch.tensor([[[1.0], [torch.nan], [torch.inf], [-3.0]]])
    tokens.add({"a": column}, torch.ones(1, 4, dtype=torch.bool), torch.arange(4)[None],
               torch.tensor([7]), torch.tensor([0]))  # fmt: skip
    tokens.commit()
    assert [(one.value, one.position) for one in tokens.tokens("a", 0)] == [(-3.0, 3), (1.0, 0)]


def test_a_state_of_other_points_is_refused():
    with pytest.raises(DataError, match=r"expected \(2, 2, 5\) values, got \(1, 2, 5\)"):
        ExtremeTokens(POINTS, DIMS, KEPT).merge(ExtremeTokens(("a",), DIMS, KEPT).state_dict())
