"""Jobs with a tiny command: their states follow from disk and the process table alone, after restarts, kills and forgeries."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from stir_core.errors import StoreError
from workbench import jobs
from workbench.jobs import JobStore, RunJob

FAKE = """
import json, signal, subprocess, sys, time
mode, file = sys.argv[1], sys.argv[sys.argv.index("--progress") + 1]
def say(state, **more):
    with open(file, "a") as out:
        out.write(json.dumps({"at": time.time(), "state": state, **more}) + chr(10))
def stop(*_):
    say("stopped")
    sys.exit(1)
signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "deaf" else stop)
if mode == "deaf":
    child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"])
    print("child", child.pid, flush=True)
say("starting")
say("running", stage="rollouts", done=1, total=4, unit="rollouts", tokens=16)
print("hello", mode, flush=True)
if mode == "fail":
    say("failed", error="no such thing: take another")
    sys.exit(2)
if mode == "crash":
    sys.exit(3)
if mode != "quick":
    time.sleep(60)
say("finished")
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    """A store whose command is the fake one; whatever it started is ended afterwards."""
    (tmp_path / "fake.py").write_text(FAKE)
    made = JobStore(tmp_path / "runs", program=(sys.executable, str(tmp_path / "fake.py")))
    yield made
    for each in made.running():
        os.killpg(each.job.pid, signal.SIGKILL)
        until(lambda each=each: not made.status(each.job.id).running)


def until(true: Callable[[], object]) -> None:
    """Wait until a condition holds; pytest's time limit ends a test whose condition never does."""
    while not true():
        time.sleep(0.02)


