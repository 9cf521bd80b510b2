"""STIR at latents: chains of the step loop against the reasoner's own, impulses against chains thought on by hand, and runs on disk."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from stir_core.basis import geometry
from stir_core.cli import main
from stir_core.config import GateConfig, RunConfig, with_changes
from stir_core.errors import ConfigError, DataError, StoreError
from stir_core.evaluate.latent_steering import METHODS, evaluate_latent_steering, latent_config
from stir_core.evaluate.latent_steps import LatentJob, Thought, noisy_job, think, thoughts
from stir_core.intervene.jobs import NULL, Force, Forced
from stir_core.intervene.memory import Memory
from stir_core.latent.thinking import LatentAnswer, LatentChoice, reason
from stir_core.latent.training import TrainedReasoner, load_reasoner
from stir_core.latent.words import as_batch
from stir_core.models.loading import LoadedModel, load_model
from stir_core.records import Progress
from stir_core.seeding import generator_for
from stir_core.stages.pipeline import run_stages
from stir_core.store.latents import latent_folder
from stir_core.store.runs import Run
from stir_core.tasks.modular import ModularChain, draw_chains

CLEAN = {"noise": 0.0, "seed": 0, "k": 0}
CONFIG = with_changes(latent_config("sim_cot", steps=(3,), n=4, runs=6), mining={"layers": (1,)})


@pytest.fixture(scope="module")
def trained() -> TrainedReasoner:
    return load_reasoner("sim_cot")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(str(latent_folder("sim_cot")))


@pytest.fixture(scope="module")
def chains(trained: TrainedReasoner) -> list[ModularChain]:
    return draw_chains(trained.chains, "eval", 3, 3, generator_for(0, "latent steering"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "MIN_UMAP", 10_000)  # it compiles for seconds
        yield run_stages(CONFIG, tmp_path_factory.mktemp("latents") / "run", until="basis")


def thought(
    model: LoadedModel, trained: TrainedReasoner, chain: ModularChain, force: Force | None, gate: GateConfig = CONFIG.gate
) -> Thought:
    """One chain without noise, with forced impulses."""
    return thoughts(model, trained, [noisy_job(trained, "", chain, gate, force=force, **CLEAN)], CONFIG)[0]


def on_from(trained: TrainedReasoner, chain: ModularChain, first: torch.Tensor) -> LatentAnswer:
    """The reasoner thinks on after these latents."""
    question = as_batch(trained.words, [chain]).question
    return reason(trained.reasoner, question, LatentChoice(slots=6, first=first[None]))[0]


def test_without_noise_or_impulse_a_chain_is_the_reasoners_own(
    model: LoadedModel, trained: TrainedReasoner, chains: list[ModularChain]
) -> None:
    own = reason(trained.reasoner, as_batch(trained.words, chains).question, LatentChoice(slots=6))
    jobs = [noisy_job(trained, str(i), chain, CONFIG.gate, **CLEAN) for i, chain in enumerate(chains)]
    found = dict(think(model, trained, jobs, CONFIG, (1, 2)))
    for i, answer in enumerate(own):
        torch.testing.assert_close(found[i].vectors, answer.vectors, atol=1e-4, rtol=0)
        assert list(found[i].ids) == answer.ids
        assert found[i].said == str(chains[i].answer)
        after = trained.reasoner.lm.base_model.norm(found[i].states[2])  # the state before latent m + 1 is that at latent m
        torch.testing.assert_close(after[:-1], answer.states[1:], atol=1e-4, rtol=0)


def test_noise_depends_on_names_and_not_on_gates_or_neighbours(
    model: LoadedModel, trained: TrainedReasoner, chains: list[ModularChain], run: Run
) -> None:
    memory = Memory(*run.library())
    idle = with_changes(CONFIG.gate, k_scale=0.0)

    def job(i: int, k: int, *, steered: bool = False) -> LatentJob:
        gate = idle if steered else CONFIG.gate
        return noisy_job(trained, str(i), chains[i], gate, noise=1.0, seed=3, k=k, memory=memory if steered else None)

    alone = thoughts(model, trained, [job(1, 0)], CONFIG)[0]
    beside = thoughts(model, trained, [job(0, 0), job(1, 1), job(1, 0, steered=True), job(2, 0)], CONFIG)
    torch.testing.assert_close(beside[2].vectors, alone.vectors, atol=1e-4, rtol=0)
    assert beside[2].ids == alone.ids
    assert any(decision.scored for decision in beside[2].decisions)
    assert not torch.allclose(beside[1].vectors, alone.vectors, atol=0.1)


def test_an_impulse_at_a_latent_changes_the_next_one(model: LoadedModel, trained: TrainedReasoner, chains: list[ModularChain]) -> None:
    """Ephemeral: the chain after it is what the reasoner thinks from the changed latent on. Persistent: the latent's own trace stays."""
    chain, vector = (
        chains[0],
        40 * torch.nn.functional.normalize(torch.randn(model.d_model, generator=torch.Generator().manual_seed(0)), dim=0),
    )
    plain = thought(model, trained, chain, None)
    there = lambda m: Forced("own", 0, vector) if m == 3 else NULL  # noqa: E731
    changed = thought(model, trained, chain, there)
    assert torch.equal(changed.vectors[:3], plain.vectors[:3])
    assert not torch.allclose(changed.vectors[3], plain.vectors[3], atol=0.1)
    assert [decision.chosen for decision in changed.decisions] == [None, None, None, "own", None, None, None]
    on = on_from(trained, chain, changed.vectors[:4])
    torch.testing.assert_close(changed.vectors, on.vectors, atol=1e-4, rtol=0)
    assert list(changed.ids) == on.ids
    stays = thought(model, trained, chain, there, with_changes(CONFIG.gate, persistence="persistent"))
    torch.testing.assert_close(stays.vectors[3], changed.vectors[3], atol=1e-4, rtol=0)
    assert not torch.allclose(stays.vectors[4], changed.vectors[4], atol=1e-3)
    zero = thought(model, trained, chain, lambda m: Forced("own", 0, torch.zeros(model.d_model)))
    torch.testing.assert_close(zero.vectors, plain.vectors, atol=1e-5, rtol=0)


