"""States on disk: checked, merged by a tree that does not depend on who does it, and few."""

import dataclasses
import multiprocessing
import os
import random

import pytest
import torch
from outdim.analysis.step import State, add_accounts
from outdim.errors import PartialRunError
from outdim.run import store as stored
from outdim.run.plan import Entry
from outdim.run.store import StateStore
from outdim.run.tree import Tree

STATE = State(
    {"b": torch.arange(5), "a": torch.tensor([0.1, float("nan")]).double()}, {"tokens": 5}
)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def entry(shards: int, **changes) -> Entry:
    work = tuple({"start": i} for i in range(shards))
    return dataclasses.replace(Entry("sum", {}, {"tokenizer": "1"}, work), **changes)


def add(first: State, second: State) -> State:
    """Floating-point sums, which depend on the order."""
    tensors = {name: first.tensors[name] + second.tensors[name] for name in first.tensors}
    return State(tensors, add_accounts(first.account, second.account))


def state(shard: int, size: int = 4) -> State:
    generator = torch.Generator().manual_seed(shard)
    values = torch.randn(size, generator=generator, dtype=torch.float64) * 10.0 ** (shard % 9)
    return State({"h": values}, {"tokens": shard, "places": [f"line {shard}"]})


def single(shard: int) -> State:
    return State({str(shard): torch.tensor([shard])}, {})


def beside(first: State, second: State) -> State:
    """Both, which have no shard in common."""
    assert not set(first.tensors) & set(second.tensors)
    return State({**first.tensors, **second.tensors}, {})


def files(store: StateStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.directory.iterdir()}


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 8, 13, 1000])
def test_the_tree_covers_every_shard_once(shards):
    tree = Tree([str(i) for i in range(shards)])
    nodes = list(tree.nodes())
    assert len(nodes) == 2 * shards - 1
    assert len({node.id for node in nodes}) == len(nodes)
    assert (tree.root.first, tree.root.stop) == (0, shards)
    for node in nodes:
        if node.children:
            left, right = node.children
            assert (left.first, left.stop, right.stop) == (node.first, right.first, node.stop)
            assert (left.stop - left.first).bit_count() == 1  # a power of two, no less than right
            assert left.stop - left.first >= right.stop - right.first
            assert tree.parent(left) is node
    assert tree.parent(tree.root) is None


def test_nodes_that_only_see_sound_shards_keep_their_names():
    names = [str(i) for i in range(11)]
    before, after = Tree(names), Tree([*names[:5], "mended", *names[6:]])
    changed = [
        (n.first, n.stop) for n in before.nodes() if n.id not in {m.id for m in after.nodes()}
    ]
    assert sorted(changed) == [(0, 8), (0, 11), (4, 6), (4, 8), (5, 6)]


@pytest.mark.parametrize("seed", range(5))
def test_the_state_until_a_shard_has_all_before_it_and_no_shard_twice(tmp_path, seed):
    """Whatever was committed beyond it, and merged with it."""
    store, stop = StateStore(tmp_path, entry(13)), 6
    rng = random.Random(seed)
    committed = [*range(stop), *rng.sample(range(stop, 13), 4)]
    rng.shuffle(committed)
    for shard in committed:
        store.commit(shard, single(shard), beside)
    found = store.until(stop, beside).tensors
    assert set(map(str, range(stop))) <= set(found) <= set(map(str, committed))
    missing = min(set(range(13)) - set(committed))
    with pytest.raises(PartialRunError, match=f"shard {missing} of 'sum', which shard 13 follows"):
        store.until(13, beside)


@pytest.mark.parametrize("looks", range(1, 5))
def test_the_state_until_a_shard_is_found_where_others_merge_it_meanwhile(
    tmp_path, monkeypatch, looks
):
    """A node is looked at, then another process writes it and drops its children."""
    store, other = (StateStore(tmp_path, entry(8)) for _ in range(2))
    for shard in range(7):
        other.commit(shard, single(shard), beside)
    read, nodes = store._read, []

    def slow(node):
        found = read(node)
        nodes.append(node)
        if len(nodes) == looks:
            other.commit(7, single(7), beside)
        return found

    monkeypatch.setattr(store, "_read", slow)
    assert set(map(str, range(5))) <= set(store.until(5, beside).tensors)
    monkeypatch.undo()
    assert set(other.root(beside).tensors) == set(map(str, range(8)))


