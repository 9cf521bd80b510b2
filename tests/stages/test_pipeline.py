"""The stages end to end on a tiny random model: made, resumed, checked, refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stir_core.config import STAGES, RunConfig, config_from, with_changes
from stir_core.errors import ConfigError, MismatchError, StoreError
from stir_core.harvest import pairs as pairing
from stir_core.harvest import states as reading
from stir_core.intervene.session import open_session
from stir_core.records import Continuation, StateRow, TraceEvent, Verdict
from stir_core.stages import actions, rollouts, steered
from stir_core.stages.pipeline import begin_from, run_stages
from stir_core.store.jsonl import read_records, write_records
from stir_core.store.runs import EMBEDDED_RUNS, Run, list_runs
from stir_core.store.tensors import read_tensors
from stir_core.tasks import Grader

CONFIG = {
    "delimiter": "e",
    "task": {"n_train": 4, "n_eval": 2, "template": "plain"},
    "rollouts": {"k": 4, "max_new_tokens": 24, "temperature": 1.0},
    "mining": {"control_points": 4, "layers": [1, 2], "top_pairs": 7},
    "basis": {"budget": 10, "min_per_control_point": 1},
    "decode": {"max_new_tokens": 24, "batch_problems": 2},
}


@pytest.fixture(autouse=True)
def coin(monkeypatch):
    """A random model is never right: half of its rollouts are declared so, by the parity of their length."""

    class Coin(Grader):
        def grade(self, kind, gold, answer_text, *, choices=()):
            right = len(answer_text) % 2 == 0
            return Verdict(correct=right, extracted="1", gold=gold, method="coin", reason="coin", finished=True)

    for stage in (rollouts, actions, steered):
        monkeypatch.setattr(stage, "Grader", Coin)


@pytest.fixture(scope="module")
def config(tiny_folder) -> RunConfig:
    return config_from({**CONFIG, "model": {"name": tiny_folder}})


@pytest.fixture
def run(config, tmp_path, tiny_loaded) -> Run:
    return run_stages(config, tmp_path / "run", model=tiny_loaded)


@pytest.fixture(scope="module")
def tiny_loaded(tiny_folder):
    from stir_core.models.loading import load_model

    return load_model(tiny_folder)


def test_every_stage_finishes_and_fits_the_others(run):
    assert run.stages() == tuple(STAGES)
    sampled = run.rollouts()
    assert len(sampled) == 16 and [(r.problem_id, r.k) for r in sampled][:4] == [(run.problems()[0].id, k) for k in range(4)]
    entries, library = run.entries(), run.library()
    assert entries and len(library.entries) == len(run.picks()) <= 10
    assert all(entry.m < 4 for entry in library.entries)
    keys, actions = run.key_rows(), run.action_rows()
    by_pair: dict[int, dict] = {}
    for entry in entries:
        by_pair.setdefault(entry.pair, {})[entry.kind] = entry
    for pair in by_pair.values():
        difference = keys[pair["null"].key_row] - keys[pair["corrective"].key_row]
        assert difference == pytest.approx(actions[pair["corrective"].action_row], abs=1e-5)
    assert set(run.map_coordinates()) >= {"pca"}
    assert len(run.traces("vanilla")) == len(run.traces("steered")) == 2
    for stage in STAGES:
        run.check_files(stage)


def same_results(ours, theirs):
    """Equal tokens, verdicts, entries and picks; measured numbers may differ in the last bits of a float32 product of other shape."""
    loose = {"mean_logprob", "key_norm", "action_norm", "gain"}
    for read in (Run.rollouts, Run.entries, Run.picks):
        ours_rows, theirs_rows = ([row.model_dump() for row in read(run)] for run in (ours, theirs))
        assert [{k: v for k, v in row.items() if k not in loose} for row in ours_rows] == [
            {k: v for k, v in row.items() if k not in loose} for row in theirs_rows
        ]
        for key in loose & set(ours_rows[0]):
            assert [row[key] for row in ours_rows] == [pytest.approx(row[key], abs=1e-4) for row in theirs_rows]


def test_results_do_not_depend_on_the_batch_and_digests_repeat(config, run, tmp_path, tiny_loaded):
    other = config.model_copy(update={"rollouts": config.rollouts.model_copy(update={"batch_rows": 3})})
    again = run_stages(other, tmp_path / "again", model=tiny_loaded)
    same_results(again, run)
    twice = run_stages(config, tmp_path / "twice", model=tiny_loaded)
    assert [twice.digest(stage) for stage in STAGES] == [run.digest(stage) for stage in STAGES]


def test_an_interrupted_stage_goes_on_and_ends_the_same(config, run, tmp_path, tiny_loaded):
    seen = []

    def stop_after_seven(progress):
        seen.append(progress)
        if progress.stage == "rollouts" and progress.done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stages(config, tmp_path / "torn", report=stop_after_seven, model=tiny_loaded)
    torn = Run.open(tmp_path / "torn")
    assert {row.stage: row.state for row in torn.status()}["rollouts"] == "unfinished"
    file = torn.part("rollouts") / "rollouts.jsonl"
    file.write_bytes(file.read_bytes()[:-9])  # and the last line was torn too
    done = []
    whole = run_stages(config, tmp_path / "torn", report=done.append, model=tiny_loaded)
    assert next(p for p in done if p.stage == "rollouts").done == 6
    same_results(whole, run)


def test_a_run_goes_on_where_its_model_has_moved(config, tmp_path, tiny_loaded):
    def at(place, **identity):
        named = replace(tiny_loaded, identity=tiny_loaded.identity.model_copy(update={"name": place, **identity}))
        return config.model_copy(update={"model": config.model.model_copy(update={"name": place})}), named

    (here, model), (there, same), (another, _) = at("models/tiny.gguf"), at("/elsewhere/tiny.gguf"), at("/elsewhere/small.gguf")
    begun = run_stages(here, tmp_path / "run", until="states", model=model)
    before = begun.digest("rollouts")
    moved = run_stages(there, tmp_path / "run", until="basis", model=same)
    assert moved.digest("rollouts") == before and moved.finished("basis")
    run_stages(here, tmp_path / "run", until="basis", model=model)  # and back: all is there
    assert run_stages(there, tmp_path / "based", until="actions", model=same, base=begun).digest("rollouts") == before
    with pytest.raises(StoreError, match=r'stage "rollouts" of .* was made with other settings'):
        run_stages(another, tmp_path / "run", until="basis", model=model)
    with pytest.raises(MismatchError, match="weights"):
        run_stages(there, tmp_path / "run", redo="basis", model=at(there.model.name, weights_sha256="0" * 64)[1])


def test_finished_stages_are_kept_and_stale_ones_refused(config, run, tiny_loaded):
    before = run.digest("rollouts")
    changed = config.model_copy(update={"basis": config.basis.model_copy(update={"budget": 6})})
    with pytest.raises(StoreError, match=r'stage "basis" of .* was made with other settings: add --redo basis'):
        run_stages(changed, run.path, model=tiny_loaded)
    assert Run.open(run.path).config == config, "a refusal must leave the run as it was"
    again = run_stages(changed, run.path, redo="basis", model=tiny_loaded)
    assert again.digest("rollouts") == before and len(again.picks()) == 6 and again.stages() == tuple(STAGES)


def test_a_run_of_another_model_is_refused(run, tiny):
    with pytest.raises(MismatchError, match=r"was made with .*weights_sha256 .* not with tiny/llama"):
        open_session(run, tiny)


def test_damage_is_found(run):
    file = run.folder("actions") / "actions.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(StoreError, match="is not the file that was written"):
        run.check_files("actions")
    with pytest.raises(StoreError, match="is not the file that was written"):
        run.key_rows()
    (run.folder("basis") / "manifest.json").write_text("{}")
    with pytest.raises(StoreError, match="is not a Manifest"):
        run.manifest("basis")


def test_a_session_compares_vanilla_and_steered(run, tiny_loaded):
    session = open_session(run, tiny_loaded)
    problem = run.problems("steered")[0]
    events = list(session.compare(problem))
    traces = {event.row: event.trace for event in events if isinstance(event, TraceEvent)}
    recorded = {kind: next(t for t in run.traces(kind) if t.id == problem.id) for kind in ("vanilla", "steered")}
    assert traces[0].token_ids == recorded["vanilla"].token_ids
    assert traces[1].token_ids == recorded["steered"].token_ids
    assert [s.decision.chosen for s in traces[1].steps] == [s.decision.chosen for s in recorded["steered"].steps]
    assert all(trace.verdict is not None for trace in traces.values())


def test_no_mixed_problem_gives_an_empty_library_that_says_so(config, tmp_path, monkeypatch, tiny_loaded):
    class Wrong(Grader):
        def grade(self, kind, gold, answer_text, *, choices=()):
            return Verdict(correct=False, extracted=None, gold=gold, method="none", reason="never", finished=False)

    for stage in (rollouts, actions, steered):
        monkeypatch.setattr(stage, "Grader", Wrong)
    run = run_stages(config, tmp_path / "empty", model=tiny_loaded)
    assert run.stages() == tuple(STAGES) and run.entries() == [] and run.library().keys.shape == (0, 32)
    assert "nothing to steer with" in run.manifest("actions").notes[0]
    assert [t.token_ids for t in run.traces("vanilla")] == [t.token_ids for t in run.traces("steered")]


def test_runs_are_listed_and_unreadable_ones_left_out(run, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text('{"config": {"sead": 1}}')
    runs, unreadable = list_runs(tmp_path)
    assert [found.path for found in runs] == [*EMBEDDED_RUNS.values(), run.path]
    assert list(unreadable) == [tmp_path / "broken", tmp_path / "old"]
    assert "is not a run description" in unreadable[tmp_path / "broken"] and "did you mean seed?" in unreadable[tmp_path / "old"]
    with pytest.raises(StoreError, match="is not a run description"):
        Run.open(tmp_path / "broken")
    with pytest.raises(StoreError, match="no run at"):
        Run.open(tmp_path / "none")


def test_the_environment_is_told_but_not_digested(run):
    facts = json.loads((run.path / "run.json").read_text())
    assert facts["versions"]["torch"] and "device" in facts
    lines = (run.path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in lines] == list(STAGES)
    shutil.copytree(run.path, run.path.with_name("copy"))
    assert Run.open(run.path.with_name("copy")).digest("actions") == run.digest("actions")


def test_states_are_captured_while_sampling_and_read_again_only_when_they_have_to_be(run, tmp_path, tiny_loaded):
    counts = run.manifest("states").counts
    assert counts["answers"] > 0 == counts["read_again"]
    shutil.copytree(run.path, tmp_path / "copy")
    again = run_stages(run.config, tmp_path / "copy", redo="states", until="states", model=tiny_loaded)
    assert again.manifest("states").counts == counts | {"read_again": counts["answers"]}
    by_place = {}
    for where in (run, again):
        rows = read_records(where.folder("states") / "rows.jsonl", StateRow)
        tensors = read_tensors(where.folder("states") / "states.safetensors")
        by_place[where.path] = {(r.problem_id, r.source, r.k, r.m, r.position): {n: t[r.row] for n, t in tensors.items()} for r in rows}
    ours, theirs = by_place.values()
    assert ours.keys() == theirs.keys()
    for place, states in ours.items():
        for name, state in states.items():
            assert state == pytest.approx(theirs[place][name], abs=1e-3)
    assert not list(run.folder("states").glob("captured*"))


def test_rows_of_states_stand_in_one_order_whatever_was_captured(run, tmp_path, tiny_loaded):
    """Rollouts that are missing from the index, as after a kill between two shards, are read again."""
    other = run_stages(run.config, tmp_path / "other", until="rollouts", model=tiny_loaded)
    (index,) = other.path.rglob("captured-rows.jsonl")
    rows = read_records(index, StateRow)
    write_records(index, [row for row in rows if row.problem_id == rows[0].problem_id])
    run_stages(run.config, other.path, until="states", model=tiny_loaded)
    counts = other.manifest("states").counts
    assert 0 < counts["read_again"] < counts["answers"]
    where = [each.folder("states") / "rows.jsonl" for each in (run, other)]
    assert read_records(where[0], StateRow) == read_records(where[1], StateRow)


def test_pairs_are_planned_once_and_planned_again_only_for_a_run_that_did_not_keep_them(run, config, tmp_path, tiny_loaded, monkeypatch):
    pairs = run.pairs()
    assert [(p.problem_id, p.m, p.positives, p.negatives) for p in pairs] == [
        (e.problem_id, e.m, e.positives, e.negatives) for e in run.entries() if e.kind == "corrective" and e.layer == 1
    ]
    planned, parsed = [], []
    plan, parse = pairing.plan_pairs, Run.rollouts
    monkeypatch.setattr(pairing, "plan_pairs", lambda *args, **more: planned.append(1) or plan(*args, **more))
    monkeypatch.setattr(Run, "rollouts", lambda run: parsed.append(1) or parse(run))
    for name, redo, expected in (("states", "states", (1, 2)), ("actions", "actions", (0, 1)), ("old", "actions", (1, 1))):
        shutil.copytree(run.path, tmp_path / name)
        if name == "old":
            folder = tmp_path / name / "states"
            (folder / "pairs.jsonl").unlink()
            manifest = json.loads((folder / "manifest.json").read_text())
            del manifest["files"]["pairs.jsonl"]
            (folder / "manifest.json").write_text(json.dumps(manifest))
            for later in ("actions", "basis", "steered"):
                shutil.rmtree(tmp_path / name / later)
            assert Run.open(tmp_path / name).pairs() is None
        again = run_stages(run.config, tmp_path / name, redo=redo, until="actions", model=tiny_loaded)
        assert (len(planned), len(parsed)) == expected, name
        assert again.pairs() == (None if name == "old" else pairs)
        if redo == "actions":  # states that are read again may differ in the last bits
            assert again.entries() == run.entries() and again.digest("actions") == run.digest("actions")
        planned.clear()
        parsed.clear()


def test_a_file_of_the_user_in_a_stage_is_not_deleted_by_redo(run, tmp_path, tiny_loaded):
    other = Path(shutil.copytree(run.path, tmp_path / "other"))
    (other / "basis" / "notes.txt").write_text("years")
    with pytest.raises(StoreError, match=r"basis/notes.txt was not written by the stage: move it away"):
        run_stages(run.config, other, redo="actions", until="actions", model=tiny_loaded)
    assert (other / "basis" / "notes.txt").read_text() == "years" and Run.open(other).digest("actions") == run.digest("actions")


@pytest.mark.parametrize("where", ["basis.part", "basis"])
def test_nor_is_one_in_an_unfinished_or_damaged_stage(run, tmp_path, tiny_loaded, where):
    other = Path(shutil.copytree(run.path, tmp_path / "other"))
    if where == "basis":
        (other / "basis" / "manifest.json").write_text("{")
    else:
        (other / "basis").rename(other / "basis.part")
        (other / "basis.part" / "manifest.json").unlink()
        (other / "basis.part" / "marker").write_text("of other settings\n")
    (other / where / "notes.txt").write_text("years")
    redo = "basis" if where == "basis" else None
    with pytest.raises(StoreError, match=r"notes.txt was not written by the stage: move it away"):
        run_stages(run.config, other, redo=redo, until="basis", model=tiny_loaded)
    assert (other / where / "notes.txt").read_text() == "years"
    (other / where / "notes.txt").unlink()
    assert run_stages(run.config, other, redo=redo, until="basis", model=tiny_loaded).finished("basis")


def test_every_action_has_its_controls(run, config, tmp_path, tiny_loaded):
    controls, actions = run.controls(), run.action_rows()
    corrective = [entry for entry in run.entries() if entry.kind == "corrective"]
    assert list(controls) == [entry.id for entry in corrective]
    for name, field in (("length_matched", "length_matched_cosine"), ("shuffled", "shuffled_cosine")):
        rows = run.control_rows(name)
        assert rows.shape == actions.shape
        for entry in corrective:
            assert entry.action_row is not None
            row, action = rows[entry.action_row], actions[entry.action_row]
            expected = row @ action / np.linalg.norm(row) / np.linalg.norm(action)
            assert getattr(controls[entry.id], field) == pytest.approx(float(expected), abs=1e-5)
    assert all(c.permutation_p is not None and c.length_gap is not None and c.stability_pos is None for c in controls.values())
    rows = read_records(run.folder("states") / "rows.jsonl", StateRow)
    reached = {
        (r.problem_id, r.k, e.m) for e in run.entries() for r in run.rollouts() if r.problem_id == e.problem_id and len(r.boundaries) >= e.m
    }
    assert reached <= {(row.problem_id, row.k, row.m) for row in rows}
    compat = run_stages(config.model_copy(update={"compat": True}), tmp_path / "compat", until="actions", model=tiny_loaded)
    used = {(e.problem_id, k, e.m) for e in compat.entries() for k in (*e.positives, *e.negatives)}
    assert {(row.problem_id, row.k, row.m) for row in read_records(compat.folder("states") / "rows.jsonl", StateRow)} == used
    assert any(c.permutation_p is None for c in compat.controls().values())
    assert all(c.length_gap is not None for c in compat.controls().values())


def test_stability_goes_on_where_it_stopped(config, run, tmp_path, tiny_loaded):
    rolling = config.model_copy(update={"mining": config.mining.model_copy(update={"stability_rolls": 2})})
    shutil.copytree(run.path, tmp_path / "whole")
    with pytest.raises(StoreError, match=r'stage "actions" of .* was made with other settings'):
        run_stages(rolling, tmp_path / "whole", until="actions", model=tiny_loaded)
    whole = run_stages(rolling, tmp_path / "whole", redo="actions", until="actions", model=tiny_loaded)
    rolled = read_records(whole.folder("actions") / "continuations.jsonl", Continuation)
    places = {(e.problem_id, k, e.m) for e in whole.entries() for k in (*e.positives, *e.negatives)}
    assert [(each.problem_id, each.k, each.m) for each in rolled[::2]] == [(each.problem_id, each.k, each.m) for each in rolled[1::2]]
    assert {(each.problem_id, each.k, each.m) for each in rolled} == places and len(rolled) == 2 * len(places)
    assert all(c.stability_pos is not None and c.stability_neg is not None for c in whole.controls().values())

    def stop_after_five(progress):
        if progress.unit == "continuations" and progress.done == 5:
            raise KeyboardInterrupt

    shutil.copytree(run.path, tmp_path / "torn")
    with pytest.raises(KeyboardInterrupt):
        run_stages(rolling, tmp_path / "torn", redo="actions", until="actions", report=stop_after_five, model=tiny_loaded)
    file = Run.open(tmp_path / "torn").part("actions") / "continuations.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    seen = []
    again = run_stages(rolling, tmp_path / "torn", until="actions", report=seen.append, model=tiny_loaded)
    assert seen[0].done == 4 and again.digest("actions") == whole.digest("actions")


def test_a_run_begins_from_anothers_rollouts_and_states(run, config, tmp_path, tiny_loaded, monkeypatch):
    """One layer of two: the same actions as a run of its own would mine, with no token run through the model."""
    one = config_from({**CONFIG, "model": config.model.model_dump(), "mining": {**CONFIG["mining"], "layers": [2], "top_pairs": 4}})
    alone = run_stages(one, tmp_path / "alone", until="actions", model=tiny_loaded)
    read = []
    monkeypatch.setattr(reading, "capture_states", lambda model, readings, layers: iter(read.extend(readings) or []))
    begin_from(run, one, tmp_path / "begun", tiny_loaded)
    begun = run_stages(one, tmp_path / "begun", until="actions", model=tiny_loaded)
    assert read == [], "every state is the other run's"
    assert begun.entries() == alone.entries()
    assert np.allclose(begun.action_rows(), alone.action_rows(), atol=1e-4)
    assert begun.digest("rollouts") == run.digest("rollouts")
    other = config_from({**CONFIG, "model": config.model.model_dump(), "rollouts": {**CONFIG["rollouts"], "temperature": 0.5}})
    with pytest.raises(StoreError, match="sampled with other settings"):
        begin_from(run, other, tmp_path / "refused", tiny_loaded)


def test_a_stage_killed_before_it_had_its_name_is_whole(run, config, tmp_path, tiny_loaded, monkeypatch):
    def killed(run, stage):
        if stage == "states":
            raise KeyboardInterrupt

    give = Run.give_name
    monkeypatch.setattr(Run, "give_name", lambda run, stage: killed(run, stage) or give(run, stage))
    with pytest.raises(KeyboardInterrupt):
        run_stages(config, tmp_path / "torn", model=tiny_loaded)
    monkeypatch.undo()
    torn = Run.open(tmp_path / "torn")
    assert list(torn.part("states").glob("captured*")) and not torn.finished("states")
    made = []
    run_stages(config, tmp_path / "torn", until="states", model=tiny_loaded, report=made.append)
    assert made == [] and torn.digest("states") == run.digest("states")
    assert not list(torn.folder("states").glob("captured*"))


def test_a_search_without_its_package_is_refused_before_the_harvest(config, tmp_path, tiny_loaded, monkeypatch):
    monkeypatch.setattr("stir_core.intervene.nearest.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package usearch"):
        run_stages(with_changes(config, gate={"search": "approximate"}), tmp_path / "run", model=tiny_loaded)
    assert not (tmp_path / "run").exists()


def test_what_no_stage_wrote_is_never_touched(config, tmp_path, tiny_loaded):
    for name in ("basis", "states.part"):
        own = tmp_path / name / name / "thesis.txt"
        own.parent.mkdir(parents=True)
        own.write_text("years")
        with pytest.raises(StoreError, match="was not written by a stage: move it away, or choose another --out"):
            run_stages(config, tmp_path / name, model=tiny_loaded)
        assert own.read_text() == "years"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text('{"speed": 12}')
    with pytest.raises(StoreError, match="is not a run's: choose another --out, nothing there is overwritten"):
        run_stages(config, tmp_path / "mine", model=tiny_loaded)
