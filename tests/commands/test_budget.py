"""``--max-time`` and ``--max-tokens``: a call stops at a finished result, and calls one after another end as a single one does."""

import pytest

from stir_core.cli import main
from stir_core.commands import console
from stir_core.commands.console import within
from stir_core.config import section_from
from stir_core.errors import BudgetSpent, ConfigError
from stir_core.evaluate import continuations, runner, sweep
from stir_core.findings import Answer, Roll
from stir_core.models import loading
from stir_core.records import Continuation, Entry, Pick, Progress, Rollout, Trace, Verdict
from stir_core.requests import CallBudget, duration
from stir_core.stages import actions, pipeline, rollouts, steered
from stir_core.store.jsonl import read_records
from stir_core.store.progress import read_progress
from stir_core.store.runs import Run
from stir_core.tasks import Grader


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("2h", 7200), ("1h30m", 5400), ("1d1s", 86401), ("0h5m", 300)])
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "2x", "h", "-1h", "1m1h", "0s", "2 h", "2H", "١h"])
def test_no_durations(text, capsys):
    with pytest.raises(ValueError, match="give a duration such as 2h, 1h30m or 90s"):
        duration(text)
    assert main(["eval", "smollm2", f"--max-time={text}"]) == 2
    assert f"--max-time {text!r}: give a duration such as 2h" in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_a_duration_of_too_many_digits_is_called_too_long():
    assert duration("9999999h") == 9999999 * 3600
    with pytest.raises(ValueError, match="too long: a number of days, hours, minutes or seconds has at most 9 digits"):
        duration("9" * 5000 + "s")


def test_time_ends_a_call_at_a_finished_result_after_the_first():
    clock, seen = Clock(), []
    report = within(CallBudget(max_time="1m"), seen.append, clock)
    clock.now = 100.0  # the model took longer to load than the budget allows
    report(Progress("rollouts", 3, 10, "rollouts"))
    report(Progress("rollouts", 3, 10, "rollouts"))
    with pytest.raises(BudgetSpent, match="--max-time 1m is used up: rollouts has 4 of 10 rollouts"):
        report(Progress("rollouts", 4, 10, "rollouts", 17))
    assert len(seen) == 3, "what is done is reported first"


def test_a_stage_ends_with_its_last_result_and_the_next_one_does_not_begin():
    clock = Clock()
    report = within(CallBudget(max_time="1m"), lambda progress: None, clock)
    report(Progress("rollouts", 0, 2, "rollouts"))
    report(Progress("rollouts", 1, 2, "rollouts", 5))
    clock.now = 60.0
    report(Progress("rollouts", 2, 2, "rollouts", 9))
    with pytest.raises(BudgetSpent, match="states has 0 of 5"):
        report(Progress("states", 0, 5, "answers"))


def test_work_that_is_not_kept_is_not_cut():
    report = within(CallBudget(max_tokens=1), lambda progress: None, Clock())
    report(Progress("states", 0, 3, "answers", kept=False))
    report(Progress("states", 1, 3, "answers", 50, kept=False))
    report(Progress("states", 2, 3, "answers", 90, kept=False))
    with pytest.raises(BudgetSpent, match="--max-tokens 1 is used up: actions has 0 of 4"):
        report(Progress("actions", 0, 4, "continuations"))


def test_tokens_of_earlier_calls_do_not_count_and_those_of_all_stages_do():
    report = within(CallBudget(max_tokens=10), lambda progress: None, Clock())
    report(Progress("states", 0, 3, "states", 1000))
    report(Progress("states", 1, 3, "states", 1006))
    for done, tokens in ((0, 0), (1, 3)):  # another run's stage of the same name
        report(Progress("states", done, 3, "states", tokens))
    with pytest.raises(BudgetSpent):
        report(Progress("states", 2, 3, "states", 4))


@pytest.fixture
def coin(monkeypatch):
    """A random model is never right: half of its answers are declared so."""

    class Coin(Grader):
        def grade(self, kind, gold, answer_text, *, choices=()):
            return Verdict(correct=len(answer_text) % 2 == 0, extracted="1", gold=gold, method="coin", reason="coin", finished=True)

    for module in (rollouts, actions, steered, continuations, runner, sweep):
        monkeypatch.setattr(module, "Grader", Coin)


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return loading.load_model(tiny_folder)


@pytest.fixture
def config(tmp_path, tiny_folder, loaded, monkeypatch):
    for module in (loading, pipeline):
        monkeypatch.setattr(module, "model_of", lambda *asked: loaded)  # a call is not to load it again
    (tmp_path / "tiny.toml").write_text(
        f'delimiter = "e"\n[model]\nname = "{tiny_folder}"\n[task]\nn_train = 3\nn_eval = 2\ntemplate = "plain"\n'
        "[rollouts]\nk = 4\nmax_new_tokens = 20\ntemperature = 1.0\nbatch_rows = 3\n[basis]\nbudget = 6\nmin_per_control_point = 1\n"
        "[mining]\ncontrol_points = 4\nlayers = [1]\nstability_rolls = 2\n[decode]\nmax_new_tokens = 20\nbatch_problems = 1\n"
    )
    return tmp_path / "tiny.toml"


def again_and_again(argv, capsys, most=60) -> int:
    """Give a command until it ends; returns how often it was stopped."""
    for stopped in range(most):
        if (code := main(argv)) == 0:
            return stopped
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert code == 3 and "is used up: " in said and said.endswith("finished results are kept, the same command continues from them")
    raise AssertionError("the command never ended")


