"""Runs on a Ray cluster of two nodes of which one dies."""

import threading
import time

import pytest
from outdim.errors import BackendError, DataError
from run_helpers import give, replaced, results

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster():
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield made
    import ray

    ray.shutdown()
    made.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_node_killed_in_the_middle_changes_no_byte(cluster, corpus, options, undisturbed):
    import ray

    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    assert ray.cluster_resources()["CPU"] == 2

    def kill_when_at_work() -> None:
        while len(list(options.output.glob("state/correlate/*"))) < 2:
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill_when_at_work)
    killer.start()
    give("correlate", corpus, replaced(options, engine="ray", workers=2))
    killer.join()
    assert len(cluster.list_all_nodes()) == 1
    assert results(options.output) == undisturbed


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_counting_gives_the_same_bytes_and_no_room_is_an_error(
    cluster, corpus, options, count_options, tmp_path
):
    import ray

    ray.init(address=cluster.address, log_to_driver=False)
    local = give("count", corpus, replaced(count_options, output=tmp_path / "local"))
    on_ray = replaced(count_options, output=tmp_path / "ray", engine="ray")
    assert results(give("count", corpus, on_ray)) == results(local)
    for name, value, said in (("device", "cuda", "0 GPUs"), ("threads", 2, "--threads 2")):
        given = replaced(options, engine="ray", output=tmp_path / name, **{name: value})
        with pytest.raises(BackendError, match=said):
            give("correlate", corpus, given)


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_broken_data_is_the_same_error_as_without_ray(cluster, count_options, tmp_path):
    import ray

    ray.init(address=cluster.address, log_to_driver=False)
    source = tmp_path / "broken.jsonl"
    source.write_text('{"text": "w1 w2"}\n{\n')
    options = replaced(count_options, method="encode", engine="ray")
    with pytest.raises(DataError, match="line 2"):
        give("count", source, options)
    assert not options.output.exists()