def test_a_preview_is_the_answer_thought_on_without_noise(
    model: LoadedModel, trained: TrainedReasoner, chains: list[ModularChain], run: Run
) -> None:
    gate = GateConfig(k_scale=0.0, k_retrieve=4, min_tool_m=4, max_tool_m=4)
    job = noisy_job(trained, "x", chains[1], gate, noise=1.0, seed=0, k=0, memory=Memory(*run.library()))
    (found,) = thoughts(model, trained, [job], CONFIG)
    seen = found.evidence[4]
    assert [bool(each.retrieved) for each in found.evidence] == [False] * 4 + [True] + [False] * 2
    on = on_from(trained, chains[1], found.vectors[:4])
    assert list(seen.null_preview_ids) == on.ids[:4]
    plain = noisy_job(trained, "x", chains[1], gate, **CLEAN)._replace(added=torch.cat([job.added[:4], torch.zeros(2, model.d_model)]))
    (without,) = thoughts(model, trained, [plain], CONFIG)
    assert seen.null_logprob == pytest.approx(without.logprob, abs=1e-4)  # the noise after the control point is not seen
    assert all(each.preview_logprob is not None for each in seen.retrieved if each.kind == "corrective")


def test_a_harvest_is_a_run_whose_control_points_are_latents(run: Run, model: LoadedModel, trained: TrainedReasoner) -> None:
    rollouts, (rows, states) = run.rollouts(), run.states()
    assert {each.boundaries for each in rollouts} == {(1, 2, 3, 4, 5, 6)}
    assert {each.verdict.correct for each in rollouts} == {True, False}
    by_name = {(each.problem_id, each.k): each for each in rollouts}
    for row in rows:
        rollout = by_name[row.problem_id, row.k]
        assert row.position == len(rollout.prompt_ids) + row.m - 1
        assert [*rollout.prompt_ids, *rollout.token_ids][row.position] == trained.reasoner.markers.latent
    entries, actions, keys = run.entries(), run.action_rows(), run.key_rows()
    assert {entry.m for entry in entries} == {1, 2, 3, 4, 5, 6}
    assert all(entry.reachable for entry in entries)
    place = {(row.problem_id, row.k, row.m): states[1][row.row] for row in rows}
    corrective = [entry for entry in entries if entry.kind == "corrective"]
    for entry in corrective:
        own = [each for each in rollouts if each.problem_id == entry.problem_id]
        right, wrong = ([place[each.problem_id, each.k, entry.m] for each in own if each.verdict.correct is side] for side in (True, False))
        np.testing.assert_allclose(actions[entry.action_row or 0], np.mean(right, 0) - np.mean(wrong, 0), atol=1e-4)
        np.testing.assert_allclose(keys[entry.key_row], np.mean(wrong, 0), atol=1e-4)
    first = next(problem for problem in run.problems() if problem.id == corrective[0].problem_id)
    assert next(each for each in rollouts if each.problem_id == first.id).verdict.gold == first.answer
    assert len(run.picks()) == len(run.library().entries) > 0


