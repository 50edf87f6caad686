"""What is to be predicted: next tokens, masks that are a function of document and position."""

import numpy as np
import pytest
from outdim.tokens import Piece
from outdim.tokens.targets import (
    _uniform,
    each_masked,
    masked,
    next_tokens,
    seen,
    target_batches,
)

MASK = 4


def piece(text: list[int], *, document: int = 0, offset: int = 0) -> Piece:
    """[CLS] text [SEP]."""
    ids = np.array([2, *text, 3])
    group = np.array([2, *[1] * len(text), 2], np.uint8)
    return Piece(ids, group, document, offset, key=document)


def test_every_token_of_the_text_is_predicted_from_the_one_before():
    assert next_tokens(piece([7, 8, 9])).labels.tolist() == [7, 8, 9, -1, -1]
    bare = Piece(np.array([7, 8, 9]), np.array([3, 1, 1], np.uint8), 0, 0, 0)
    assert next_tokens(bare).labels.tolist() == [8, 9, -1]
    excluded = Piece(np.array([7, 8, 9]), np.array([3, 0, 1], np.uint8), 0, 0, 0)
    assert next_tokens(excluded).labels.tolist() == [-1, 9, -1]


def test_random_numbers_are_those_of_splitmix64():
    """The reference outputs of the published C code for the state 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    found = (
        _uniform(1234567, 0, np.array([0]))[0],
        *(_uniform(1234567, stream, np.array([0]))[0] for stream in (1, 2)),
    )
    assert [int(x * 2**53) for x in found] == [x >> 11 for x in expected]


def test_masks_are_a_function_of_key_and_position():
    rng = np.random.default_rng(0)
    text = rng.integers(10, 100, 50_000).tolist()
    replacements = np.arange(10, 100)
    whole = masked(piece(text), 99, 0.15, MASK, replacements)
    chosen = whole.labels >= 0
    assert not chosen[[0, -1]].any()
    assert abs(chosen.sum() / 50_000 - 0.15) < 4 * np.sqrt(0.15 * 0.85 / 50_000)
    np.testing.assert_array_equal(whole.labels[chosen], piece(text).ids[chosen])
    np.testing.assert_array_equal(whole.ids[~chosen], piece(text).ids[~chosen])
    n = chosen.sum()
    share = (whole.ids[chosen] == MASK).sum() / n
    assert abs(share - 0.8) < 4 * np.sqrt(0.16 / n)
    same = (whole.ids[chosen] == whole.labels[chosen]).sum() / n
    assert abs(same - 0.1 - 0.1 / 90) < 4 * np.sqrt(0.09 / n)
    again = masked(piece(text, document=7), 99, 0.15, MASK, replacements)
    np.testing.assert_array_equal(again.ids, whole.ids)
    other = masked(piece(text), 100, 0.15, MASK, replacements)
    both = ((other.labels >= 0) & chosen).sum() / 50_000
    assert abs(both - 0.15**2) < 4 * np.sqrt(0.0225 / 50_000)


def test_a_part_of_a_document_has_masks_of_its_own():
    text = list(range(10, 60))
    first = masked(piece(text), 5, 0.3, MASK, np.arange(10, 60))
    later = masked(piece(text, offset=50), 5, 0.3, MASK, np.arange(10, 60))
    assert (first.labels >= 0).tolist() != (later.labels >= 0).tolist()


def test_a_token_is_masked_with_the_rest_of_its_word():
    items = list(each_masked(piece([7, 8, 9, 7]), [None, 0, 1, 1, 2, None], MASK))
    assert [item.ids.tolist() for item in items] == [
        [2, MASK, 8, 9, 7, 3],
        [2, 7, MASK, MASK, 7, 3],
        [2, 7, 8, MASK, 7, 3],
        [2, 7, 8, 9, MASK, 3],
    ]
    assert [item.labels.max() for item in items] == [7, 8, 9, 7]


@pytest.mark.parametrize("budget", [6, 20, 1000])
def test_batches_hold_every_label_once(budget):
    pieces = [piece(list(range(10, 10 + n)), document=n) for n in (3, 9, 1, 5, 5)]
    found = {}
    for batch in target_batches(map(next_tokens, pieces), budget, multiple=4):
        assert batch.labels.shape == batch.input_ids.shape
        assert batch.input_ids.shape[1] % 4 == 0
        parts = batch.halves() if len(batch.labels) > 1 else [batch]
        for part in parts:
            for row, document in zip(part.labels, part.batch.documents.tolist(), strict=True):
                found.setdefault(document, []).append(row[row >= 0].tolist())
    assert found.pop(5) == [list(range(10, 15))] * 2
    assert found == {n: [list(range(10, 10 + n))] for n in (3, 9, 1)}


def test_what_is_seen_is_predicted_where_it_stands():
    item = seen(piece([7, 8, 9], offset=3))
    assert item.labels.tolist() == [-1, 7, 8, 9, -1]
    assert item.ids.tolist() == [2, 7, 8, 9, 3]
    excluded = Piece(np.array([7, 8, 9]), np.array([3, 0, 1], np.uint8), 0, 0, 0)
    assert seen(excluded).labels.tolist() == [7, -1, 9]


@pytest.mark.parametrize("make", [next_tokens, seen])
def test_places_are_those_in_the_document(make):
    """With the template before the text, as often as a document has pieces."""
    text = list(range(10, 40))
    cut = [(0, 7), (7, 19), (19, 30)]
    items = [make(piece(text[a:b], offset=a)) for a, b in cut]
    found = {}
    for batch in target_batches(items, 64):
        place = batch.first[:, None] + batch.batch.position
        for part in (batch, *batch.halves()):
            assert len(part.first) == len(part.labels)
        for label, at in zip(
            batch.labels[batch.labels >= 0], place[batch.labels >= 0], strict=True
        ):
            found[int(at) - 1] = int(label)  # one token of the template
    assert found == dict(enumerate(text))
