"""The Harvest page: an empty store, changes and bad values in the form, starting a run, and jobs."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_run import make_fake_run
from page_reading import clean, strips, texts
from streamlit.testing.v1 import AppTest

from workbench import jobs
from workbench.jobs import JobStore

OpenPage = Callable[..., AppTest]
FAKE = """
import json, sys, time
file = sys.argv[sys.argv.index("--progress") + 1]
def say(state, **more):
    with open(file, "a") as out:
        out.write(json.dumps({"at": time.time(), "state": state, **more}) + chr(10))
say("starting")
say("running", stage="rollouts", done=3, total=8, unit="rollouts", tokens=48, seconds=2.0)
print("**bold** <script>alert(1)</script>", flush=True)
if "seed=13" in sys.argv:
    say("failed", stage="rollouts", done=3, total=8, unit="rollouts", error="model <b>x</b> is gone: take another")
    sys.exit(2)
time.sleep(60)
"""


@pytest.fixture
def command(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobStore]:
    """Runs are made by a fake command."""
    (tmp_path / "fake.py").write_text(FAKE)
    program = (sys.executable, str(tmp_path / "fake.py"))
    monkeypatch.setattr(JobStore.__init__, "__kwdefaults__", {"program": program, "limit": 1})
    own = JobStore(store)
    yield own
    for each in own.running():
        os.killpg(each.job.pid, signal.SIGKILL)
        jobs.CHILDREN.pop(each.job.pid).wait(10)


def set_field(app: AppTest, kind: str, key: str, value: object) -> AppTest:
    """Change the widget of the form whose key ends like this."""
    (widget,) = [each for each in getattr(app, kind) if each.key and each.key.endswith(f"_{key}")]
    return widget.set_value(value).run()


def stir_command(app: AppTest) -> str:
    """The command that the page shows."""
    return next(code.value for code in app.code if code.value.startswith("stir run"))


def from_smollm2(open_page: OpenPage) -> AppTest:
    """The page, started from the settings of the run `smollm2`."""
    return open_page("harvest").selectbox(key="harvest_base").select("configs/smollm2.toml").run()


def test_an_empty_store(open_page: OpenPage) -> None:
    app = clean(open_page("harvest"))
    assert stir_command(app).startswith("stir run ") and "configs/demo.toml --out " in stir_command(app)
    assert "no measurement yet" in texts(app) and "No job was started from this page yet" in texts(app)
    assert not app.button(key="harvest_start").disabled


def test_a_change_reaches_the_command_and_is_marked(open_page: OpenPage) -> None:
    app = from_smollm2(open_page)
    set_field(app, "number_input", "rollouts.k", 3)
    set_field(app, "text_input", "mining.layers", "")
    set_field(app, "toggle", "basis.keep_unreachable", True)
    command = stir_command(clean(app))
    assert "--set rollouts.k=3 --set mining.layers=none --set basis.keep_unreachable=true" in command
    assert "rollouts.k 8 → 3" in texts(app)
    assert {each.label for each in app.number_input if "●" in each.label} == {"rollouts.k ●"}
    estimate = dict(zip(app.dataframe[0].value["what"], app.dataframe[0].value["at most"], strict=True))
    assert estimate["rollouts"] == str(56 * 3) and estimate["rollout tokens"] == f"{56 * 3 * 128:,}"
    app.button(key="harvest_reset").click().run()
    assert "--set" not in stir_command(clean(app))


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        ("number_input", "rollouts.top_p", 0.0, "config key rollouts.top_p = 0.0: input should be greater than 0"),
        ("text_input", "delimiter", "", "config key delimiter = ''"),
        ("text_input", "mining.layers", "0.5, x/y", 'layer "x/y" is not a layer'),
        ("text_input", "mining.layers", "44", "layer 44 is not in this model: it has blocks 0 to 29"),
        ("text_input", "name", "../out", "run name '../out' is not usable"),
    ],
)
def test_a_bad_value_is_one_line_and_nothing_is_lost(open_page: OpenPage, kind: str, key: str, value: object, message: str) -> None:
    app = from_smollm2(open_page)
    set_field(app, "number_input", "rollouts.k", 3)
    set_field(app, kind, key, value)
    assert not app.exception and len(app.error) == 1
    line = app.error[0].value.replace("\\", "")
    assert message in line and "\n" not in line
    assert app.button(key="harvest_start").disabled
    assert [each.value for each in app.number_input if str(each.key).endswith("rollouts.k")] == [3]


def test_a_path_is_no_hub_name(open_page: OpenPage) -> None:
    app = open_page("harvest")
    set_field(app, "selectbox", "model.name", "another model, by its hub name")
    set_field(app, "text_input", "model.name_hub", "/etc/passwd")
    assert not app.exception and "'/etc/passwd' is not a hub name" in app.error[0].value.replace("\\", "")
    set_field(app, "text_input", "model.name_hub", "Qwen/Qwen2.5-0.5B-Instruct")
    assert "--set 'model.name=\"Qwen/Qwen2.5-0.5B-Instruct\"'" in stir_command(clean(app))
    assert "is not on this machine yet" in texts(app)


def test_local_files_are_offered_from_one_folder(open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "models" / "other.bin").write_bytes(b"")
    monkeypatch.setenv("STIR_MODELS", str(tmp_path / "models"))
    app = clean(open_page("harvest"))
    (widget,) = [each for each in app.selectbox if each.key and each.key.endswith("_model.name")]
    assert [name for name in widget.options if str(tmp_path) in name] == [str(tmp_path / "models" / "m.gguf")]


def test_levels_follow_the_task(open_page: OpenPage) -> None:
    app = from_smollm2(open_page)
    set_field(app, "selectbox", "task.name", "svamp")
    assert "--set task.levels=[]" in stir_command(clean(app)).replace("'", "")
    (levels,) = [each for each in app.multiselect if each.key and each.key.endswith("task.levels_svamp")]
    levels.set_value(["Addition"]).run()
    assert 'task.levels=["Addition"]' in stir_command(clean(app))


def test_a_run_s_settings_are_a_start(open_page: OpenPage, store: Path, command: JobStore) -> None:
    make_fake_run(store, "old")
    app = open_page("harvest")
    app.selectbox(key="harvest_base").select("run old").run()
    set_field(app, "number_input", "seed", 9)
    shown = stir_command(clean(app))
    app.button(key="harvest_start").click().run()
    clean(app)
    (job,) = command.running()
    assert job.job.shown.startswith(shown)
    file = Path(job.job.command[3])
    assert file.parent == store / "jobs" and "seed = 9" in file.read_text()


def test_start_shows_the_job_and_a_second_one_is_refused(open_page: OpenPage, command: JobStore) -> None:
    app = open_page("harvest")
    app.button(key="harvest_start").click().run()
    (job,) = [each.job for each in command.running()]
    while "<script>" not in command.tail(job):  # pytest's time limit ends a test that waits in vain
        time.sleep(0.02)
    app = clean(open_page("harvest"))  # another tab
    assert "running" in texts(app)
    assert any("<script>alert(1)</script>" in code.value for code in app.code)  # as text
    app.button(key="harvest_start").click().run()
    assert not app.exception and len(app.error) == 1 and "makes one at a time" in app.error[0].value.replace("\\", "")
    app.button(key=f"harvest_cancel_{job.id}").click().run()
    while command.running():  # pytest's time limit ends a test that waits in vain
        time.sleep(0.02)
    app = clean(open_page("harvest"))
    assert "stopped" in texts(app)
    app.button(key=f"harvest_resume_{job.id}").click().run()
    assert [each.job.attempts for each in command.running()] == [2]


def test_the_rollouts_of_a_running_job_are_shown_with_their_texts(open_page: OpenPage, store: Path, command: JobStore) -> None:
    app = open_page("harvest")
    app.button(key="harvest_start").click().run()
    (job,) = [each.job for each in command.running()]
    run = make_fake_run(store, job.run, "rollouts")
    rollouts = list(run.rollouts_by_name().values())
    (run.path / "rollouts").rename(run.part("rollouts"))
    (run.part("rollouts") / "manifest.json").unlink()
    app = clean(open_page("harvest"))
    right = sum(rollout.verdict.correct for rollout in rollouts)
    assert f"32 of 32 rollouts · right so far {100 * right / 32:.1f} %" in texts(app) and "end early come first" in texts(app)
    (table,) = [each.value for each in app.dataframe if "extracted" in each.value]
    assert table[["problem", "k"]].values.tolist() == [[r.problem_id, r.k] for r in rollouts[::-1][: len(table)]] and len(table) == 8
    assert any("".join(piece["text"] for piece in strip["segments"]) == rollouts[-1].text for strip in strips(app))


def test_a_failure_is_its_own_line(open_page: OpenPage, command: JobStore) -> None:
    app = open_page("harvest")
    set_field(app, "number_input", "seed", 13)
    app.button(key="harvest_start").click().run()
    while command.all()[0][0].state != "failed":  # pytest's time limit ends a test that waits in vain
        time.sleep(0.02)
    app = open_page("harvest")
    assert not app.exception
    assert [error.value.replace("\\", "") for error in app.error] == ["model <b>x</b> is gone: take another"]


def test_a_finished_stage_opens_the_run(open_page: OpenPage, store: Path, command: JobStore) -> None:
    make_fake_run(store, "another")
    app = open_page("harvest")
    set_field(app, "text_input", "name", "mine")
    app.button(key="harvest_start").click().run()
    (job,) = [each.job for each in command.running()]
    make_fake_run(store, "mine", "rollouts")  # the fake command makes nothing
    app = clean(open_page("harvest", run="another"))
    app.button(key=f"harvest_open_{job.id}").click().run()
    assert clean(app).selectbox(key="run").value == "mine"