def test_an_interrupted_harvest_gives_the_same_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "MIN_UMAP", 10_000)

    class Stop(Exception):
        """Raised in the middle."""

    def stop(progress: Progress) -> None:
        if progress.stage == "rollouts" and progress.done == 5:
            raise Stop

    with pytest.raises(Stop):
        run_stages(CONFIG, tmp_path / "run", until="states", report=stop)
    again = run_stages(CONFIG, tmp_path / "run", until="states")
    assert again.rollouts() == run.rollouts()
    assert again.states()[0] == run.states()[0]
    np.testing.assert_allclose(again.states()[1][1], run.states()[1][1], atol=1e-4)
    with pytest.raises(StoreError, match="add --redo rollouts"):  # they were not captured, and are not read as text
        run_stages(CONFIG, tmp_path / "run", until="states", redo="states")


def test_methods_are_compared_under_the_same_noise(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    late = ["--set", "gate.min_tool_m=6"]
    assert main(["latent", "steer", str(run.path), "--n", "2", "--set", "gate.k_scale=0", *late, "--json"]) == 0
    idle = json.loads(capsys.readouterr().out)["rows"]
    assert [row["method"] for row in idle] == list(METHODS)
    assert {(row["accuracy"]["value"], row["won"], row["lost"], row["impulses"]) for row in idle} == {
        (idle[0]["accuracy"]["value"], 0, 0, 0.0)
    }
    found = evaluate_latent_steering(run, n=3, own=1, library="all", gate=GateConfig(min_tool_m=4, max_tool_m=4))
    vanilla, stir, *_ = found.rows
    assert vanilla.over_vanilla is stir.stir_over is None
    assert stir.over_vanilla == vanilla.stir_over
    assert stir.over_vanilla is not None
    assert stir.over_vanilla.value == pytest.approx((stir.won - stir.lost) / stir.answers)
    assert stir.positions > vanilla.positions
    assert [(row.m, row.layer) for row in found.own] == [(m, 1) for m in range(1, 7)]
    assert main(["latent", "steer", str(run.path), "--n", "1", "--own", "1", *late]) == 0
    shown = capsys.readouterr().out
    assert "stir over it" in shown
    assert "own action" in shown


def test_what_cannot_be_done_is_refused(run: Run, trained: TrainedReasoner, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in ("trace {} 7+3*5?", "eval {}", "causal {}", "codebook {}", "export {} --out x", "policy {}", "coherence {}"):
        assert main(command.format(run.path).split()) == 2
        assert "are latents, not text: `stir latent steer" in capsys.readouterr().err, command
    with pytest.raises(DataError, match="was not mined at latents"):
        evaluate_latent_steering(Run.open("two_habits"))
    with pytest.raises(DataError, match="give at least one run"):
        evaluate_latent_steering(run, runs=0)
    with pytest.raises(ConfigError, match="own = 1000000"):
        evaluate_latent_steering(run, own=10**6)
    assert main(["latent", "steer", str(run.path), "--set", "mining.layers=[1]"]) == 2
    assert "mining.layers=[1] is no key of the gate" in capsys.readouterr().err
    assert latent_config("sim_cot", steps=(3, 2, 3)).task == latent_config("sim_cot", steps=(2, 3)).task
    shutil.copytree(run.path, tmp_path / "run")
    with pytest.raises(ConfigError, match="layer 99 is not in this model"):
        run_stages(with_changes(CONFIG, mining={"layers": (99,)}), tmp_path / "run", until="basis", redo="states")
    assert Run.open(tmp_path / "run").stages() == run.stages()
    with Run.open(tmp_path / "run").writer():
        Run.open(tmp_path / "run").discard("basis")
    with pytest.raises(StoreError, match="make it with `stir latent harvest REASONER --out"):
        evaluate_latent_steering(Run.open(tmp_path / "run"))
    for flags, said in (
        (["cot"], "which has no latents"),
        (["sim_cot", "--steps", "7"], "not trained on problems of 7 steps: take some of 2, 3, 4"),
        (["sim_cot", "--noise", "0"], "noise above 0"),
        (["sim_cot", "--runs", "1"], "two runs"),
        (["sim_cot", "--runs", "1000000000"], "runs = 1000000000"),
        (["sim_cot", "--set", "gate.rho=much"], "gate.rho"),
        (["sim_cot", "--set", "rollouts.engine=http://127.0.0.1:1/v1"], "a server draws no latents, take local for a run at latents"),
    ):
        assert main(["latent", "harvest", *flags, "--out", str(tmp_path / "refused")]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()
    assert isinstance(CONFIG, RunConfig)
