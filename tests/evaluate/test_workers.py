"""Work that is shared out among workers, some of which are lost: it ends whole, and equals the work of one process."""

import json
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from stir_core import cli
from stir_core.config import config_from, with_changes
from stir_core.errors import BudgetSpent, ConfigError, MismatchError, ModelError
from stir_core.evaluate.causal import measure
from stir_core.evaluate.decoders.base import Bench
from stir_core.evaluate.decoders.registry import DECODERS, Method
from stir_core.evaluate.runner import evaluate, settle
from stir_core.harvest.states import Reading, capture_states
from stir_core.intervene.jobs import Settings
from stir_core.intervene.memory import Memory
from stir_core.intervene.travel import received_batch, sent_batch
from stir_core.keyspace import fit_space
from stir_core.models import cluster
from stir_core.models.workers import TRIES, Parcel, Workers
from stir_core.policies import Policies
from stir_core.records import Continuation, PolicyWeights
from stir_core.requests import CausalRequest, EvaluationRequest
from stir_core.seeding import generator_for
from stir_core.stages.pipeline import run_stages
from stir_core.store.causal import CausalFolder
from stir_core.store.evaluations import EvaluationFolder
from stir_core.store.jsonl import read_records
from stir_core.store.runs import Run
from stir_core.version import VERSION
from tests.builders import make_entry
from tests.evaluate.conftest import CONFIG
from tests.evaluate.lossy import LossyPool


@pytest.fixture(autouse=True)
def loaded_once(tiny_loaded, monkeypatch):
    """Workers take the model that is loaded already."""
    monkeypatch.setattr(cluster, "load_model", lambda **settings: tiny_loaded)


def shared(model, pool, settings=None):
    return replace(model, workers=Workers(pool, settings or {"name": "tiny"}, model.identity.model_dump_json()))


def echo(model, common: Parcel, shard: Parcel) -> Iterator[tuple[int, Parcel]]:
    """Each item and its array, times what all share."""
    for number, plain in shard.plain:
        yield number, Parcel(plain * common.plain, {"a": shard.arrays[f"a{number}"]})


def echoing():
    def do(order: bytes, common: bytes, shard: bytes) -> Iterator[bytes]:
        for number, made in echo(None, Parcel.unpacked(common), Parcel.unpacked(shard)):
            yield Parcel([number, made.plain], made.arrays).packed()

    return do


@pytest.mark.parametrize("seed", range(20))
def test_every_item_is_done_once_whoever_is_lost(seed):
    rng = generator_for(seed, "lives")
    size, n = int(rng.integers(1, 5)), int(rng.integers(1, 60))
    # a shard cannot meet more short-lived workers than TRIES - 1, since there are no more of them
    pool = LossyPool(size, rng.integers(0, 9, TRIES - 1).tolist(), seed, do=echoing)
    items = (Parcel(i, {f"a{i}": np.full(2, i, np.float32)}) for i in range(n))
    done = list(Workers(pool, {}, "").share(echo, Parcel(3), items, 4))
    assert sorted(number for number, _ in done) == list(range(n))
    assert all(result.plain == 3 * number and result.arrays["a"].tolist() == [number] * 2 for number, result in done)
    if n > 8 * size:
        assert pool.calls > size


def test_work_that_costs_worker_after_worker_is_given_up_with_what_was_done(caplog):
    pool, done = LossyPool(2, [1] * 20, do=echoing), []
    with pytest.raises(ModelError, match=f"{TRIES} workers were lost over the same items"):
        for number, _ in Workers(pool, {}, "").share(echo, Parcel(1), (Parcel(i, {f"a{i}": np.zeros(1)}) for i in range(40)), 5):
            done.append(number)
    assert len(done) >= TRIES and pool.lost >= TRIES and "items that it had not finished are given to another" in caplog.text


def test_without_a_worker_the_pool_has_the_last_word():
    pool = LossyPool(2, [2, 3], spare=0, do=echoing)
    with pytest.raises(ModelError, match="no worker is left"):
        list(Workers(pool, {}, "").share(echo, Parcel(1), (Parcel(i, {f"a{i}": np.zeros(1)}) for i in range(40)), 5))


