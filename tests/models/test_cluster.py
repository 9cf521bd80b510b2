"""Workers on a Ray cluster of two machines, one of which is killed: the harvest ends whole, and equals the local one."""

import psutil
import pytest

from stir_core.basis import geometry
from stir_core.config import config_from
from stir_core.models import cluster
from stir_core.models.loading import model_of
from stir_core.stages.pipeline import run_stages

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

CONFIG = {
    "model": {"name": "organism:two_habits", "device": "cpu"},
    "task": {"name": "chain", "n_train": 8, "n_eval": 4},
    "rollouts": {"k": 12, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 90, "batch_rows": 16},
    "mining": {"control_points": 5, "layers": [1]},
    "decode": {"max_new_tokens": 90},
}


@pytest.fixture
def machines(monkeypatch):
    """A cluster of two machines with one core each, and the second of them."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(cluster, "STARTING", 300.0)  # each machine has a worker at work before one is killed
    monkeypatch.setattr(geometry, "MIN_UMAP", 10**6)  # compiled for 15 seconds
    pytest.importorskip("ray", reason="the package ray is not installed: pip install -c constraints.txt -e '.[ray]'")
    from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

    size = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
    both = Cluster(initialize_head=True, head_node_args=size)
    try:
        yield both, both.add_node(num_cpus=1, object_store_memory=100_000_000)
    finally:
        both.shutdown()


def end_workers(machine):
    """As a machine does that is switched off: left alone, a worker ends its shard before it misses what started it."""
    for process in machine.all_processes["raylet"]:
        for worker in psutil.Process(process.process.pid).children(recursive=True):
            worker.kill()


def test_a_harvest_whose_machine_is_killed_equals_the_local_one(machines, tmp_path, caplog):
    (both, second), config = machines, config_from(CONFIG)
    killed = []

    def kill_one(progress):
        if progress.stage == "rollouts" and progress.done and not killed:
            killed.append(progress.done)
            end_workers(second)
            both.remove_node(second, allow_graceful=False)

    with cluster.pool_of(both.address, 2) as pool:
        ours = run_stages(config, tmp_path / "ray", model=model_of(config.model, pool=pool), report=kill_one)
    local = run_stages(config, tmp_path / "local", model=model_of(config.model))
    assert killed == [1] and "is lost" in caplog.text
    tokens, theirs = ([(r.problem_id, r.k, r.token_ids, r.verdict) for r in run.rollouts()] for run in (ours, local))
    assert tokens == theirs and len(tokens) == 8 * 12
    assert [pick.entry_id for pick in ours.picks()] == [pick.entry_id for pick in local.picks()] != []
    (rows, states), (known_rows, known) = ours.states(), local.states()
    assert rows == known_rows and states[1] == pytest.approx(known[1], abs=1e-3)
    for kind in ("vanilla", "steered"):
        assert [trace.token_ids for trace in ours.traces(kind)] == [trace.token_ids for trace in local.traces(kind)] != []
