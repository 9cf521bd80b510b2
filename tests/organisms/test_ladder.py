"""The instruments on an organism whose truth is known: what is planted is found, and steering does what it can there."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from stir_core.calibration.truth import planted_cosines
from stir_core.config import RunConfig, with_changes
from stir_core.evaluate.causal import measure
from stir_core.evaluate.effects import ANOTHER, NULL_ARM, OWN, PLANTED, RANDOM_ARM
from stir_core.evaluate.habits import chains_of
from stir_core.evaluate.probe import probe_run
from stir_core.evaluate.runner import evaluate, settle
from stir_core.evaluate.statistics import LEVEL
from stir_core.findings import EvaluationReport
from stir_core.models.loading import LoadedModel, load_model
from stir_core.organisms.planted import organism_of
from stir_core.organisms.rungs import is_right, read_steps
from stir_core.requests import CausalRequest, EvaluationRequest
from stir_core.stages.pipeline import begin_from, run_stages
from stir_core.store.configs import read_config
from stir_core.store.evaluations import EvaluationFolder
from stir_core.store.runs import Run
from stir_core.tasks.chain import chain_of

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "organism.toml"
PROBLEMS = 24


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model("organism:two_habits")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return with_changes(read_config(CONFIG), task={"n_train": 24, "n_eval": 0}, rollouts={"k": 8}, mining={"top_pairs": 1000})


@pytest.fixture(scope="module")
def run(model: LoadedModel, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_stages(config, tmp_path_factory.mktemp("ladder") / "published", model=model)


def _evaluated(run: Run, model: LoadedModel, *methods: str) -> EvaluationReport:
    request = EvaluationRequest(methods=methods, n=PROBLEMS, rows=48)
    spec, problems = settle(run, model.identity, request, command=None, environment={})
    return evaluate(run, model, spec, problems)[0]


def test_harvested_actions_point_along_the_planted_direction(run: Run, model: LoadedModel) -> None:
    library = run.library(selected=False)
    cosines = list(planted_cosines(library.entries, library.actions, chains_of(run.problems()), organism_of(model.identity.name)).values())
    assert len(cosines) > 20
    assert np.median(cosines) > 0.8


def test_published_steering_corrects_the_wrong_habit_and_nothing_else(run: Run, model: LoadedModel) -> None:
    vanilla, stir, noise, oracle = _evaluated(run, model, "stir", "stir:noise=matched,variant=random_vector", "oracle").methods
    assert 0.25 * PROBLEMS < vanilla.right < 0.75 * PROBLEMS
    assert oracle.right == PROBLEMS  # the planted direction, where it is needed, corrects every answer
    assert stir.versus is not None and stir.right > vanilla.right + PROBLEMS / 5 and not stir.versus.lost
    assert noise.right < vanilla.right + PROBLEMS / 5
    organism, folder = organism_of(model.identity.name), EvaluationFolder(run, "chain-eval")
    problems = {problem.id: chain_of(problem.question) for problem in folder.problems()}
    fired = Counter[bool]()
    for answer in folder.answers("stir"):
        assert answer.trace is not None
        chain = problems[answer.problem_id]
        first = read_steps(chain, [step.text for step in answer.trace.steps])[0]
        assert first is not None
        fired[is_right(organism.rung, first.habit, chain.kind)] += answer.trace.steps[1].decision.chosen is not None
    assert fired[False] > 2 * fired[True]


def test_an_own_action_helps_where_a_state_is_undecided_and_so_does_the_planted_direction(run: Run, model: LoadedModel) -> None:
    request = CausalRequest(study="own", n=24, states=24, rolls=4, rows=64, strength=0.5)
    report, _ = measure(run, model, request, command=None, environment={})
    found = {effect.arm: effect for effect in report.effects if effect.against == NULL_ARM}
    for arm in (OWN, PLANTED):
        assert found[arm].advantage.bounds[0] > 0 and found[arm].won > 2 and not found[arm].lost
    assert found[ANOTHER].advantage.bounds[1] < 0  # drawn without regard to the habit
    assert found[RANDOM_ARM].advantage.value <= 0


def test_the_probe_sees_what_is_planted(run: Run) -> None:
    report = probe_run(run)
    margin = next(each for each in report.pooled if each.readout == "key margin")
    assert margin.low is not None and margin.low > 0.5


def test_a_calibrated_gate_steers_where_its_margin_told_wrong_from_right(
    run: Run, model: LoadedModel, config: RunConfig, tmp_path: Path
) -> None:
    calibrated = {"mining": {"equal_numbers": True}, "basis": {"similarity": "point_centred"}, "gate": {"rule": "calibrated"}}
    begin_from(run, with_changes(config, **calibrated), tmp_path / "calibrated", model)
    own = run_stages(with_changes(config, **calibrated), tmp_path / "calibrated", model=model)
    assert any(each.threshold is not None for each in own.margins())
    vanilla, stir = _evaluated(own, model, "stir").methods
    assert stir.right > vanilla.right + PROBLEMS / 5
    for each in own.margins():
        assert (each.threshold is None) == (each.p_holm is None or each.p_holm >= LEVEL)
        assert each.threshold in (None, 0.0)