@pytest.mark.parametrize("shards", [1, 2, 5, 16, 21])
def test_bytes_do_not_depend_on_the_order(tmp_path, shards):
    found = []
    for seed in range(6):
        store = StateStore(tmp_path / str(seed), entry(shards))
        order = list(range(shards))
        random.Random(seed).shuffle(order)
        for shard in order if seed else range(shards):
            store.commit(shard, state(shard), add)
        assert not store.missing()
        store.root(add)
        found.append(files(store))
    assert all(other == found[0] for other in found)
    assert len(found[0]) == 1


def test_a_commit_writes_one_state(tmp_path):
    """Where a node can be merged at once, its children are never written."""
    store, written = StateStore(tmp_path, entry(21)), []
    write = store._write
    store._write = lambda node, held: written.append(node) or write(node, held)
    for shard in range(21):
        store.commit(shard, state(shard), add)
        assert len(written) == shard + 1
    assert written[-1] is store.tree.root


def test_bytes_do_not_depend_on_when_a_process_was_killed(tmp_path, monkeypatch):
    undisturbed = StateStore(tmp_path / "undisturbed", entry(21))
    for shard in range(21):
        undisturbed.commit(shard, state(shard), add)

    class Killed(BaseException):
        pass

    rng = random.Random(0)
    for trial in range(20):
        run, kills = tmp_path / str(trial), 0
        while StateStore(run, entry(21)).missing():
            store = StateStore(run, entry(21))
            write, drop, left = store._write, store._drop, rng.randint(0, 12)

            def dying(action, *arguments):
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return action(*arguments)

            store._write = lambda *a, write=write: dying(write, *a)
            store._drop = lambda *a, drop=drop: dying(drop, *a)
            try:
                for shard in store.missing():
                    store.commit(shard, state(shard), add)
            except Killed:
                kills += 1
        assert kills
        store = StateStore(run, entry(21))
        assert torch.equal(store.root(add).tensors["h"], undisturbed.root(add).tensors["h"])
        assert files(store) == files(undisturbed)


def _commit(run, numbers):
    store = StateStore(run, entry(64))
    for shard in numbers:
        store.commit(shard, state(shard), add)


