"""``stir run --progress``: stopped by a real SIGTERM, taken up by the same command, refused in one line."""

import os
import signal

import pytest

from stir_core.cli import main
from stir_core.records import Rollout
from stir_core.stages import rollouts
from stir_core.store.jsonl import read_records
from stir_core.store.progress import read_progress


@pytest.fixture
def argv(tmp_path, tiny_folder):
    (tmp_path / "tiny.toml").write_text(
        f'delimiter = "e"\n[model]\nname = "{tiny_folder}"\n[task]\nn_train = 2\nn_eval = 1\ntemplate = "plain"\n'
        "[rollouts]\nk = 3\nmax_new_tokens = 12\nbatch_rows = 2\n[mining]\nlayers = [1]\n[decode]\nmax_new_tokens = 12\n"
    )
    return ["run", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "run"), "--progress", str(tmp_path / "p.jsonl")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_cleanly_and_the_same_command_goes_on(capsys, tmp_path, argv, monkeypatch, number):
    before = signal.getsignal(number)
    append = rollouts.append_records

    def kill_after_three(path, records):
        append(path, records)
        if path.name == "rollouts.jsonl" and len(read_records(path, Rollout)) == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(rollouts, "append_records", kill_after_three)
    assert main(argv) == 1
    assert signal.getsignal(number) is before
    assert "the same command continues" in capsys.readouterr().err
    last = read_progress(tmp_path / "p.jsonl")[-1]
    assert (last.state, last.stage, last.total) == ("stopped", "rollouts", 6)
    kept = read_records(tmp_path / "run" / "rollouts.part" / "rollouts.jsonl", Rollout)
    assert len(kept) == 3
    monkeypatch.setattr(rollouts, "append_records", append)
    stopped_at = last.at
    assert main(argv) == 0
    lines = read_progress(tmp_path / "p.jsonl", since=stopped_at)[1:]
    assert lines[0].state == "starting" and lines[-1].state == "finished"
    assert next(line for line in lines if line.stage == "rollouts").done == 3  # nothing whole was made again
    assert [line.stage for line in lines if line.done == line.total and line.stage][-1] == "steered"
    made = {(r.problem_id, r.k): r.token_ids for r in read_records(tmp_path / "run" / "rollouts" / "rollouts.jsonl", Rollout)}
    assert len(made) == 6 and all(made[r.problem_id, r.k] == r.token_ids for r in kept)


def test_a_refusal_is_the_last_line(capsys, tmp_path, argv):
    assert main([*argv, "--set", "task.n_trian=3"]) == 2
    last = read_progress(tmp_path / "p.jsonl")[-1]
    assert last.state == "failed" and last.error is not None and "did you mean task.n_train?" in last.error
    assert last.error in capsys.readouterr().err