@pytest.fixture
def again(tmp_path: Path) -> Callable[[], JobStore]:
    """The store as a server that has just been started sees it: nothing but the folder."""
    return lambda: JobStore(tmp_path / "runs", program=(sys.executable, str(tmp_path / "fake.py")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the store's job files."""
    return tmp_path / "runs" / "jobs"


def says(store: JobStore, job: RunJob) -> None:
    """Wait for the command's own first count."""
    until(lambda: (last := store.status(job.id).last) and last.stage)


def test_a_job_runs_to_its_end(store: JobStore, folder: Path) -> None:
    job = store.start("one", ["quick"])
    until(lambda: store.status(job.id).state == "finished")
    assert store.tail(job).splitlines()[-1] == "hello quick"
    assert job.shown == f"stir quick --progress {folder / job.progress}"
    assert (folder / f"{job.id}.json").is_file() and not store.running()


def test_a_restarted_server_finds_and_cancels_it(store: JobStore, again: Callable[[], JobStore], monkeypatch: pytest.MonkeyPatch) -> None:
    job = store.start("one", ["sleep"])
    says(store, job)
    assert os.getpgid(job.pid) == job.pid != os.getpgid(0)  # its own group: the server's end is not its end
    children = dict(jobs.CHILDREN)
    monkeypatch.setattr(jobs, "CHILDREN", {})
    fresh = again()
    (found,) = fresh.running()
    assert (found.job, found.state, found.last and found.last.done) == (job, "running", 1)
    fresh.cancel(job.id)
    until(lambda: fresh.status(job.id).state == "stopped")
    children[job.pid].wait(10)


def test_resume_is_the_same_command(store: JobStore) -> None:
    job = store.start("one", ["sleep"])
    says(store, job)
    store.cancel(job.id).join()
    assert store.status(job.id).state == "stopped"
    resumed = store.resume(job.id)
    assert (resumed.id, resumed.command, resumed.attempts, resumed.cancelled) == (job.id, job.command, 2, None)
    assert store.status(job.id).state == "running"  # the last word of the first attempt is not this one's
    says(store, resumed)
    assert len(store.status(job.id).lines) == 2


def test_who_does_not_listen_is_ended_with_its_group(store: JobStore) -> None:
    job = store.start("one", ["deaf"])
    says(store, job)
    child = int(store.tail(job).split("child ")[1].split()[0])
    store.cancel(job.id, grace=0.2)
    assert store.status(job.id).state == "stopping"
    until(lambda: store.status(job.id).state == "stopped")
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_failures_and_silent_deaths_are_told_apart(store: JobStore) -> None:
    failed = store.start("one", ["fail"])
    until(lambda: store.status(failed.id).state == "failed")
    last = store.status(failed.id).last
    assert last is not None and last.error == "no such thing: take another"
    crashed = store.start("two", ["crash"])
    until(lambda: store.status(crashed.id).state == "lost")
    killed = store.start("three", ["sleep"])
    says(store, killed)
    os.kill(killed.pid, signal.SIGKILL)
    until(lambda: store.status(killed.id).state == "lost")
    with pytest.raises(StoreError, match="nothing to cancel"):
        store.cancel(killed.id)
    assert [each.job.run for each in store.all()[0]] == ["three", "two", "one"]


def test_a_recycled_number_is_not_mistaken(store: JobStore, folder: Path) -> None:
    """Another process with the job's process number is not taken for the job and not ended."""
    job = store.start("one", ["quick"])
    until(lambda: store.status(job.id).state == "finished")
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        created = psutil.Process(stranger.pid).create_time()
        (folder / job.progress).unlink()
        for when, state in ((created - 5, "lost"), (created, "running")):
            (folder / f"{job.id}.json").write_text(job.model_copy(update={"pid": stranger.pid, "created": when}).model_dump_json())
            assert store.status(job.id).state == state
        (folder / f"{job.id}.json").write_text(job.model_copy(update={"pid": stranger.pid, "created": created - 5}).model_dump_json())
        with pytest.raises(StoreError, match="nothing to cancel"):
            store.cancel(job.id)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_one_at_a_time(store: JobStore, again: Callable[[], JobStore]) -> None:
    job = store.start("one", ["sleep"])
    for start in (lambda: store.start("two", ["quick"]), lambda: again().start("two", ["quick"]), lambda: store.resume(job.id)):
        with pytest.raises(StoreError, match="run one is being made already") as refused:
            start()
        assert "\n" not in str(refused.value)
    assert len(store.all()[0]) == 1


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", "-x", ".hidden", "a\n", "a b", "jobs", "ä", "$(id)", "x" * 101, "a\\b", "a\0"]
)
def test_hostile_names(store: JobStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="is not usable"):
        store.start(name, ["quick"])
    assert not (tmp_path / "runs").exists()


def test_a_link_does_not_lead_out(store: JobStore, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="leads out of"):
        store.run_folder("link")
    for id_ in ("../x", "a/../../b", "", "-"):
        with pytest.raises(StoreError):
            store.status(id_)


def test_what_is_no_job_is_named(store: JobStore, folder: Path) -> None:
    job = store.start("one", ["quick"])
    until(lambda: store.status(job.id).state == "finished")
    data = json.loads((folder / f"{job.id}.json").read_text())
    (folder / "forged.json").write_text(json.dumps(data | {"id": "forged", "log": "../../../etc/passwd"}))
    (folder / "torn.json").write_text("{")
    found, broken = store.all()
    assert [each.job.id for each in found] == [job.id]
    assert any("forged.json is not the file of its job" in line for line in broken) and any("torn.json" in line for line in broken)


def test_the_log_names_the_command_and_no_secret(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STIR_RUNS", "/some/where")
    monkeypatch.setenv("STIR_API_KEY", "hunter2")
    monkeypatch.setenv("HF_TOKEN", "hf_hunter2")
    job = store.start("one", ["quick"])
    until(lambda: store.status(job.id).state == "finished")
    log = store.tail(job, 1000)
    assert "stir quick --progress" in log and "STIR_RUNS=/some/where" in log and "hunter2" not in log


def test_the_head_of_the_log_is_two_lines_whatever_it_names(store: JobStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STIR_RUNS", "/some\nwhere\x1b[2J")
    job = store.start("one", ["quick", "\n# forged\x1b[2J"])
    until(lambda: store.status(job.id).state == "finished")
    first, second = (folder / job.log).read_text().split("\n")[:2]
    assert r"\n# forged\x1b[2J" in first and r"STIR_RUNS=/some\nwhere\x1b[2J" in second


def test_a_config_of_its_own_is_kept(store: JobStore) -> None:
    first, second = store.config_file("one", "seed = 1\n"), store.config_file("one", "seed = 2\n")
    assert first != second
    job = store.start("one", ["quick"], toml="seed = 1\n")
    until(lambda: store.status(job.id).state == "finished")
    assert first.read_text() == "seed = 1\n" and not second.exists()
