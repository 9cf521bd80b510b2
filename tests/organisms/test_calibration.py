"""``stir calibrate``: what is known is compared with what is seen, and an instrument that is wrong fails."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stir_core as stir
from stir_core.calibration.estimator import OPPOSITE, PLANTED, POINT, RANDOM, TONE, StudyDesign, judged
from stir_core.calibration.ladder import CALIBRATED, calibrate, counts_of, organisms_named, rung_config
from stir_core.calibration.marks import marks_of
from stir_core.calibration.truth import (
    control_counts,
    cosines_by_place,
    gate_auc,
    gate_bins,
    gate_counts,
    known_habits,
    pick_counts,
    planted_cosines,
)
from stir_core.cli import main
from stir_core.config import with_changes
from stir_core.errors import ModelError
from stir_core.evaluate.habits import KnownPoint, known_points
from stir_core.evaluate.statistics import wilson
from stir_core.findings import (
    CalibrationReport,
    Comparison,
    Estimate,
    EvaluationReport,
    GateCounts,
    MethodReport,
    PickCount,
    Roll,
    RungReport,
)
from stir_core.models.catalogue import resolve, weights_digest
from stir_core.organisms.planted import Organism, Planted
from stir_core.organisms.rungs import RUNGS
from stir_core.records import Decision, Reason, Rollout, Scored, StepEvidence, StepTrace, Trace
from stir_core.store.calibrations import SHIPPED, calibration_files, read_calibration
from stir_core.store.runs import Library
from stir_core.tasks.chain import Chain
from tests.builders import make_entry
from tests.workbench.fake_calibration import fake_report
from tests.workbench.fake_calibration import fake_rung as rung
from tests.workbench.fake_run import fake_control

ADD = Chain("add", (17, 3, 2))
TWO = Organism(RUNGS["two_habits"], Planted(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.zeros(2, 2)))
NULL = Organism(RUNGS["null"], Planted(torch.zeros(2, 2), torch.zeros(2, 2)))


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
        step(0, "well start with 17\n\n"), step(1, "so 17 plus 3 makes 20\n\n", 1.5, "a"), step(2, "so 20 plus 2 makes 23\n\n", 0.5, "a")
    )
    points = known_points([wrong], {"p": ADD}, TWO, control_points=5)
    assert [(point.step.m, point.wrong, point.erred) for point in points] == [(1, True, False), (2, False, True)]  # P is right on additions
    assert gate_counts(points) == (
        GateCounts(m=1, wrong=1, fired_wrong=1, mended=1, right=0, fired_right=0, harmed=0),
        GateCounts(m=2, wrong=0, fired_wrong=0, mended=0, right=1, fired_right=1, harmed=1),
    )
    assert gate_auc(points) == 1.0
    assert known_points([wrong], {"p": ADD}, TWO, control_points=2) == points[:1]
    assert known_points([wrong], {"q": ADD}, TWO, control_points=5) == []  # left by a calibration of more problems
    silent = [KnownPoint("p", step(1, ""), True, False), KnownPoint("p", step(1, "", 0.2), False, False)]
    assert gate_auc(silent) == 0.0  # where nothing was scored, the margin is the lowest


def test_the_share_of_wrong_habits_is_counted_by_margin() -> None:
    points = [KnownPoint(f"p{i}", step(1, "", 1 + i / 100), i >= 20, False) for i in range(40)]
    bins = gate_bins([*points, KnownPoint("q", step(1, ""), True, False)])
    assert [(each.points, each.measured.value) for each in bins] == [(8, 0.0), (8, 0.0), (8, 0.5), (8, 1.0), (8, 1.0)]
    assert bins[0].low == pytest.approx(0.0) and bins[-1].high == pytest.approx(0.39)
    assert gate_bins([]) == ()


def test_a_step_outside_the_language_is_left_out() -> None:
    assert known_points([trace(step(0, "hello\n\n"), step(1, "so 17 plus 3 makes 20\n\n"))], {"p": ADD}, TWO, control_points=5) == []


def test_cosines_are_with_the_correction_of_the_problem_s_kind() -> None:
    entries = [make_entry("a", 1, 1), make_entry("b", 1, 1, kind="null"), make_entry("c", 1, 1, problem_id="q")]
    actions = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert planted_cosines(entries, actions, {"p": ADD, "q": Chain("sub", (17, 3, 2))}, TWO) == {"a": 1.0, "c": -1.0}
    assert planted_cosines(entries[:1], actions[:1], {"p": ADD}, NULL) == {}


def test_picks_are_counted_by_kind_and_sign() -> None:
    entries = (make_entry("a", 1, 1), make_entry("b", 1, 1, kind="null"), make_entry("c", 1, 1, problem_id="q"))
    basis = Library(entries, np.zeros((3, 2)), np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]))
    counts = {(each.kind, each.towards): each.picks for each in pick_counts(basis, {"p": ADD, "q": Chain("sub", (17, 3, 2))}, TWO)}
    assert counts == {("add", "P"): 1, ("add", "Q"): 0, ("sub", "P"): 0, ("sub", "Q"): 1}
    assert pick_counts(basis, {}, NULL) == ()


def test_agreement_is_by_place_and_rollouts() -> None:
    entries = [make_entry("a", 1, 1), make_entry("b", 1, 1), make_entry("c", 2, 1)]
    found = cosines_by_place(entries, {"a": 0.5, "b": 0.7, "c": 0.9})
    assert [(each.layer, each.m, each.actions, each.cosine) for each in found] == [(1, 1, 2, pytest.approx(0.6)), (1, 2, 1, 0.9)]


def test_controls_are_counted_beside_tone() -> None:
    organism = Organism(RUNGS["length"], Planted(torch.zeros(2, 2), torch.tensor([[0.0, 0.0], [0.0, 1.0]])))
    entries = (make_entry("a", 1, 1), make_entry("b", 1, 1), make_entry("c", 1, 1, kind="null"))
    library = Library(entries, np.zeros((3, 2)), np.array([[0.0, -2.0], [0.0, 1.0], [0.0, 0.0]]))
    controls = {"a": fake_control(0), "b": fake_control(0).replaced(length_cosine=0.9, permutation_p=1.0)}
    counts = control_counts(library, controls, organism)
    assert (counts.actions, counts.passes, counts.cannot_tell, counts.length, counts.labels, counts.tone_cosine) == (2, 1, 0, 1, 1, 1.0)


def test_habits_of_rollouts_are_read_from_their_steps() -> None:
    rollout = Rollout.model_construct(problem_id="p", k=3, text="well start with 17\n\nso 17 plus 3 makes 20\n\n#### 20")
    assert known_habits([rollout], {"p": ADD}, TWO) == {("p", 3, 1): False, ("p", 3, 2): True}


def failed(found: RungReport) -> list[str]:
    return [mark.instrument for mark in marks_of(found) if not mark.passed]


@pytest.mark.parametrize("name", RUNGS)
@pytest.mark.parametrize("of", [500, 100])
def test_what_is_there_has_to_be_seen_and_nothing_else(name: str, of: int) -> None:
    assert failed(rung(name, of=of)) == []
    assert len({mark.instrument for mark in marks_of(rung(name, of=of))}) == len(marks_of(rung(name, of=of))) > 5


@pytest.mark.parametrize(
    ("name", "changes", "instruments"),
    [
        ("two_habits", {"stir": 10, "shuffled": 0, "static": 0}, ["published gate", "static vector"]),
        ("two_habits", {"default": 20}, ["abstaining gate"]),
        ("two_habits", {"oracle": 40}, ["oracle"]),
        ("two_habits", {"noise": 4}, ["noise of the actions' norm"]),
        ("two_habits", {"shuffled": 50}, ["shuffled labels"]),
        ("two_habits", {"planted_cosine": 0.3}, ["actions"]),
        ("two_habits", {"planted_cosine": None, "gate_auc": None, "retrieval_auc": None}, ["actions", "retrieval", "gate ROC"]),
        ("two_habits", {"gate_bins": ()}, ["gate calibration"]),
        ("two_habits", {"picks": ()}, ["basis"]),
        ("two_habits", {"picks": (PickCount(kind="add", towards="P", picks=20),)}, ["basis"]),
        ("hidden_kind", {"default": -3}, ["abstaining gate"]),
        ("null", {"default": -5, "oracle": 1}, ["abstaining gate", "oracle"]),
    ],
)
def test_a_wrong_instrument_fails(name: str, changes: dict[str, Any], instruments: list[str]) -> None:
    assert failed(rung(name, **changes)) == instruments


@pytest.mark.parametrize(
    ("name", "counts", "instruments"),
    [
        ("two_habits", {"length": 50}, ["confound controls"]),
        ("length", {"length": 49}, ["confound controls"]),
        ("null", {"passes": 11}, ["confound controls"]),
        ("null", {"actions": 0}, ["confound controls"]),
        ("text_borne", {"length": 100}, []),
    ],
)
def test_confound_controls_are_judged_by_what_is_planted(name: str, counts: dict[str, int], instruments: list[str]) -> None:
    right = rung(name)
    assert failed(right.replaced(controls=right.controls.replaced(**counts))) == instruments


@pytest.mark.parametrize(
    ("action", "counts", "instruments"),
    [
        (PLANTED, {"covered": 15}, ["causal interval, planted"]),
        (PLANTED, {"seen": 15}, ["causal power"]),
        (PLANTED, {"first": 17}, ["causal ranking"]),
        (RANDOM, {"seen": 4}, ["causal false alarms"]),
    ],
)
def test_the_estimator_is_judged_by_the_known_effect(action: str, counts: dict[str, int], instruments: list[str]) -> None:
    right = rung("two_habits")
    checks = tuple(check.replaced(**counts) if check.action == action else check for check in right.estimator)
    assert failed(right.replaced(estimator=checks)) == instruments


def test_harmful_commits_fail_a_gate() -> None:
    right = rung("null")
    harm = right.default_gate[0].replaced(fired_right=50, harmed=6)
    assert failed(right.replaced(default_gate=(harm,))) == ["commits, abstaining gate"]
    assert failed(right.replaced(default_gate=())) == []  # it never committed


def test_settings_of_both_gates() -> None:
    config = rung_config("organism:null", 8, 4)
    assert config.gate.rule == "score" and with_changes(config, **CALIBRATED).gate.rule == "calibrated"


def test_methods_are_counted_against_vanilla() -> None:
    plain = MethodReport.model_construct(name="vanilla", answers=10, right=5, accuracy=wilson(5, 10), versus=None, committed=3.0)
    versus = Comparison.model_construct(won=("a", "b"), lost=("c",), difference=Estimate(value=0.1), p=0.5)
    steered = MethodReport.model_construct(name="stir", answers=10, right=6, accuracy=wilson(6, 10), versus=versus, committed=4.0)
    counts = counts_of(EvaluationReport.model_construct(methods=(plain, steered)), {"vanilla": "vanilla", "default": "stir"})
    assert (counts["vanilla"].right, counts["vanilla"].difference) == (5, None)
    assert (counts["default"].right, counts["default"].of, counts["default"].won, counts["default"].lost) == (6, 10, 2, 1)


def test_all_studies_together_are_the_truth_of_each() -> None:
    helps = {PLANTED: 1.0, OPPOSITE: 0.0, TONE: 0.5, RANDOM: 0.5, "null": 0.5}
    states = [(f"p{i}", POINT, None) for i in range(24)]
    rolls = [
        roll(problem_id, action, rep, correct=(i + 2 * rep) % 4 < 4 * share)
        for i, (problem_id, *_) in enumerate(states)
        for action, share in helps.items()
        for rep in range(2)
    ]
    found = {check.action: check for check in judged(rolls, states, list(helps)[:-1], StudyDesign(3, 8, 2))}
    assert found[PLANTED].effect == 0.5 and found[OPPOSITE].effect == -0.5 and found[TONE].effect == 0.0
    assert (found[PLANTED].seen, found[PLANTED].covered, found[PLANTED].first) == (3, 3, 3)
    assert (found[TONE].seen, found[TONE].covered, found[TONE].first) == (0, 3, 0)


def roll(problem_id: str, action: str, rep: int, *, correct: bool) -> Roll:
    counts: dict[str, Any] = {"alpha": 1.0, "finished": True, "tokens": 9, "decoded": 5}
    return Roll(problem_id=problem_id, m=POINT, arm=action, rep=rep, correct=correct, **counts)


def test_marks_and_coverage_of_all_rungs_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stir_core.calibration.ladder.measure_rung", lambda name, out, **how: rung(name.partition(":")[2]))
    monkeypatch.setattr("stir_core.calibration.ladder.simulated_coverage", lambda studies: 0.99)
    found = calibrate(["two_habits", "null"], tmp_path)
    assert read_calibration(tmp_path / "full" / "calibration.json") == found and found.problems == 500
    assert list(found.rungs) == ["two_habits", "null"] and found.causal_coverage == pytest.approx(0.95)
    assert [(mark.rung, mark.instrument) for mark in found.failed] == [("simulation", "causal interval")]
    assert found.marks[-1] == found.failed[0] and len(found.marks) == len(found.passed) + 1


@pytest.mark.parametrize(("passes", "code"), [(True, 0), (False, 1)])
def test_the_command_prints_marks_and_fails_with_an_instrument(
    passes: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: list[tuple[list[str], Path, int | None, bool]] = []

    def made(rungs: list[str], out: Path, *, n: int | None, quick: bool, **others: object) -> CalibrationReport:
        asked.append((rungs, out, n, quick))
        return fake_report(rung("two_habits") if passes else rung("two_habits", stir=0))

    monkeypatch.setattr("stir_core.calibration.ladder.calibrate", made)
    assert main(["calibrate", "two_habits", "--quick", "--out", str(tmp_path)]) == code
    assert ("FAIL" in capsys.readouterr().out) is not passes
    assert main(["calibrate", "--json", "--n", "7", "--out", str(tmp_path)]) == code
    printed = json.loads(capsys.readouterr().out)
    vanilla = printed["rungs"]["two_habits"]["vanilla"]
    assert (vanilla["right"], vanilla["of"]) == (250, 500)
    figures = ("stir", "static", "shuffled", "oracle", "default", "gate_auc", "planted_cosine", "retrieval_auc")
    assert not set(figures) - set(printed["rungs"]["two_habits"]) and printed["causal_coverage"] == 0.95
    assert bool(printed["failed"]) is not passes and printed["passed"]
    assert asked == [(["two_habits"], tmp_path, None, True), ([], tmp_path, 7, False)]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nonesuch"], 'unknown model "organism:nonesuch"'),
        (["one_habit"], "the organism one_habit is not embedded: `stir organism train one_habit --out DIR`"),
        (["--n", "0"], "n = 0"),
        (["--n", "5000"], "5000 were asked for"),
    ],
)
def test_bad_input_is_refused_before_anything_is_harvested(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["calibrate", *words, "--out", str(tmp_path / "runs")]) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_organisms_are_named_by_rung_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert organisms_named(["null", "organism:null"]) == {"null": "organism:null"}
    shipped = resolve("organism:null").path
    assert shipped is not None
    monkeypatch.chdir(shipped.parent)  # there is a folder null here, too
    assert organisms_named(["null"]) == {"null": "organism:null"}
    assert organisms_named(["./null", "two_habits"]) == {"null": "./null", "two_habits": "organism:two_habits"}
    with pytest.raises(ModelError, match=r"organism:null and \./null are both of the rung null: judge each in an --out of its own"):
        organisms_named(["null", "./null"])
    folder = tmp_path / "damaged"
    shutil.copytree(shipped, folder)
    for damage in ("not JSON", "{}", '{"rung": "nonesuch"}'):
        (folder / "training.json").write_text(damage)
        with pytest.raises(ModelError, match="holds no finished organism"):
            organisms_named([str(folder)])


def test_all_embedded_rungs_are_the_default_in_the_order_of_the_ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stir_core.calibration.ladder.measure_rung", lambda name, out, **how: rung(name.partition(":")[2], of=how["n"]))
    monkeypatch.setattr("stir_core.calibration.ladder.simulated_coverage", lambda studies: 0.95)
    found = stir.calibrate(out=tmp_path / "runs" / "mine", quick=True)
    assert found.problems == 40 and found.quick and list(found.rungs) == [name for name in RUNGS if name in found.rungs]
    assert {"two_habits", "hidden_kind", "null"} <= set(found.rungs)
    assert list(calibration_files(tmp_path / "runs")) == ["shipped", "mine/quick"]
    assert list(calibration_files(tmp_path / "runs" / "mine")) == ["shipped", "quick"]


def test_the_shipped_result_is_of_the_embedded_organisms() -> None:
    shipped = read_calibration(SHIPPED)
    assert {"two_habits", "hidden_kind", "null"} <= set(shipped.rungs)
    for name, own in shipped.rungs.items():
        assert own.vanilla.of == shipped.problems
        source = resolve(f"organism:{name}")
        assert source.path is not None and own.weights_sha256 == weights_digest(source, source.path)
    marks = [mark for own in shipped.rungs.values() for mark in marks_of(own)]
    assert marks == [mark for mark in shipped.marks if mark.rung in shipped.rungs]
