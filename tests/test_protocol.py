"""The protocol's runner: every step is a command that exists, it goes on where it was, and what a link shows follows from the reports."""

import json
import os

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.protocol import FILE, Protocol, arm_verdict, main, markdown
from stir_core.cli import parsed
from stir_core.commands.overrides import overridden
from stir_core.evaluate.effects import NULL_ARM, OWN, RANDOM_ARM, RETRIEVED, SHUFFLED
from stir_core.evaluate.report import answered_right
from stir_core.evaluate.statistics import LEVEL, looks
from stir_core.store.causal import CausalFolder
from stir_core.store.configs import read_config
from stir_core.store.evaluations import EvaluationFolder
from stir_core.store.runs import RECORDS, Run
from stir_core.tasks import load_problems

SMALL = """
rows = 64
own = "--n 3 --states 1 --rolls 1"
gate = "--n 4 --states 1 --rolls 1"

[[run]]
name = "habits"
config = "habits.toml"
looks = [2, 4]
transfer = "chain"
transfer_n = 2

[[whole]]
runs = ["habits"]
primary = ["stir"]
level = 0.05
methods = ["static"]
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "protocol.toml").write_text(SMALL)
    config = (FILE.parent / "organism.toml").read_text().replace("n_train = 48", "n_train = 8").replace("k = 16", "k = 4")
    (tmp_path / "habits.toml").write_text(config)
    return tmp_path


def test_bounds_of_looks():
    """Constants of Jennison and Turnbull (2000), table 2.3: C_B(K, 0.05) = 1.960, 1.977, 2.004, 2.024, 2.040."""
    for count, constant in enumerate((1.960, 1.977, 2.004, 2.024, 2.040), start=1):
        bounds = looks(count)
        assert bounds == pytest.approx([2 * norm.sf(constant * (count / k) ** 0.5) for k in range(1, count + 1)], rel=5e-3)


def test_looks_keep_their_level():
    draws = np.random.default_rng(0).standard_normal((40_000, 3)).cumsum(1) / np.sqrt([1, 2, 3])
    stopped = (2 * norm.sf(np.abs(draws)) <= looks(3)).any(1).mean()
    assert stopped == pytest.approx(LEVEL, abs=4 * (LEVEL / 40_000) ** 0.5)


SHIPPED = [FILE, *sorted(FILE.parent.glob("kit-*.toml"))]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_step_of_a_shipped_protocol_is_a_command(file, tmp_path):
    steps = list(Protocol(file, tmp_path).steps())
    assert {step.command[0] for step in steps} >= {"run", "probe", "causal", "eval"}
    assert not any(step.done for step in steps)
    runs = []
    for step in steps:
        if step.run:
            arguments = parsed(step.command)
            if step.command[0] == "run":
                runs.append(overridden(read_config(arguments.config), arguments.set))
                assert runs[-1].task.n_eval == 0  # the looks take the held-out problems
    assert len(runs) == len(Protocol(file, tmp_path).plan.run)


@pytest.mark.skipif(not os.environ.get("STIR_DATA_ROOT"), reason="STIR_DATA_ROOT names no folder with the real benchmark files")
def test_there_are_as_many_problems_as_the_protocol_asks_for(tmp_path):
    protocol, asked = Protocol(FILE, tmp_path), 0
    for step in protocol.steps():
        task = read_config(FILE.parent / protocol.settings(step.run).config).task
        if step.command[0] == "run":
            load_problems(task.name, "mine", n=task.n_train, levels=task.levels)
        elif step.command[0] == "policy":
            arguments = parsed(step.command)
            load_problems(task.name, "mine", n=task.n_train + arguments.n + arguments.further, levels=task.levels)
        elif step.command[:4:3] == ["causal", "gate"]:
            load_problems(task.name, "validation", n=parsed(step.command).n, levels=task.levels)
            asked += 1
    for each in protocol.plan.run:
        task = read_config(FILE.parent / each.config).task
        load_problems(task.name, "eval", n=max(each.looks), levels=task.levels)
    assert asked == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("[[run]]", "[[runs]]"), "config key run is missing"),
        (("looks = [2, 4]\n", ""), "config key run.0.looks is missing"),
        (("looks = [2, 4]", "looks = [2, 4]\nlook = 1"), "unknown config key run.0.look: did you mean run.0.looks?"),
        (("looks = [2, 4]", "looks = [4, 2]"), "looks of run habits are [4, 2]: give rising numbers"),
        (("transfer_n = 2\n", ""), "run habits has transfer = 'chain': add transfer_n"),
        (('runs = ["habits"]', 'runs = ["nobody"]'), "a [[whole]] names 'nobody', which is no [[run]] of it: habits"),
        (('config = "habits.toml"', 'config = "habits.toml"\nbase = "nobody"'), "run habits has base = 'nobody'"),
        (("rows = 64", "rows = = 64"), "cannot be read as TOML"),
        (("rows = 64", "rows = 0"), "rows = 0"),
        (("looks = [2, 4]", "looks = [-2, 4]"), "= -2"),
        (('name = "habits"', 'name = "../habits"'), "name = '../habits' of a [[run]] is no folder name"),
        (('config = "habits.toml"', 'config = "habits.toml"\nbase = "habits"'), "base = 'habits', which is no other [[run]]"),
        (('runs = ["habits"]', 'runs = ["habits", "habits"]'), "names 'habits' twice"),
        (('primary = ["', 'primary = ["vanilla", "'), "asks for vanilla"),
        (('methods = ["static"]', 'methods = ["stir:library=basis"]'), "names 'stir' twice"),
        (('primary = ["', 'primary = ["sitr", "'), "unknown method 'sitr'"),
        (("[[whole]]", '[[run]]\nname = "habits"\nconfig = "habits.toml"\nlooks = [2, 4]\n\n[[whole]]'), "two [[run]] have one name"),
        (("level = ", "level = 0.5 # "), "= 0.5"),
    ],
)
def test_a_file_that_cannot_be_carried_out_is_refused_in_one_line(place, capsys, change, says):
    file = place / "protocol.toml"
    assert change[0] in SMALL
    file.write_text(SMALL.replace(*change))
    for more in ([], ["--report"]):
        assert main([str(file), "--runs", str(place / "runs"), *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line and str(file) in line


def test_a_config_that_is_not_there_ends_it_before_anything_is_run(place, capsys):
    (place / "protocol.toml").write_text(SMALL.replace('config = "habits.toml"', 'config = "nobody.toml"'))
    assert main([str(place / "protocol.toml"), "--runs", str(place / "runs")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "config = 'nobody.toml', and there is no file" in line and not (place / "runs").exists()


def test_an_interruption_is_called_one(place, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.protocol.stir", lambda words: 1)
    assert main([str(place / "protocol.toml"), "--runs", str(place / "runs")]) == 2
    assert "interrupted, nothing is lost" in capsys.readouterr().err


def test_a_control_that_is_missing_leaves_a_link_open():
    report = CausalFolder(Run.open("qwen-svamp"), "own").report()
    null = next(each for each in report.effects if (each.arm, each.against) == (OWN, NULL_ARM))
    better = null.advantage.model_copy(update={"value": 0.2, "low": 0.1, "high": 0.3})
    strong = [
        null.model_copy(update={"advantage": better, "p": 1e-4, "p_holm": 1e-3, "against": name})
        for name in (NULL_ARM, RANDOM_ARM, SHUFFLED)
    ]
    assert arm_verdict(report.model_copy(update={"effects": tuple(strong)}), OWN, RANDOM_ARM, SHUFFLED)[0] == "yes"
    said, seen = arm_verdict(report.model_copy(update={"effects": tuple(strong[:2])}), OWN, RANDOM_ARM, SHUFFLED)
    assert said == "cannot tell" and f"not told apart from {SHUFFLED}" in seen


def test_runs_pooled_in_one_whole_have_equally_many_looks(place, capsys):
    second = '[[run]]\nname = "more"\nconfig = "habits.toml"\nlooks = [2]\n\n[[whole]]'
    (place / "protocol.toml").write_text(SMALL.replace("[[whole]]", second).replace('runs = ["habits"]', 'runs = ["habits", "more"]'))
    assert main([str(place / "protocol.toml"), "--report"]) == 2
    assert "habits and more of one [[whole]] have different numbers of looks" in capsys.readouterr().err


def test_other_bad_input_is_refused_in_one_line(place, capsys):
    assert main([str(place / "none.toml")]) == 2
    assert "no config file at" in capsys.readouterr().err
    assert main([str(place / "protocol.toml"), "--only", "nobody"]) == 2
    assert "--only nobody is no [[run]] of" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(place / "protocol.toml"), "--hours", "nan"])
    (place / "runs").mkdir()
    (place / "runs" / "habits.probe.json").write_text('{"verdict": ')
    assert main([str(place / "protocol.toml"), "--runs", str(place / "runs"), "--report"]) == 2
    assert "habits.probe.json is not a ProbeReport" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_protocol_from_mining_to_the_whole(place, capsys):
    arguments = [str(place / "protocol.toml"), "--runs", str(place / "runs")]
    assert main([*arguments, "--hours", "0"]) == 0
    assert "goes on" in capsys.readouterr().err
    assert main(arguments) == 0
    protocol = Protocol(place / "protocol.toml", place / "runs")
    assert all(step.done for step in protocol.steps())
    (layer, *moved) = protocol.layers("habits")
    assert layer == "stir:layer=1" and set(moved) <= {"stir:at=0,layer=1", "stir:at=2,layer=1"} and moved
    assert all(len(protocol.answers("habits", "layers", each)) == 2 for each in (layer, *moved))
    first = markdown(protocol)
    assert "not measured" not in first and "6. the whole helps: `stir`" in first
    (pooled,) = protocol.pooled(protocol.plan.whole[0], ["stir"], protocol.look(protocol.plan.whole[0]))
    own, base = (protocol.answers("habits", "whole", name) for name in ("stir", "vanilla"))
    assert pooled.problems == len(own) == len(base) in (2, 4) and pooled.stops
    right = [sum(bool(each.verdict and each.verdict.correct) for each in answers.values()) for answers in (own, base)]
    assert pooled.won - pooled.lost == right[0] - right[1]
    capsys.readouterr()
    assert main(arguments) == 0  # nothing is left to do
    assert "stir " not in capsys.readouterr().err


def test_nothing_is_said_between_looks(tmp_path):
    text = FILE.read_text()
    assert "looks = [134, 267, 400]" in text
    (tmp_path / "later.toml").write_text(text.replace("looks = [134, 267, 400]", "looks = [267, 400]"))
    for file, says in ((FILE, "no"), (tmp_path / "later.toml", "not measured")):
        found = {each.link: each for each in Protocol(file, RECORDS).verdicts() if each.run == "smollm2-arithmetic"}
        assert found["6. the whole helps: `stir`"].says == says, file
    assert found["6. the whole helps: `stir`"].seen == "134 problems answered, before a look"


def test_harm_is_called_harm_and_breaks_no_other_link():
    protocol = Protocol(FILE, RECORDS)
    name = "qwen-gsm8k-published"
    (said,) = [each for each in protocol.verdicts() if each.run == name]
    (method,) = [each for each in EvaluationFolder(Run.open(name), "whole").report().methods if each.name == "stir"]
    assert method.versus is not None and method.versus.p is not None and len(method.versus.won) < len(method.versus.lost)
    assert method.versus.p < looks(3, LEVEL)[0] and said.says == "no, it harms" and f"{len(method.versus.lost)} lost" in said.seen
    assert f"- `{name}`: only the whole is asked of it, since its rollouts are those of another run (`stir`: no, it harms)." in markdown(
        protocol
    )


def test_a_look_is_judged_on_its_own_problems(tmp_path):
    """Answers to later looks are there after an interruption: they must not move an earlier look, or make one in between."""
    text = FILE.read_text()
    whole = Protocol(FILE, RECORDS).plan.whole[1]
    assert whole.runs == ("smollm2-arithmetic",)
    for looks_, stops in (("[130, 267]", True), ("[20, 267]", False)):
        (tmp_path / "again.toml").write_text(text.replace("looks = [134, 267, 400]", f"looks = {looks_}"))
        protocol = Protocol(tmp_path / "again.toml", RECORDS)
        first = json.loads(looks_)[0]
        (pooled, _) = protocol.pooled(whole, whole.primary, 0)
        base, own = (protocol.answers("smollm2-arithmetic", "whole", name) for name in ("vanilla", "stir"))
        asked = protocol.problems("smollm2-arithmetic")[:first]
        right = [sum(answered_right(answers[each]) for each in asked) for answers in (own, base)]
        assert pooled.problems == first and pooled.won - pooled.lost == right[0] - right[1]
        assert bool(pooled.stops) == stops and protocol.look(whole) == (0 if stops else 1)
        (said, _) = [each for each in protocol.verdicts() if each.run == "smollm2-arithmetic" and each.link.startswith("6")]
        assert said.says == ("no" if stops else "not measured")


def test_link_4_says_at_how_many_states_retrieval_takes_an_action():
    rolls = [roll for roll in CausalFolder(Run.open("smollm2-arithmetic"), "own").rolls() if roll.arm in (RETRIEVED, NULL_ARM)]
    states, acting = ({roll.state for roll in rolls if more(roll)} for more in (lambda roll: True, lambda roll: roll.alpha > 0))
    ours, null = ([roll.correct for roll in rolls if roll.arm == arm and roll.state in acting] for arm in (RETRIEVED, NULL_ARM))
    assert 0 < len(acting) < len(states)
    points = 100 * (np.mean(ours) - np.mean(null))
    assert f"{len(acting)} of {len(states)} states of link 4: {points:+.1f} points [" in markdown(Protocol(FILE, RECORDS))


def test_a_change_is_of_one_run(place, capsys):
    with pytest.raises(SystemExit):
        main([str(place / "protocol.toml"), "--set", "model.name=organism:null"])
    assert "would change the config of every run: add --only RUN" in capsys.readouterr().err


def test_a_command_that_fails_is_named(place, capsys):
    (place / "habits.toml").write_text('[model]\nname = "organism:nobody"\n')
    assert main([str(place / "protocol.toml"), "--runs", str(place / "runs")]) == 2
    assert "`stir run " in capsys.readouterr().err


def test_what_is_unequal_on_a_machine_is_kept_and_ends_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "protocol.toml").write_text('benchmarks = "--quick"\nrows = 1\nown = ""\ngate = ""\nrun = []\nwhole = []\n')

    def unequal(words):
        assert words == ["--quick"]
        print('{"equal": false}')
        return 1

    monkeypatch.setattr("benchmarks.protocol.benchmarks", unequal)
    assert main([str(tmp_path / "protocol.toml"), "--runs", str(tmp_path / "runs")]) == 0
    assert "The protocol is finished." in capsys.readouterr().err
    assert json.loads((tmp_path / "runs" / "benchmarks.json").read_text()) == {"equal": False}
