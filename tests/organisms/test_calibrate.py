"""``stir calibrate``: what is known is compared with what is seen, and an instrument that is wrong fails."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stir_core.calibrate.ladder import ARMS, CALIBRATED, marks_of, rung_config
from stir_core.calibrate.truth import KnownPoint, gate_auc, gate_counts, known_points, planted_cosines
from stir_core.cli import main
from stir_core.config import with_changes
from stir_core.findings import CalibrationReport, Comparison, Estimate, EvaluationReport, MethodReport, RungReport
from stir_core.organisms.planted import Organism, Planted
from stir_core.organisms.rungs import RUNGS
from stir_core.records import Decision, Reason, Scored, StepEvidence, StepTrace, Trace
from stir_core.tasks.chain import Chain
from tests.builders import make_entry

ADD = Chain("add", (17, 3, 2))
TWO = Organism(RUNGS["two_habits"], Planted(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.zeros(2, 2)))


def step(m: int, text: str, score: float | None = None, chosen: str | None = None) -> StepTrace:
    scored = () if score is None else (Scored(entry_id="a", value=1.0, gain=0.0, score=score),)
    decision = Decision(chosen=chosen, alpha=float(chosen is not None), score_null=1.0, scored=scored, reason=Reason(kind="forced"))
    evidence = StepEvidence(m=m, position=m)
    return StepTrace(step=m + 1, evidence=evidence, decision=decision, token_ids=(1,), text=text, logprobs=(0.0,), probe_tokens=0)


def trace(*steps: StepTrace) -> Trace:
    counts: dict[str, Any] = {"tokens_used": 1, "probe_tokens": 0, "forward_tokens": 1}
    return Trace(id="p", variant="stir", prompt_ids=(1,), steps=steps, token_ids=(1,), text="", finish="stop", **counts)


def test_commits_are_counted_by_the_habit_of_the_step_before() -> None:
    wrong = trace(
        step(0, "well start with 17\n\n"), step(1, "so 17 plus 3 makes 20\n\n", 1.5, "a"), step(2, "so 20 plus 2 makes 22\n\n", 0.5)
    )
    points = known_points([wrong], {"p": ADD}, TWO, control_points=5)
    assert [(point.step.m, point.wrong) for point in points] == [(1, True), (2, False)]  # P is right on additions
    assert [(c.m, c.wrong, c.fired_wrong, c.right, c.fired_right) for c in gate_counts(points)] == [(1, 1, 1, 0, 0), (2, 0, 0, 1, 0)]
    assert gate_auc(points) == 1.0
    assert known_points([wrong], {"p": ADD}, TWO, control_points=2) == points[:1]
    silent = [KnownPoint(step(1, ""), True), KnownPoint(step(1, "", 0.2), False)]
    assert gate_auc(silent) == 0.0  # where nothing was scored, the margin is the lowest


def test_a_step_outside_the_language_is_left_out() -> None:
    assert known_points([trace(step(0, "hello\n\n"), step(1, "so 17 plus 3 makes 20\n\n"))], {"p": ADD}, TWO, control_points=5) == []


def test_cosines_are_with_the_correction_of_the_problem_s_kind() -> None:
    entries = [make_entry("a", 1, 1), make_entry("b", 1, 1, kind="null"), make_entry("c", 1, 1, problem_id="q")]
    actions = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert planted_cosines(entries, actions, {"p": ADD, "q": Chain("sub", (17, 3, 2))}, TWO) == {"a": 1.0, "c": -1.0}
    none = Organism(RUNGS["null"], Planted(torch.zeros(2, 2), torch.zeros(2, 2)))
    assert planted_cosines(entries[:1], actions[:1], {"p": ADD}, none) == {}


def report(**points: int) -> EvaluationReport:
    """An evaluation of 100 problems, of which vanilla gets 50 right and each method ``points`` more."""

    def estimate(value: float) -> Estimate:
        return Estimate.model_construct(value=value, low=value, high=value)

    def method(name: str, more: int) -> MethodReport:
        versus = Comparison.model_construct(won=("p",) * max(more, 0), lost=("p",) * max(-more, 0), p={15: 0.01, 50: 1e-4}.get(more, 0.5))
        return MethodReport.model_construct(
            name=name, answers=100, right=50 + more, accuracy=estimate(0.5 + more / 100), versus=None if name == "vanilla" else versus
        )

    return EvaluationReport.model_construct(
        methods=tuple(method(ARMS.get(name, name), more) for name, more in {"vanilla": 0, **points}.items())
    )


def rung(name: str, *, stir: int, calibrated: int, cosine: float = 0.9, **arms: int) -> RungReport:
    published = report(stir=stir, **{"static": 0, "noise": 0, "library_shuffled": 20, "oracle": 50, **arms})
    found: dict[str, Any] = {"published": published, "calibrated": report(stir=calibrated)}
    habit = RUNGS[name].right is not None
    return RungReport.model_construct(
        rung=name,
        **found,
        gate=(),
        calibrated_gate=(),
        gate_auc=0.95 if habit else None,
        planted_cosine=cosine if habit else None,
        margins=(),
    )


def failed(found: RungReport) -> list[str]:
    return [mark.instrument for mark in marks_of(found) if not mark.passed]


def test_what_is_there_has_to_be_seen() -> None:
    assert failed(rung("two_habits", stir=50, calibrated=40)) == []
    assert failed(rung("two_habits", stir=10, calibrated=20, cosine=0.3)) == [
        "published STIR",
        "actions",
        "abstaining gate",
        "static vector",
    ]
    assert failed(rung("two_habits", stir=50, calibrated=40, noise=15)) == ["noise of the actions' norm"]


def test_what_is_not_there_must_not_be_acted_on() -> None:
    assert failed(rung("null", stir=-20, calibrated=0)) == []
    assert failed(rung("null", stir=0, calibrated=-5)) == ["abstaining gate"]
    assert len(marks_of(rung("hidden_kind", stir=-7, calibrated=0))) == 1


def test_settings_of_both_gates() -> None:
    config = rung_config("organism:null", 8, 4)
    assert config.gate.rule == "score" and with_changes(config, **CALIBRATED).gate.rule == "calibrated"


@pytest.mark.parametrize(("passes", "code"), [(True, 0), (False, 1)])
def test_the_command_prints_marks_and_fails_with_an_instrument(
    passes: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: list[tuple[list[str], Path, int]] = []

    def calibrate(names: list[str], out: Path, *, n: int, quick: bool, report: object) -> CalibrationReport:
        asked.append((names, out, n))
        found = rung("two_habits", stir=50 if passes else 0, calibrated=40)
        return CalibrationReport.model_construct(problems=n, rungs={found.rung: found}, marks=tuple(marks_of(found)))

    monkeypatch.setattr("stir_core.calibrate.ladder.calibrate", calibrate)
    assert main(["calibrate", "two_habits", "--quick", "--out", str(tmp_path)]) == code
    assert ("FAIL" in capsys.readouterr().out) is not passes
    assert main(["calibrate", "--json", "--n", "7", "--out", str(tmp_path)]) == code
    printed = json.loads(capsys.readouterr().out)
    assert printed["rungs"]["two_habits"]["vanilla"] == {"right": 50, "of": 100}
    assert bool(printed["failed"]) is not passes and printed["passed"]
    assert asked[0] == (["organism:two_habits"], tmp_path / "quick", 40)
    assert asked[1] == (["organism:two_habits", "organism:hidden_kind", "organism:null"], tmp_path / "full", 7)


@pytest.mark.parametrize(("words", "line"), [(["nonesuch"], 'unknown model "organism:nonesuch"'), (["--n", "0"], "n = 0")])
def test_bad_input_is_refused_before_anything_is_harvested(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["calibrate", *words, "--out", str(tmp_path / "runs")]) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_instrument_without_a_figure_fails() -> None:
    found = rung("two_habits", stir=50, calibrated=40).replaced(planted_cosine=None, gate_auc=None)
    assert [mark.seen for mark in marks_of(found) if not mark.passed] == ["not measured", "not measured"]
