"""What `allocate` gives is placed for real, on simulated machines with GPUs; and what a worker sees of them."""

import os

import pytest

from pipelines.annotation.pools import Node, Place, actor_options, allocate, nodes_of_ray, pools_of
from pipelines.annotation.stages import with_needs
from pipelines.config import load


@pytest.fixture
def cluster():
    import ray
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    found = Cluster()
    try:
        for gpus in (8, 0):
            found.add_node(num_cpus=16, num_gpus=gpus, memory=256 * 10**9, object_store_memory=80 * 10**6)
        ray.init(address=found.address, log_to_driver=False)
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


def seen():
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.timeout(300)
def test_all_workers_of_a_cluster_with_gpus_are_placed(cluster):
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    config = load("cluster-gpu")
    pools = pools_of(config, with_needs(["similarity", "text", "appearance"]))
    nodes = nodes_of_ray()
    assert sorted(nodes, key=lambda node: node.gpus) == [Node(16, 0, 256e9, 1), Node(16, 8, 256e9, 1)]
    for seconds in ([], [0.65, 0.02]):
        shares = allocate(pools, config, Place("ray", address="auto"), None, nodes, seconds)
        workers = [
            (share.cpus, share.gpus, share.memory) for share in reversed(shares) for _ in range(share.workers_max)
        ]
        bundles = [{"CPU": c, "GPU": g, "memory": m} if g else {"CPU": c, "memory": m} for c, g, m in workers]
        group = placement_group(bundles, strategy="SPREAD")
        assert group.wait(60), f"{len(bundles)} workers are not placed: {shares}"
        remove_placement_group(group)
    options = [actor_options(pool, share) for pool, share in zip(pools, shares, strict=True)]
    visible = ray.get([ray.remote(seen).options(**one).remote() for one in options])
    assert visible[0] == "" and visible[1] in [str(at) for at in range(8)]
