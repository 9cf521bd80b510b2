"""The embedded runs: complete, small, consistent with their reports, and reproducible on their models."""

import shutil
from pathlib import Path

import pytest

from stir_core.config import ON_REQUEST, STAGES, digest_of, with_changes
from stir_core.evaluate.report import evaluation_report
from stir_core.evaluate.runner import describe
from stir_core.intervene.gate import decide
from stir_core.intervene.session import open_session
from stir_core.models.loading import model_of
from stir_core.records import TraceEvent
from stir_core.stages.stage import check_fresh
from stir_core.store.causal import CausalFolder
from stir_core.store.configs import read_config
from stir_core.store.evaluations import evaluations
from stir_core.store.runs import ALIASES, EMBEDDED_RUNS, Run, list_runs
from stir_core.tasks import load_problems

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"two_habits": ROOT / "configs" / "demo.toml", "smollm2": ROOT / "configs" / "smollm2.toml"}
SIZES = {"two_habits": 4_000_000, "smollm2": 5_000_000}
EXTRA = {"two_habits": ON_REQUEST, "smollm2": ()}
"""Stages on request that a run holds."""


@pytest.fixture(scope="module", params=CONFIGS)
def run(request: pytest.FixtureRequest) -> Run:
    return Run.open(request.param)


def test_the_organism_comes_first_and_is_the_run_called_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [each.name for each in list_runs(tmp_path)[0]] == list(EMBEDDED_RUNS)
    assert list(EMBEDDED_RUNS)[:2] == ["two_habits", "smollm2"] and all(Run.open(name).results_only for name in list(EMBEDDED_RUNS)[2:])
    assert set(ALIASES.values()) <= set(EMBEDDED_RUNS)
    assert Run.open("demo").path == Run.open("two_habits").path and Run.open("demo").config.model.name == "organism:two_habits"
    shutil.copytree(EMBEDDED_RUNS["smollm2"], tmp_path / "demo")  # a folder of that name comes first, and is not embedded
    assert Run.open("demo").config.model.name == "smollm2" and not Run.open("demo").embedded


def test_it_is_complete_and_small(run):
    assert run.stages() == (*STAGES, *EXTRA[run.name])
    coded = Run(run.path, run.facts | {"config": with_changes(run.config, codes={"size": 4}).model_dump(mode="json")})
    for stage in run.stages():
        run.check_files(stage)
        check_fresh(coded, stage)
    files = [file for file in run.path.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < SIZES[run.name]
    assert {file.suffix for file in files} == {".json", ".jsonl", ".safetensors", ".md"}


def test_it_was_made_with_the_shipped_config(run):
    assert digest_of(run.config) == digest_of(read_config(CONFIGS[run.name]))
    config = run.config.task
    mined = load_problems(config.name, "mine", n=config.n_train, seed=run.config.seed, levels=config.levels)
    assert run.problems() == list(mined)
    assert run.problems("steered") == list(load_problems(config.name, "eval", n=config.n_eval, seed=run.config.seed, levels=config.levels))


def test_no_held_out_problem_was_mined(run):
    assert not {problem.id.split("/")[-1] for problem in run.problems()} & {
        problem.id.split("/")[-1] for problem in run.problems("steered")
    }


def test_the_basis_is_a_proper_subset(run):
    assert 0 < len(run.picks()) < len(run.entries()) and not run.manifest("basis").notes
    assert any(not pick.forced for pick in run.picks())


def test_every_recorded_decision_is_reproduced(run):
    steps = [(trace, step) for trace in run.traces("steered") for step in trace.steps]
    for trace, step in steps:
        assert decide(step.evidence, run.config.gate, seed=run.config.seed, name=trace.id) == step.decision
    assert sum(step.decision.chosen is not None for _, step in steps) > 0
    assert all(step.decision.chosen is None for trace in run.traces("vanilla") for step in trace.steps)


def test_its_reports_agree_with_its_answers(run):
    (folder,) = evaluations(run)
    report = folder.report()
    assert report.complete and report.spec.basis == run.digest("basis") and not report.spec.leaks
    for method in report.methods:
        answers = folder.answers(method.name)
        assert method.right == sum(answer.verdict is not None and answer.verdict.correct for answer in answers)
    again = evaluation_report(
        report.spec, [p.id for p in folder.problems()], {m.name: folder.answers(m.name) for m in report.methods}, describe
    )
    assert again == report
    assert not {problem.id for problem in run.problems()} & {problem.id for problem in folder.problems()}


def test_its_causal_study_belongs_to_its_basis(run):
    folder = CausalFolder(run)
    report = folder.report()
    assert report.spec.basis == run.digest("basis")
    assert report.rolls == len(folder.rolls()) and report.tokens == sum(roll.decoded for roll in folder.rolls())
    assert run.advantages() == {advantage.entry_id: advantage for advantage in report.actions}


def test_every_action_has_its_controls(run):
    corrective = {entry.id for entry in run.entries() if entry.kind == "corrective"}
    controls = run.controls()
    assert set(controls) == corrective
    assert all(control.permutation_p is not None and control.stability_pos is not None for control in controls.values())


@pytest.mark.model
def test_it_steers_its_model(run):
    """The shortest held-out answer with a committed action, decoded again: the same gate, and strength 0 equal to vanilla."""
    session = open_session(run, model_of(run.config.model))
    problems = {problem.id: problem for problem in run.problems("steered")}
    committed = [trace for trace in run.traces("steered") if any(step.decision.chosen for step in trace.steps)]
    recorded = min(committed, key=lambda trace: trace.tokens_used)
    events = session.compare(problems[recorded.id])
    steered = next(event.trace for event in events if isinstance(event, TraceEvent) and event.row == 1)
    assert any(step.decision.chosen for step in steered.steps)
    assert steered.steps[0].token_ids == recorded.steps[0].token_ids
    for ours, theirs in zip(steered.steps[1].evidence.retrieved, recorded.steps[1].evidence.retrieved, strict=True):
        assert (ours.entry_id, ours.sim) == (theirs.entry_id, pytest.approx(theirs.sim, abs=1e-3))

    off = run.config.gate.model_copy(update={"k_scale": 0.0})
    traces = {e.row: e.trace for e in session.compare(problems[recorded.id], off) if isinstance(e, TraceEvent)}
    assert traces[0].token_ids == traces[1].token_ids


def test_the_problem_shown_first_is_gained_by_steering():
    run = Run.open("two_habits")
    vanilla, steered = run.traces("vanilla")[0], run.traces("steered")[0]
    assert vanilla.id == steered.id == run.problems("steered")[0].id
    assert vanilla.verdict is not None and steered.verdict is not None
    assert not vanilla.verdict.correct and steered.verdict.correct


def test_steering_helps_the_organism_and_noise_does_not():
    (folder,) = evaluations(Run.open("two_habits"))
    methods = {method.name: method for method in folder.report().methods}
    vanilla, stir, oracle = (methods[name] for name in ("vanilla", "stir", "oracle"))
    noise = methods["stir:noise=matched,variant=random_vector"]
    assert vanilla.answers == 200 and oracle.right >= stir.right >= vanilla.right + 40
    assert stir.versus is not None and stir.versus.p_holm < 1e-6 and not stir.versus.lost
    assert abs(noise.right - vanilla.right) <= 6 and methods["static"].right < stir.right - 40