def test_a_harvest_with_lost_workers_equals_the_local_run(finished, tiny_loaded, tmp_path):
    config = with_changes(finished.config, mining={"stability_rolls": 2})
    local = run_stages(config, tmp_path / "local", model=tiny_loaded)
    pool, heard = LossyPool(2, [3, 20]), []
    ours = run_stages(config, tmp_path / "shared", model=shared(tiny_loaded, pool), report=heard.append)
    assert pool.lost == 2
    assert [(r.problem_id, r.k, r.token_ids, r.verdict, r.boundaries) for r in ours.rollouts()] == [
        (r.problem_id, r.k, r.token_ids, r.verdict, r.boundaries) for r in local.rollouts()
    ]
    assert [r.mean_logprob for r in ours.rollouts()] == pytest.approx([r.mean_logprob for r in local.rollouts()], abs=1e-5)
    assert [pick.entry_id for pick in ours.picks()] == [pick.entry_id for pick in local.picks()] != []
    (rows, states), (known_rows, known) = ours.states(), local.states()
    assert rows == known_rows and rows and all(states[layer] == pytest.approx(known[layer], abs=1e-4) for layer in known)
    rolled, known_rolled = (read_records(each.file("actions", "continuations.jsonl"), Continuation) for each in (ours, local))
    assert rolled == known_rolled != []
    for kind in ("vanilla", "steered"):
        assert [trace.token_ids for trace in ours.traces(kind)] == [trace.token_ids for trace in local.traces(kind)] != []
    # one by one, as in the local run
    counts = [each.done for each in heard if each.stage == "rollouts"]
    assert counts == list(range(len(local.rollouts()) + 1))


def test_a_shared_harvest_that_stops_is_taken_up_by_one_process(finished, tiny_loaded, tmp_path):
    def stop(progress):
        if progress.done == 7:
            raise BudgetSpent("spent")

    with pytest.raises(BudgetSpent):
        run_stages(finished.config, tmp_path / "run", until="basis", model=shared(tiny_loaded, LossyPool(3, [])), report=stop)
    run = run_stages(finished.config, tmp_path / "run", until="basis", model=tiny_loaded)
    assert [(r.token_ids, r.verdict) for r in run.rollouts()] == [(r.token_ids, r.verdict) for r in finished.rollouts()]
    assert [pick.entry_id for pick in run.picks()] == [pick.entry_id for pick in finished.picks()]


def test_shared_answers_equal_those_of_one_process(run, tiny_loaded, tmp_path):
    names = ("stir", "noise", "deer")
    other = Run.open(shutil.copytree(run.path, tmp_path / "other"))
    pool = LossyPool(2, [1, 3])
    for which, model in ((run, tiny_loaded), (other, shared(tiny_loaded, pool))):
        spec, problems = settle(which, model.identity, EvaluationRequest(methods=names, n=3, rows=2), command=None, environment={})
        evaluate(which, model, spec, problems)
    assert pool.lost == 2
    for name in ("vanilla", *names):
        ours, theirs = (
            {(each.problem_id, each.seed): (each.method, each.token_ids, each.verdict, each.facts) for each in folder.answers(name)}
            for folder in (EvaluationFolder(other, "arithmetic-eval"), EvaluationFolder(run, "arithmetic-eval"))
        )
        assert ours == theirs and ours


def test_a_shared_causal_study_equals_that_of_one_process(run, tiny_loaded, tmp_path):
    other = Run.open(shutil.copytree(run.path, tmp_path / "other"))
    pool, found = LossyPool(2, [1, 9]), []
    for which, model in ((run, tiny_loaded), (other, shared(tiny_loaded, pool))):
        measure(which, model, CausalRequest(n=2, states=2, rolls=2, rows=8), command=None, environment={})
        rolls = CausalFolder(which).rolls()
        found.append({(roll.state, roll.arm, roll.rep): (roll.correct, roll.tokens) for roll in rolls})
    assert found[0] == found[1] and len(found[0]) > 10 and pool.lost == 2


def test_states_come_in_order(tiny_loaded):
    readings = [Reading("p", "rollout", k, (1,), [*range(5, 12 + k % 4)], (3, 4)) for k in range(90)]
    pool = LossyPool(3, [20])
    ours, theirs = (list(capture_states(model, readings, (0, 2))) for model in (shared(tiny_loaded, pool), tiny_loaded))
    assert [each.reading for each in ours] == readings and pool.lost == 1
    for mine, own in zip(ours, theirs, strict=True):
        assert all(torch.allclose(mine.by_layer[layer], own.by_layer[layer], atol=1e-4) for layer in (0, 2))