LOOSE = {"mean_logprob", "key_norm", "action_norm", "gain", "seconds"}


def same(ours, theirs):
    """Equal records, save for numbers that may differ in the last bits of a product of another shape."""
    mine, other = ([{k: v for k, v in row.model_dump().items() if k not in LOOSE} for row in rows] for rows in (ours, theirs))
    assert mine == other and mine


def test_a_run_in_many_calls_is_the_run_of_one_call(config, tmp_path, capsys, coin):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["run", str(config), "--out", str(whole)]) == 0
    assert again_and_again(["run", str(config), "--out", str(cut), "--max-tokens", "70", "--progress", str(tmp_path / "p")], capsys) > 3
    assert {line.state for line in read_progress(tmp_path / "p") if line.last} == {"stopped", "finished"}
    for file, kind in (("rollouts/rollouts", Rollout), ("actions/entries", Entry), ("actions/continuations", Continuation)):
        same(*(read_records(run / f"{file}.jsonl", kind) for run in (cut, whole)))
    same(*(read_records(run / "basis" / "picks.jsonl", Pick) for run in (cut, whole)))
    assert Run.open(whole).picks()
    for arm in ("vanilla", "steered"):
        traces = [read_records(run / "steered" / f"{arm}.jsonl", Trace) for run in (cut, whole)]
        facts = [[(t.id, t.token_ids, t.verdict, [step.decision.chosen for step in t.steps]) for t in each] for each in traces]
        assert facts[0] == facts[1] and facts[0]


def test_time_stops_a_run_through_the_command(config, tmp_path, capsys, monkeypatch):
    clock = Clock()
    append = rollouts.append_records

    def a_minute_each(path, records):
        append(path, records)
        clock.now += 60

    monkeypatch.setattr(rollouts, "append_records", a_minute_each)
    monkeypatch.setattr(console, "within", lambda budget, report: within(budget, report, clock))
    assert main(["run", str(config), "--out", str(tmp_path / "run"), "--max-time", "5m"]) == 3
    assert "--max-time 5m is used up: rollouts has 5 of 12 rollouts" in capsys.readouterr().err
    assert len(read_records(tmp_path / "run" / "rollouts.part" / "rollouts.jsonl", Rollout)) == 5


def test_redo_is_left_out_when_a_run_continues(config, tmp_path, capsys):
    argv = ["run", str(config), "--out", str(tmp_path / "run"), "--until", "rollouts"]
    assert main(argv) == 0
    assert main([*argv, "--redo", "rollouts", "--max-tokens", "1"]) == 3
    assert capsys.readouterr().err.strip().endswith("the same command without --redo continues from them")


@pytest.mark.slow
def test_studies_in_many_calls_are_those_of_one_call(config, tmp_path, capsys, coin):
    runs = tmp_path / "whole", tmp_path / "cut"
    for run in runs:
        assert main(["run", str(config), "--out", str(run)]) == 0
    eval_ = ["--methods", "stir", "sampling", "--n", "3", "--rows", "2"]
    causal = ["--n", "3", "--rolls", "2", "--rows", "4", "--strength", "8"]
    assert main(["eval", str(runs[0]), *eval_]) == 0
    assert main(["causal", str(runs[0]), *causal]) == 0
    assert again_and_again(["eval", str(runs[1]), *eval_, "--max-tokens", "60"], capsys) > 1
    assert again_and_again(["causal", str(runs[1]), *causal, "--max-tokens", "150"], capsys) > 1
    answers = [{f.name: f for f in (run / "evaluation").rglob("*.jsonl") if f.parent.name == "answers"} for run in runs]
    assert answers[0] and answers[0].keys() == answers[1].keys()
    rolls = [read_records(run / "causal" / "rolls.jsonl", Roll) for run in runs]
    rolled = [{(r.state, r.arm, r.rep): (r.correct, r.finished, r.decoded, round(r.alpha, 3)) for r in each} for each in rolls]
    assert rolled[0] and rolled[0] == rolled[1]
    for name in answers[0]:
        facts = [{(a.problem_id, a.seed): (a.text, a.verdict) for a in read_records(each[name], Answer)} for each in answers]
        assert facts[0] and facts[0] == facts[1]


@pytest.mark.slow
def test_a_sweep_in_many_calls_is_the_sweep_of_one_call(config, tmp_path, capsys, coin):
    (tmp_path / "sweep.toml").write_text('base = "tiny.toml"\nn = 2\n[grid]\n"gate.rho" = [0.0, 0.5]\n')
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    argv = ["sweep", str(tmp_path / "sweep.toml"), "--out"]
    assert main([*argv, str(whole)]) == 0
    assert again_and_again([*argv, str(cut), "--max-tokens", "150"], capsys) > 1
    points = [{f.name: f for f in (out / "points").glob("*.jsonl")} for out in (whole, cut)]
    assert points[0] and points[0].keys() == points[1].keys()
    for name in points[0]:
        facts = [{t.id: (t.token_ids, t.verdict) for t in read_records(each[name], Trace)} for each in points]
        assert facts[0] == facts[1]


def test_a_wrong_budget_is_refused():
    with pytest.raises(ConfigError):
        section_from(CallBudget, {"max_tokens": 0})
