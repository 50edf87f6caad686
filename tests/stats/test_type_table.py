"""stats.TypeTable: buckets from counts, transactions, merges, its state."""

import numpy as np
import pytest
import torch
from ops.oracles import hidden_states, zipf_ids
from outdim.errors import ArgumentError, DataError
from outdim.stats.type_buckets import TypeBuckets, fitting_buckets, table_bytes
from outdim.stats.type_table import TypeTable

V = 500


def zipf_counts(size=V):
    return (1e6 / np.arange(1, size + 1) ** 1.1).astype(np.int64)


def batches(number=6, rows=90, d=20):
    """(ids, group, hidden by point); rows of group 0, 2 and 3 have ids and values of nowhere."""
    for seed in range(number):
        ids, group = zipf_ids(rows, seed), (torch.arange(rows) % 4).to(torch.uint8)
        hidden = {p: hidden_states(rows, d, seed=seed + s) for s, p in enumerate(("a", "b"))}
        ids[group != 1] = -100
        for h in hidden.values():
            h[group != 1] = torch.nan
        yield ids, group, hidden


def table(size=64):
    return TypeTable(["a", "b"], TypeBuckets.of_counts(zipf_counts(), size))


def feed(types, items):
    for ids, group, hidden in items:
        types.begin(ids, group)
        for point, h in hidden.items():
            types.add(point, h)
        types.commit()
    return types


def same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(
        a[key].numpy().tobytes() == b[key].numpy().tobytes() for key in a
    )


def test_sums_of_every_bucket():
    types = feed(table(), batches())
    state, bucket = types.state_dict(), types.buckets.bucket
    for point in ("a", "b"):
        want = np.zeros((len(types.buckets), 3, 20))
        tokens = np.zeros(V, np.int64)
        for ids, group, hidden in batches():
            for i in (group == 1).nonzero().flatten().tolist():
                h = hidden[point][i].double().numpy()
                want[bucket[ids[i]]] += np.stack([h, abs(h), h * h])
                tokens[ids[i]] += 1
        np.testing.assert_array_equal(state["tokens"], tokens)
        present = np.unique(bucket[tokens > 0])
        np.testing.assert_array_equal(state[f"{point}/sums"], want[present])


def test_a_discarded_batch_leaves_nothing():
    types = table()
    for ids, group, hidden in batches():
        types.begin(ids, group)
        types.add("a", torch.full_like(hidden["a"], 7))  # then memory runs out
        types.discard()
        types.commit()  # nothing is under way
        types.begin(ids, group)
        types.add("a", torch.full_like(hidden["a"], 8))  # the same, and nobody says so
        feed(types, [(ids, group, hidden)])
    assert same_state(types, feed(table(), batches()))


def test_a_batch_split_in_two_gives_the_same_bytes():
    halves = []
    for ids, group, hidden in batches():
        for part in (slice(0, 37), slice(37, None)):
            halves.append((ids[part], group[part], {p: h[part] for p, h in hidden.items()}))
    assert same_state(feed(table(), halves), feed(table(), batches()))


def test_batches_without_any_row_that_counts():
    nothing = (torch.full((4,), -1), torch.zeros(4, dtype=torch.uint8))
    hidden = {p: torch.full((4, 20), torch.nan) for p in ("a", "b")}
    types = feed(table(), [(*nothing, hidden)])
    assert types.state_dict()["a/sums"].shape[0] == 0
    assert same_state(feed(types, batches()), feed(table(), batches()))
    assert table().state_dict()["a/sums"].shape == (0, 3, 0)


def test_merges_add():
    whole = feed(table(), batches()).state_dict()
    items = list(batches())
    for cut in range(len(items) + 1):
        first, second = feed(table(), items[:cut]), feed(table(), items[cut:])
        merged = first.merge(second.state_dict())
        again = table().merge(feed(table(), items[:cut]).state_dict()).merge(second.state_dict())
        assert same_state(merged, again)
        for key, tensor in merged.state_dict().items():
            torch.testing.assert_close(tensor, whole[key], rtol=1e-13, atol=1e-11)
    # A table that was merged into goes on as any other.
    assert same_state(
        feed(feed(table(), items[:2]).merge(table().state_dict()), items[2:]),
        feed(table(), items),
    )