def test_processes_that_commit_at_once_leave_the_same_bytes(tmp_path):
    undisturbed = StateStore(tmp_path / "one", entry(64))
    _commit(tmp_path / "one", range(64))
    context = multiprocessing.get_context("fork")
    for trial in range(3):
        run = tmp_path / f"many-{trial}"
        processes = [
            context.Process(target=_commit, args=(run, range(index, 64, 4))) for index in range(4)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        store = StateStore(run, entry(64))
        assert not store.missing()
        store.root(add)
        assert files(store) == files(undisturbed)


def test_a_thousand_shards_are_never_more_than_a_handful_of_files(tmp_path):
    store = StateStore(tmp_path, entry(1000))
    size = 64 * 1024
    most = written = 0
    for shard in range(1000):
        store.commit(shard, State({"h": torch.zeros(size // 8)}, {}), add)
        there = list(store.directory.iterdir())
        most = max(most, len(there))
        written = max(written, sum(path.stat().st_size for path in there))
    assert most == 9  # 511 and 1,000 - 488 shards: a file for every power of two
    assert written < 10 * size
    assert len(list(store.directory.iterdir())) == 1


def test_states_come_back_bit_by_bit(tmp_path):
    store = StateStore(tmp_path, entry(1))
    store.commit(0, STATE, add)
    found = StateStore(tmp_path, entry(1)).root(add)
    assert found.account == {"tokens": 5}
    assert found.tensors["b"].tolist() == [0, 1, 2, 3, 4]
    assert found.tensors["a"].view(torch.int64).equal(STATE.tensors["a"].view(torch.int64))


def test_committing_again_writes_the_same_bytes(tmp_path):
    store = StateStore(tmp_path, entry(3))
    store.commit(0, STATE, add)
    first = files(store)
    store.commit(0, State(dict(reversed(STATE.tensors.items())), STATE.account), add)
    assert files(store) == first


def test_a_shard_committed_again_under_a_node_that_has_it_is_dropped(tmp_path):
    store = StateStore(tmp_path, entry(4))
    for shard in (0, 1, 0):
        store.commit(shard, state(shard), add)
    assert len(files(store)) == 1
    assert store.missing() == [2, 3]


def test_versions_of_packages_that_took_part_are_kept(tmp_path, monkeypatch):
    store = StateStore(tmp_path, entry(3))
    store.commit(0, STATE, add)
    monkeypatch.setattr(stored, "versions", lambda: {"torch": "0.1"})
    for shard in (1, 2):
        store.commit(shard, STATE, add)
    (mixed,) = [text for text in store.mixed_versions() if text.startswith("torch")]
    assert mixed == f"torch 0.1 and {torch.__version__}"


def test_every_flipped_bit_makes_a_state_count_as_missing(tmp_path):
    store = StateStore(tmp_path, entry(1))
    store.commit(0, STATE, add)
    (path,) = store.directory.iterdir()
    sound = path.read_bytes()
    for position in range(0, len(sound), 3):
        broken = bytearray(sound)
        broken[position] ^= 1 << position % 8
        path.write_bytes(bytes(broken))
        found = StateStore(tmp_path, entry(1))
        if not found.missing():  # a flip in the padding of the header may leave the content alone
            back = found.root(add)
            assert back.account == STATE.account
            for name, tensor in STATE.tensors.items():
                assert tensor.numpy().tobytes() == back.tensors[name].numpy().tobytes()
    for length in (0, 4, 8, 100, len(sound) - 1):
        path.write_bytes(sound[:length])
        assert StateStore(tmp_path, entry(1)).missing() == [0]


def test_a_broken_node_costs_its_own_shards(tmp_path):
    store = StateStore(tmp_path, entry(7))
    for shard in range(7):
        if shard != 6:
            store.commit(shard, state(shard), add)
    first = store.path(store.tree.root.children[0])  # of shards 0 to 3
    first.write_bytes(first.read_bytes()[:-1])
    assert StateStore(tmp_path, entry(7)).missing() == [0, 1, 2, 3, 6]


def test_a_state_of_another_shard_step_or_plan_counts_as_missing(tmp_path):
    store = StateStore(tmp_path, entry(3))
    store.commit(0, STATE, add)
    content = store.path(store.tree.leaves[0]).read_bytes()
    store.path(store.tree.leaves[2]).write_bytes(content)
    assert StateStore(tmp_path, entry(3)).missing() == [1, 2]
    other = StateStore(tmp_path, entry(3, step="other"))
    other.directory.mkdir()
    other.path(other.tree.leaves[0]).write_bytes(content)
    assert len(other.missing()) == 3
    assert len(StateStore(tmp_path, entry(3, options={"k": 1})).missing()) == 3


def test_a_result_of_an_incomplete_step_says_what_is_missing(tmp_path):
    store = StateStore(tmp_path, entry(3))
    store.commit(0, STATE, add)
    with pytest.raises(PartialRunError, match=r"2 of 3 shards .* the first is number 1") as caught:
        store.root(add)
    assert caught.value.exit_code == 4


def test_accounts_add_up_and_of_places_the_first_are_kept():
    first = {"rows": 1, "left": {"blank": 2}, "places": [str(i) for i in range(15)]}
    second = {"rows": 2, "left": {"blank": 1, "short": 1}, "places": [str(i) for i in range(15)]}
    found = add_accounts(first, second)
    assert found["rows"] == 3
    assert found["left"] == {"blank": 3, "short": 1}
    assert found["places"] == [*first["places"], *second["places"][:5]]
    parts = [{"n": i, "places": [str(i)] * 9} for i in range(9)]
    left = add_accounts(add_accounts(parts[0], parts[1]), add_accounts(parts[2], parts[3]))
    chain = parts[0]
    for part in parts[1:4]:
        chain = add_accounts(chain, part)
    assert left == chain
