"""Every comparison of the kept values can fail: a change just beyond what is allowed is seen."""

import copy

import numpy as np
import pytest
from golden.compare import compare_counts, compare_plain, compare_sums, compare_tables, tolerances
from golden.kept import OTHER_FORWARD, SAME_FORWARD, Kept

FAST = ("bert", "gpt2", "llama", "minilm")


@pytest.fixture(scope="module", params=FAST)
def kept(request):
    return Kept(request.param)


@pytest.mark.parametrize("accuracy", [SAME_FORWARD, OTHER_FORWARD])
def test_values(kept, accuracy):
    table = kept.table
    compare_tables(table, table, accuracy)
    allowed = tolerances(table, accuracy)
    finite = table[table.value.notna()]
    one_each = finite.groupby(["point", "selection", "statistic", "covariate"]).sample(
        1, random_state=0
    )
    assert set(one_each.statistic) == set(table.statistic)
    for change in (1.01 * allowed[one_each.index] + 1e-14, np.nan):
        changed = table.copy()
        changed.loc[one_each.index, "value"] += change
        with pytest.raises(AssertionError, match=f"allowed of {len(one_each)}:"):
            compare_tables(changed, table, accuracy)


def test_no_r_may_move_by_more_than_this(kept):
    r = kept.table.statistic.isin(["pearson", "pearson_abs"]) & kept.table.value.notna()
    assert tolerances(kept.table, OTHER_FORWARD)[r].max() < 1e-4
    assert tolerances(kept.table, SAME_FORWARD)[r].max() < 1e-10


@pytest.mark.parametrize(
    ("column", "value"),
    [("n", 1), ("reason", "?"), ("dim", -1), ("selection", "?"), ("statistic", "?")],
)
def test_rows(kept, column, value):
    changed = kept.table.copy()
    changed.loc[changed.index[1000], column] = value
    with pytest.raises(AssertionError, match="is another" if column in ("n", "reason") else "miss"):
        compare_tables(changed, kept.table, OTHER_FORWARD)


@pytest.mark.parametrize("column", ["token", "bytes", "special", "count", "documents"])
def test_counts(kept, column):
    changed = kept.counts.copy()
    other = {"token": "?", "bytes": b"?", "special": True}
    position = len(changed) // 2
    changed.loc[changed.index[position], column] = other.get(column, 12345)
    with pytest.raises(AssertionError):
        compare_counts(changed, kept.counts)
    if column in ("count", "documents"):
        with pytest.raises(AssertionError):
            compare_counts(changed, changed, kept.about["counts"])


def _leaves(value, path=()):
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(below, (*path, key))
    else:
        yield path, value


def test_detection(kept):
    for path, value in _leaves(kept.about["detection"]):
        changed = copy.deepcopy(kept.about["detection"])
        *above, last = path
        place = changed
        for key in above:
            place = place[key]
        place[last] = value * (1 + 3e-12) if isinstance(value, float) and value else "?"
        with pytest.raises((AssertionError, TypeError)):
            compare_plain(changed, kept.about["detection"])
        del place[last]
        with pytest.raises(AssertionError):
            compare_plain(changed, kept.about["detection"])


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("accuracy", [SAME_FORWARD, OTHER_FORWARD])
def test_sums(name, accuracy):
    kept = Kept(name)
    compare_sums(kept.sums, kept.sums, kept.table, accuracy)
    for field in ("ids", "n", "sums", "sums_abs", "m2", "m2_abs"):
        changed = copy.deepcopy(kept.sums)
        place = tuple(np.array(changed[field].shape) // 2)
        exact = field in ("ids", "n")
        changed[field][place] += 1 if exact else 100 * max(accuracy) * changed["n"].sum()
        with pytest.raises(AssertionError):
            compare_sums(changed, kept.sums, kept.table, accuracy)
