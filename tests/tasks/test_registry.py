"""Tasks by name, roles that never share a problem, and an order that a larger n extends."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stir_core.errors import DataError
from stir_core.records import Problem
from stir_core.tasks.catalogue import TASKS, TaskSpec, register_task
from stir_core.tasks.prompts import TEMPLATE_OF, TEMPLATES
from stir_core.tasks.registry import ROLES, load_problems, task_names, task_spec
from stir_core.tasks.rows import fingerprint


def gsm8k_rows(n, start=0):
    return [{"question": f"How much is item {i}?", "answer": f"It is {i}.\n#### {i}"} for i in range(start, start + n)]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))


@pytest.fixture
def gsm8k(tmp_path, monkeypatch):
    """A small GSM8K whose training rows repeat two questions of the test rows."""
    write(
        tmp_path / "gsm8k/train.jsonl",
        [*gsm8k_rows(100), {"question": "how much is ITEM 203", "answer": "#### 203"}, *gsm8k_rows(1, start=201)],
    )
    write(tmp_path / "gsm8k/test.jsonl", gsm8k_rows(20, start=200))
    monkeypatch.setenv("STIR_DATA_ROOT", str(tmp_path))


def test_specs_are_consistent():
    for name in task_names():
        spec = task_spec(name)
        assert spec.name == name and spec.eval_split in spec.splits and spec.description and spec.licence
        assert TEMPLATE_OF[spec.kind] in TEMPLATES
        if spec.mine_split is None:
            assert task_spec(spec.mine_instead).mine_split is not None
        else:
            assert spec.mine_split in spec.splits and spec.mine_split != spec.eval_split


def test_unknown_names_are_answered_with_the_right_word():
    with pytest.raises(DataError, match=r"unknown task 'gsm8': did you mean gsm8k\?"):
        task_spec("gsm8")
    with pytest.raises(DataError, match="unknown task 'zzz': known tasks: arithmetic, chain, gsm8k"):
        task_spec("zzz")
    with pytest.raises(DataError, match=r"task arithmetic has no split 'test': take one of mine, validation, eval, train"):
        load_problems("arithmetic", "test")
    with pytest.raises(DataError, match=r"task arithmetic has no level 'sum4': take one of sum_tiny"):
        load_problems("arithmetic", "mine", levels=("sum4",))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 60), st.integers(0, 60), st.sampled_from(ROLES))
def test_a_larger_n_begins_with_a_smaller_one(seed, one, other, role):
    fewer, more = sorted((one, other))
    assert load_problems("arithmetic", role, n=fewer, seed=seed) == load_problems("arithmetic", role, n=more, seed=seed)[:fewer]


def test_the_seed_changes_the_order_and_nothing_else():
    one, other = load_problems("arithmetic", "eval", seed=1), load_problems("arithmetic", "eval", seed=2)
    assert one != other
    assert sorted(one, key=lambda p: p.id) == sorted(other, key=lambda p: p.id)


def test_levels_take_turns():
    counts = Counter(problem.level for problem in load_problems("arithmetic", "mine", n=60, seed=3))
    assert set(counts.values()) == {10}


def test_levels_are_drawn_from():
    problems = load_problems("arithmetic", "mine", n=40, levels=("sum_small", "one_step"))
    assert {problem.level for problem in problems} == {"sum_small", "one_step"}


def test_asking_for_more_than_there_is():
    with pytest.raises(DataError, match=r"has \d+ eval problems at levels sum_small, 5000 were asked for: ask for at most \d+"):
        load_problems("arithmetic", "eval", n=5000, levels=("sum_small",))
    with pytest.raises(DataError, match="-1 were asked for"):
        load_problems("arithmetic", "eval", n=-1)


def test_roles_share_no_question(gsm8k):
    held_out, mined, validation = (
        {fingerprint(p.question) for p in load_problems("gsm8k", role)} for role in ("eval", "mine", "validation")
    )
    assert not mined & held_out and not mined & validation and not validation & held_out
    assert len(load_problems("gsm8k", "train")) == 102  # the split itself is untouched
    assert len(mined) + len(validation) == 100  # the two copies are left out
    assert 2 <= len(validation) <= 25


def test_the_validation_tenth_is_the_same_for_every_seed(gsm8k):
    assert {p.id for p in load_problems("gsm8k", "validation", seed=1)} == {p.id for p in load_problems("gsm8k", "validation", seed=2)}


def test_an_own_validation_split_is_kept_out_of_the_mining(tmp_path, monkeypatch):
    def row(key, stem):
        return {"id": key, "sent1": stem, "sent2": "", **{f"ending{i}": f"e{i}" for i in range(4)}, "label": 3}

    write(tmp_path / "openbookqa/train.jsonl", [row("1", "The sun"), row("2", "The moon is"), row("3", "Snow"), row("4", "The sea")])
    write(tmp_path / "openbookqa/dev.jsonl", [row("5", "the moon is"), row("6", "The sea"), row("7", "Fog")])
    write(tmp_path / "openbookqa/test.jsonl", [row("8", "The sea!")])
    monkeypatch.setenv("STIR_DATA_ROOT", str(tmp_path))
    assert {problem.question for problem in load_problems("openbookqa", "mine")} == {"The sun", "Snow"}
    assert {problem.question for problem in load_problems("openbookqa", "validation")} == {"the moon is", "Fog"}


@pytest.mark.parametrize("name", ["math500", "aime2024", "aime2025", "amc23", "commonsenseqa"])
def test_tasks_with_one_split_are_not_mined(name):
    with pytest.raises(DataError, match=rf"task {name} is for evaluation only .*: mine on {task_spec(name).mine_instead}, and evaluate"):
        load_problems(name, "mine")


def test_a_registered_task_has_its_roles_and_a_wrong_one_is_refused(monkeypatch):
    tasks = dict(TASKS)
    monkeypatch.setattr("stir_core.tasks.registry.TASKS", tasks)
    monkeypatch.setattr("stir_core.tasks.catalogue.TASKS", tasks)

    def doubles(split):
        own = range(30) if split == "train" else range(25, 40)  # five questions are in both
        return tuple(
            Problem(id=f"{split}/{i}", task="doubles", split=split, question=f"{i} + {i}", answer=str(2 * i), kind="number") for i in own
        )

    facts = ("number", "d", "generated", "mine", ("train", "eval"), "train", None)
    register_task(TaskSpec("doubles", *facts, "eval", problems=doubles))
    roles = {role: {problem.question for problem in load_problems("doubles", role)} for role in ROLES}
    assert len(roles["mine"] | roles["validation"]) == 25 and len(roles["eval"]) == 15
    assert not roles["mine"] & roles["validation"] and not roles["mine"] & roles["eval"]
    with pytest.raises(DataError, match="gsm8k is one of the built-in tasks"):
        register_task(TaskSpec("gsm8k", *facts, "eval", problems=doubles))
    with pytest.raises(DataError, match="no split 'test': its splits are train, eval"):
        register_task(TaskSpec("more", *facts, "test", problems=doubles))
    with pytest.raises(DataError, match="more has no problems"):
        register_task(TaskSpec("more", *facts, "eval"))
    assert "more" not in tasks and tasks["gsm8k"] is TASKS["gsm8k"]