def test_a_library_arrives_as_it_was_sent():
    rng = generator_for(0, "library")
    keys, actions = (rng.standard_normal((8, 6)).astype(np.float32) for _ in range(2))
    entries = tuple(make_entry(f"e{i}", m=1, layer=i % 2, kind="null" if i % 3 == 0 else "corrective") for i in range(8))
    space = fit_space("whitened", keys, [(entry.m, entry.layer) for entry in entries])
    weights = PolicyWeights(policy="probe", basis="b", layer=1, bias=0.5, state=(1.0,) * 4, candidate=(), threshold=0.0)
    policies = Policies("b", 1, rng.standard_normal((3, 6)), rng.standard_normal((2, 6)), {"probe": weights})
    memory, settings = Memory(entries, keys, actions, space, (), policies), Settings.of(config_from(CONFIG), rows=3)
    ((arrived,), their_settings) = received_batch(Parcel.unpacked(sent_batch([memory], settings).packed()))
    assert their_settings == settings and arrived is not None and received_batch(sent_batch([None], settings))[0] == [None]
    gate, states = config_from(CONFIG).gate, {layer: torch.from_numpy(rng.standard_normal(6).astype(np.float32)) for layer in (0, 1)}
    assert arrived.retrieve(1, states, gate) == memory.retrieve(1, states, gate) and memory.retrieve(1, states, gate)[0]
    assert arrived.features(1, states, torch.arange(5.0)) == memory.features(1, states, torch.arange(5.0))
    assert all(torch.equal(arrived.action(entry.id), memory.action(entry.id)) for entry in entries)


def test_a_worker_with_another_model_refuses(run, tiny_loaded):
    other = tiny_loaded.identity.replaced(weights_sha256="1" * 64).model_dump_json()
    model = replace(tiny_loaded, workers=Workers(LossyPool(1, []), {"name": "tiny"}, other))
    spec, problems = settle(run, model.identity, EvaluationRequest(methods=("stir",), n=2), command=None, environment={})
    with pytest.raises(MismatchError, match=r"a worker refuses: .*weights_sha256.*copy the same model to every machine"):
        evaluate(run, model, spec, problems)


def test_a_decoder_of_this_process_is_refused(tiny_loaded):
    own = replace(DECODERS["vanilla"], name="mine")
    bench = Bench(shared(tiny_loaded, LossyPool(1, [])), Settings.of(config_from(CONFIG)), config_from(CONFIG).gate, lambda name: None)
    with pytest.raises(ConfigError, match="mine was registered in this process, so workers do not know it"):
        next(Method("mine", own, {}).answer(bench, []))


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"version": "0.0.0"}, "it has STIR Workbench"), ({"work": "os:system"}, "os is not a module of STIR Workbench")],
)
def test_what_a_worker_is_asked_is_checked(tiny_loaded, changed, why):
    identity = tiny_loaded.identity.model_dump_json()
    order = {"work": "stir_core.harvest.states:read_shard", "model": {"name": "tiny"}, "identity": identity, "version": VERSION}
    (made,) = cluster.ModelActor().do(json.dumps(order | changed).encode(), Parcel([0]).packed(), Parcel([]).packed())
    number, (kind, line) = Parcel.unpacked(made).plain
    assert number is None and kind in ("MismatchError", "ModelError") and line.startswith("a worker refuses: ") and why in line


def test_the_command_line_refuses_in_one_line(capsys, monkeypatch, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("")
    assert cli.main(["run", str(config), "--workers", "2"]) == 2
    assert "--workers is for --executor ray" in capsys.readouterr().err
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    assert cli.main(["run", str(config), "--executor", "ray"]) == 2
    assert capsys.readouterr().err == "stir: --executor ray needs the package ray: pip install -c constraints.txt -e '.[ray]'\n"


@pytest.mark.parametrize(("address", "why"), [("ray-head", "is no address"), ("ray-head:a", "is no address"), ("127.0.0.1:99999", "is no")])
def test_what_is_no_address_of_a_cluster_is_refused(address, why):
    with pytest.raises(ConfigError, match=f"--address {address} {why}.*give auto, or HOST:PORT"):
        cluster.check_address(address)


def test_an_address_at_which_nothing_listens_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = f"127.0.0.1:{listening.getsockname()[1]}"
        cluster.check_address(there)
    for address in (there, f"ray://{there}"):
        with pytest.raises(ConfigError, match=f"--address {address}: nothing answers there .*Connection refused"):
            cluster.check_address(address)