def test_a_merge_outside_of_inference_mode():
    with torch.inference_mode():
        types = feed(table(), batches(2))
    types.merge(feed(table(), batches(2)).state_dict())
    feed(types, batches(1))
    per_batch = int((next(batches())[1] == 1).sum())
    assert int(types.state_dict()["tokens"].sum()) == 5 * per_batch


def test_only_touched_buckets_are_held_twice():
    types = feed(table(), batches())
    rows = torch.cat([types._row, types._spare[:-1]])
    assert sorted(rows.tolist()) == list(range(2 * len(types.buckets)))
    touched = max(
        len(np.unique(types.buckets.bucket[ids[group == 1]])) for ids, group, _ in batches()
    )
    written = types._row[types._seen].tolist()
    assert max(written) < len(types.buckets) + touched


def test_errors():
    types = table()
    ids, group, hidden = next(batches())
    with pytest.raises(RuntimeError, match="begin was not called"):
        types.add("a", hidden["a"])
    with pytest.raises(ArgumentError, match=r"ids: expected token ids in \[0, 500\), got -100"):
        types.begin(ids, torch.ones_like(group))
    types.begin(ids, group)
    with pytest.raises(ArgumentError, match="point: expected one of a, b, got c"):
        types.add("c", hidden["a"])
    types.add("a", hidden["a"])
    with pytest.raises(RuntimeError, match="no hidden states at b"):
        types.commit()
    state = feed(table(), batches()).state_dict()
    with pytest.raises(DataError, match="other buckets"):
        table(32).merge(state)
    with pytest.raises(DataError, match="state: expected the keys"):
        TypeTable(["a"], types.buckets).merge(state)
    with pytest.raises(DataError, match=r"damaged: b/sums has"):
        table().merge(state | {"b/sums": state["b/sums"][1:]})
    with pytest.raises(DataError, match="expected 20 dimensions at a, got 19"):
        feed(table(), batches()).merge(state | {"a/sums": state["a/sums"][:, :, 1:]})


@pytest.mark.parametrize("size", [2, 3, 8, 64, 128, 499, 500, 1024])
def test_every_id_has_a_bucket_among_its_like(size):
    counts = np.append(zipf_counts(V - 40), np.zeros(40, np.int64))
    counts = np.random.default_rng(0).permutation(counts)
    buckets = TypeBuckets.of_counts(counts, size)
    assert len(buckets) <= size
    assert np.array_equal(np.unique(buckets.bucket), np.arange(len(buckets)))
    alone = len(buckets.alone)
    assert alone == (V if size >= V else size // 2)
    np.testing.assert_array_equal(buckets.bucket[buckets.alone], np.arange(alone))
    assert (np.diff(buckets.stratum) >= 0).all()
    # Strata do not overlap in frequency, and their buckets have as many types.
    stratum = buckets.stratum[buckets.bucket]
    for s in range(1, int(stratum.max(initial=0)) + 1):
        assert counts[stratum == s].max() <= counts[stratum == s - 1].min()
        types = np.bincount(buckets.bucket, minlength=len(buckets))[buckets.stratum == s]
        assert types.max() - types.min() <= 1


def test_buckets_are_those_of_the_counts_alone():
    a, b = (TypeBuckets.of_counts(zipf_counts(), 64) for _ in range(2))
    assert torch.equal(a.digest, b.digest)
    changed = TypeBuckets.of_counts(zipf_counts()[::-1], 64)
    assert not torch.equal(a.digest, changed.digest)
    for counts, size, text in (
        (np.zeros(0), 4, "counts: expected"),
        (np.zeros((2, 2)), 4, "counts: expected"),
        (np.ones(9), 1, "buckets: expected at least 2, got 1"),
    ):
        with pytest.raises(ArgumentError, match=text):
            TypeBuckets.of_counts(counts, size)


def test_memory_is_known_beforehand():
    assert table_bytes(1024, 13, 768) == 245_366_784
    assert fitting_buckets(7, 384) == 1024
    assert fitting_buckets(33, 4096) == 64
    assert fitting_buckets(80, 1 << 14) == 32  # never less, whatever it takes
