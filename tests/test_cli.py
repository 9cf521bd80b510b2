"""The command line: exit codes, one-line refusals, and JSON output."""

import io
import json

import numpy as np
import pytest

from stir_core.cli import main, parsed
from stir_core.store.runs import Run
from stir_core.store.tensors import write_tensors


def refused(capsys, argv: list[str]) -> str:
    """Run a command that must exit with 2 and return its one line on stderr."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("stir: ") and captured.err.count("\n") == 1
    return captured.err


@pytest.fixture
def keys(tmp_path):
    write_tensors(tmp_path / "k.safetensors", {"keys": np.eye(4)[[0, 0, 1, 2]], "quality": np.ones(4)})
    return str(tmp_path / "k.safetensors")


@pytest.mark.parametrize("extra", [[], ["--compat"]])
def test_select(capsys, keys, extra):
    assert main(["select", keys, "--budget", "3", "--diversity", "0.5", "--epsilon", "1e-4", *extra, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"picks": [0, 2, 3]}


def test_select_as_a_table(capsys, keys):
    assert main(["select", keys, "--budget", "2"]) == 0
    assert "gain" in capsys.readouterr().out


def test_select_refusals(capsys, keys, tmp_path):
    assert "--budget 0: input should be greater" in refused(capsys, ["select", keys, "--budget", "0"])
    assert "--diversity nan" in refused(capsys, ["select", keys, "--budget", "2", "--diversity", "nan"])
    assert "does not exist" in refused(capsys, ["select", str(tmp_path / "none"), "--budget", "1"])
    write_tensors(tmp_path / "q.safetensors", {"keys": np.eye(3)})
    assert 'no tensor "quality"' in refused(capsys, ["select", str(tmp_path / "q.safetensors"), "--budget", "1"])
    assert "is a folder" in refused(capsys, ["select", str(tmp_path), "--budget", "1"])
    write_tensors(tmp_path / "n.safetensors", {"keys": np.full((2, 3), np.nan), "quality": np.ones(2)})
    assert "not finite" in refused(capsys, ["select", str(tmp_path / "n.safetensors"), "--budget", "1"])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    assert "not a whole safetensors file" in refused(capsys, ["select", str(tmp_path / "cut.safetensors"), "--budget", "1"])


@pytest.mark.parametrize(("gold", "answer"), [("-2\\pi", "-2pi"), ("-x^2", "-x^2"), ("-n", "-n"), ("-7", "-7")])
def test_a_gold_answer_may_begin_with_a_minus_sign(capsys, monkeypatch, gold, answer):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"\\boxed{{{answer}}}"))
    assert main(["grade", "--kind", "math", "--gold", gold, "--answer", "-"]) == 0
    assert capsys.readouterr().out.startswith("right")


def test_a_reason_and_a_strength_may_begin_with_a_minus_sign():
    assert parsed(["curate", "demo", "star", "p0032c", "--why", "-1 flips it"]).why == "-1 flips it"
    assert parsed(["whatif", "demo", "p0", "--at", "2", "--force", "p1", "--alpha", "-1e-3"]).chain[-1]["alpha"] == -1e-3


def test_grade_from_a_file_and_from_standard_input(capsys, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text(r"\boxed{12} ... so \boxed{13}")
    assert main(["grade", "--kind", "math", "--gold", "13", "--answer", str(tmp_path / "a.txt"), "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert set(verdict) == {"correct", "extracted", "reason"} and verdict["correct"] is True and verdict["extracted"] == "13"
    monkeypatch.setattr("sys.stdin", io.StringIO("Let me try n = 204"))
    assert main(["grade", "--kind", "number", "--gold", "204", "--answer", "-", "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["correct"] is False and verdict["extracted"] is None
    assert "cannot be read" in refused(capsys, ["grade", "--kind", "math", "--gold", "1", "--answer", str(tmp_path / "none")])


def test_tasks(capsys):
    assert main(["tasks", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    wanted = {
        "arithmetic",
        "chain",
        "gsm8k",
        "svamp",
        "math",
        "math500",
        "math500_published",
        "aime2024",
        "aime2025",
        "amc23",
        "arc_challenge",
        "openbookqa",
        "strategyqa",
        "commonsenseqa",
    }
    assert set(names) == wanted
    assert main(["tasks", "arithmetic", "-n", "2"]) == 0
    assert capsys.readouterr().out.count("---") == 2
    assert "arithmetic" in refused(capsys, ["tasks", "arithmetics"])
    line = refused(capsys, ["tasks", "arithmetic", "--split", "x"])
    assert line == "stir: task arithmetic has no split 'x': take one of mine, validation, eval, train\n"


def test_a_missing_data_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("STIR_DATA_ROOT", str(tmp_path))
    line = refused(capsys, ["tasks", "gsm8k"])
    assert str(tmp_path) in line and "STIR_DATA_ROOT" in line


def test_models(capsys):
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "smollm2"


@pytest.mark.parametrize(
    ("name", "message"),
    [("smollm", 'did you mean "smollm2"?'), ("./nowhere.gguf", "no GGUF file at"), ("no-such-org/no-such-model", "cannot be fetched")],
)
def test_an_unknown_model(capsys, tmp_path, name, message):
    (tmp_path / "c.toml").write_text(f'[model]\nname = "{name}"\n')
    assert message in refused(capsys, ["run", str(tmp_path / "c.toml"), "--out", str(tmp_path / "r")])


def test_a_folder_without_a_model(capsys, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "c.toml").write_text(f'[model]\nname = "{tmp_path}"\n')
    assert "holds no .safetensors weights" in refused(capsys, ["run", str(tmp_path / "c.toml"), "--out", str(tmp_path / "r")])


def test_a_misspelt_key(capsys, tmp_path):
    (tmp_path / "c.toml").write_text("[rollouts]\ntemprature = 1\n")
    assert "did you mean rollouts.temperature?" in refused(capsys, ["run", str(tmp_path / "c.toml")])
    (tmp_path / "c.toml").write_text("")
    assert "did you mean task.n_train?" in refused(capsys, ["run", str(tmp_path / "c.toml"), "--set", "task.n_trian=3"])
    assert "is not KEY=VALUE" in refused(capsys, ["run", str(tmp_path / "c.toml"), "--set", "seed"])


def test_no_such_run_or_config(capsys, tmp_path):
    for command in (["status"], ["show"], ["trace"]):
        assert "no run at" in refused(capsys, [*command, str(tmp_path / "none"), *(["hi"] if command == ["trace"] else [])])
    assert "no config file at" in refused(capsys, ["run", str(tmp_path / "none.toml")])


def test_a_prompt_may_lie_in_a_file_or_in_saved_work(capsys, tmp_path, monkeypatch):
    from stir_core.commands.console import asked_prompt
    from stir_core.config import DecodeConfig, GateConfig
    from stir_core.saved import SavedTrace
    from stir_core.store.runs import Run
    from stir_core.store.saved import SavedFolder

    run, file = Run.open("smollm2"), tmp_path / "prompt.txt"
    file.write_text("How many\nare left?\n")
    assert asked_prompt(run, f"@{file}") == ("How many\nare left?", None)
    assert "nowhere.txt cannot be read" in refused(capsys, ["trace", "smollm2", f"@{tmp_path / 'nowhere.txt'}"])
    monkeypatch.setenv("STIR_RUNS", str(tmp_path))
    problem = run.problems("steered")[0]
    settings = {
        "raw": False,
        "gate": GateConfig(),
        "decode": DecodeConfig(),
        "seed": 0,
        "events": (),
        "seconds": 1.0,
        "reading_seconds": 0.0,
    }
    for question, id_ in (("@a long question", None), (problem.question, problem.id)):
        content = SavedTrace(question=question, problem=id_, **settings)
        kept = SavedFolder(tmp_path).keep(content, title="a", outcome="b", run=run, model=None)
        assert asked_prompt(run, kept.id) == ((problem, problem) if id_ else (question, None))
    assert "trace-20200101-000000-00000000" in refused(capsys, ["trace", "smollm2", "trace-20200101-000000-00000000"])


@pytest.mark.parametrize("command", [["trace"], ["whatif", "--at", "1"]])
def test_an_id_of_no_held_out_problem_is_not_decoded_as_a_question(capsys, command):
    line = refused(capsys, [command[0], "smollm2", "arithmetic/eval/sum_small:14+21", *command[1:]])
    assert "is not the id of a held-out problem here: take one of its own, e.g. arithmetic/eval/sum_small:14+20" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("trace smollm2 hi", "keeps no part of its work"),
        ("whatif smollm2 hi --at 1", "keeps no part of its work"),
        ("eval smollm2", "finished results are kept"),
    ],
)
def test_an_interrupted_command_says_what_is_kept(capsys, monkeypatch, words, said):
    def interrupted(where):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "open", interrupted)
    assert main(words.split()) == 1
    assert said in capsys.readouterr().err


def test_an_experiment_is_not_a_sweep(capsys, tmp_path):
    (tmp_path / "c.toml").write_text("[task]\nn_train = 2\n")
    assert "no base and no [grid], so it is not a sweep" in refused(capsys, ["sweep", str(tmp_path / "c.toml")])
    (tmp_path / "s.toml").write_text('base = "c.toml"\n')
    assert "sweep key grid is missing" in refused(capsys, ["sweep", str(tmp_path / "s.toml")])


def test_a_report_of_the_user_is_not_written_over_by_a_sweep(capsys, tmp_path):
    (tmp_path / "c.toml").write_text("[task]\nn_train = 2\n")
    (tmp_path / "s.toml").write_text('base = "c.toml"\nn = 2\nobjective = "accuracy"\ngrid = { "gate.k_scale" = [0.5] }\n')
    (tmp_path / "sweep.md").write_text("mine")
    assert "sweep.md is not a sweep's" in refused(capsys, ["sweep", str(tmp_path / "s.toml"), "--out", str(tmp_path)])
    assert (tmp_path / "sweep.md").read_text() == "mine"


def test_run_status_show_and_trace_on_a_tiny_model(capsys, tmp_path, tiny_folder):
    """The commands in the usual order, on a random model that is never right: the library is empty and reported as such."""
    (tmp_path / "tiny.toml").write_text(
        f'delimiter = "e"\n[model]\nname = "{tiny_folder}"\n[task]\nn_train = 2\nn_eval = 1\ntemplate = "plain"\n'
        "[rollouts]\nk = 2\nmax_new_tokens = 12\n[mining]\nlayers = [1]\n[decode]\nmax_new_tokens = 12\n"
    )
    out = str(tmp_path / "run")
    assert main(["run", str(tmp_path / "tiny.toml"), "--out", out, "--until", "states"]) == 0
    assert "not started" in capsys.readouterr().out
    assert 'no finished stage "basis"' in refused(capsys, ["trace", out, "What is 2 + 2?"])
    assert main(["run", str(tmp_path / "tiny.toml"), "--out", out]) == 0
    assert "nothing to steer with" in capsys.readouterr().out
    assert main(["status", out, "--json"]) == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)["stages"]] == ["finished"] * 5
    assert main(["show", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["trace", out, "What is 2 + 2?", "--json"]) == 0
    traces = json.loads(capsys.readouterr().out)
    assert traces["vanilla"]["token_ids"] == traces["steered"]["token_ids"]
    assert main(["trace", out, "What is 2 + 2?"]) == 0
    assert "equal, token for token" in capsys.readouterr().out
    assert "the prompt is empty" in refused(capsys, ["trace", out, "  "])
    assert "shorten the prompt" in refused(capsys, ["trace", out, "one two " * 400])
    assert "was made with" in refused(capsys, ["trace", out, "hi", "--model", other_folder(tiny_folder, tmp_path)])


def other_folder(tiny_folder: str, tmp_path) -> str:
    """The same architecture and tokenizer with other weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    with torch.no_grad():
        model.model.norm.weight.mul_(2.0)
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "other")
    return str(tmp_path / "other")


def test_probe(capsys):
    assert main(["probe", "smollm2"]) == 0
    text = capsys.readouterr().out
    assert "difference of means" in text and "re-rolled text" in text
    assert text.rstrip().endswith("steering with this library is not expected to help.")
    assert main(["probe", "smollm2", "--layer", "17", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["outcome"] == "none seen" and text.rstrip().endswith(report["verdict"])
    assert "layer 3 was not harvested" in refused(capsys, ["probe", "smollm2", "--layer", "3"])


@pytest.mark.parametrize(
    ("argv", "remedy"),
    [
        (
            ["run", "x.toml", "--set", "seed=1", "task.n_train=2"],
            "unrecognized arguments: task.n_train=2; each change needs a --set of its own",
        ),
        (["run", "x.toml", "--untill=basis"], "lists what it takes"),
    ],
)
def test_words_that_no_option_takes_are_named_with_a_remedy(capsys, argv, remedy):
    with pytest.raises(SystemExit):
        main(argv)
    assert remedy in capsys.readouterr().err
