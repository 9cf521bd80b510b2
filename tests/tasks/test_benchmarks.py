"""Benchmark rows in every shape in which their files and the hub spell them, and refusals that say what to do."""

import json
import os

import pytest

from stir_core.errors import DataError
from stir_core.tasks import benchmarks, rows
from stir_core.tasks.benchmarks import benchmark_problems
from stir_core.tasks.catalogue import SOURCES, TASKS
from stir_core.tasks.grading import Grader

ARC = {
    "id": "Q1",
    "question": {"stem": "What melts?", "choices": [{"text": "ice ", "label": "1"}, {"text": "air", "label": "2"}]},
    "answerKey": "2",
}
ROWS = {
    "gsm8k/train.jsonl": [{"question": "How much?", "answer": "He has 2*600=<<2*600=1200>>1,200 coins.\nThat is all.\n#### 1,200"}],
    "gsm8k/test.jsonl": [{"question": "How many?", "answer": "2+2=<<2+2=4>>4\n#### 4"}, {"question": "How many?", "answer": "5\n#### 5"}],
    "svamp/all.jsonl": [
        {
            "ID": f"chal-{i}",
            "Body": f"{who} had {i} pens ",
            "Question": "How many?",
            "Equation": f"( {i}.0 + 1.0 )",
            "Answer": i + 1.0,
            "Type": "Addition",
        }
        for i, who in enumerate(["Ann", "Ann", "Ben", "Tom", "Sara", "Lily", "Omar", "Maya", "Noah", "Emma", "Finn", "Jack"])
    ],
    "math/train.jsonl": [
        {"problem": "Find x.", "level": "Level 2", "type": "Algebra", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "idx": 0},
        {
            "problem": "Find all x, separated by commas.",
            "level": "Level 3",
            "type": "Algebra",
            "solution": "$\\boxed{1}$ and $\\boxed{2}$",
            "idx": 1,
        },
        {"problem": "Find y.", "level": "Level 3", "type": "Algebra", "solution": "First $\\boxed{1}$, then $\\boxed{2}$", "idx": 2},
    ],
    "math500/test.jsonl": [
        {
            "problem": f"Find z, {i}.",
            "solution": "$\\boxed{3}$",
            "answer": "3",
            "subject": "Algebra",
            "level": 2,
            "unique_id": f"test/algebra/{24 + i}.json",
        }
        for i in range(103)
    ],
    "aime2024/test.jsonl": [{"id": 60, "problem": "Find n.", "question": "Find n.", "answer": "025", "solution": "so 025", "url": "u"}],
    "aime2025/test.jsonl": [{"problem": "Find the angle.", "answer": "336^\\circ"}],
    "amc23/test.jsonl": [{"id": 0, "problem": "How far?", "question": "How far?", "answer": 27.0, "url": "u"}],
    "arc_challenge/dev.jsonl": [ARC],
    "arc_challenge/test.jsonl": [{**ARC, "id": "Q2"}],
    "openbookqa/train.jsonl": [{"id": "7", "sent1": "The sun", "sent2": "", **{f"ending{i}": f"e{i}" for i in range(4)}, "label": 3}],
    "openbookqa/dev.jsonl": [
        {"id": "8", "question_stem": "The moon", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
    ],
    "openbookqa/test.jsonl": [{"id": "9", "sent1": "The sea", "sent2": "", **{f"ending{i}": f"e{i}" for i in range(4)}, "label": 0}],
    "strategyqa/train.jsonl": [{"qid": "a", "question": "Is it?", "answer": True, "facts": ["It is.", "Surely."]}],
    "strategyqa/dev.jsonl": [{"qid": "b", "question": "Was it?", "answer": False, "facts": "It was not."}],
    "commonsenseqa/dev.jsonl": [
        {"id": "c", "question": "Where?", "choices": {"label": ["A", "B"], "text": ["here", "there"]}, "answerKey": "A"}
    ],
}


def write(root, name, rows):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n\n")


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name, lines in ROWS.items():
        write(tmp_path, name, lines)
    monkeypatch.setenv("STIR_DATA_ROOT", str(tmp_path))
    return tmp_path


def only(name, split):
    (problem,) = benchmark_problems(name, split)
    return problem


def test_every_split_of_every_benchmark_is_read(root):
    for name, splits in SOURCES.items():
        for split in splits:
            problems = benchmark_problems(name, split)
            assert problems and len({problem.id for problem in problems}) == len(problems)
            assert all(
                (p.task, p.split, p.kind) == (name, split, TASKS[name].kind) and p.id.startswith(f"{name}/{split}/") for p in problems
            )


def test_gsm8k(root):
    problem = only("gsm8k", "train")
    assert problem.answer == "1200"
    assert problem.solution == "He has 2*600=1,200 coins.\n\nThat is all.\n\n#### 1200"


def test_a_question_that_occurs_twice_keeps_two_ids(root):
    first, second = benchmark_problems("gsm8k", "test")
    assert second.id == f"{first.id}-2"


def test_svamp_variations_stay_together(root):
    train, held_out = benchmark_problems("svamp", "train"), benchmark_problems("svamp", "eval")
    assert len(train) + len(held_out) == 12
    (split,) = {problem.split for problem in (*train, *held_out) if problem.question.startswith("Ann")}
    assert split in ("train", "eval")
    assert all(problem.answer == str(int(problem.id.rpartition("-")[2]) + 1) for problem in train)
    first = next(problem for problem in (*train, *held_out) if problem.id.endswith("chal-2"))
    assert (first.question, first.level, first.solution) == ("Ben had 2 pens\nHow many?", "Addition", "2 + 1 = 3\n\n#### 3")


def test_mathematics(root):
    half, both, last = benchmark_problems("math", "train")
    assert (half.answer, half.level) == ("\\frac{1}{2}", "Level 2")
    assert both.answer == "1, 2"  # the problem asks for all values
    assert last.answer == "2"
    held_out = benchmark_problems("math500", "test")
    assert (held_out[0].id, held_out[0].level) == ("math500/test/algebra-24", "Level 2")
    assert [p.question for p in benchmark_problems("math", "test")] == [p.question for p in held_out]
    mined, rest = (benchmark_problems("math500_published", split) for split in ("train", "test"))
    assert (len(mined), [p.question for p in (*mined, *rest)]) == (100, [p.question for p in held_out])


def test_contests(root):
    assert [only(name, "test").answer for name in ("aime2024", "aime2025", "amc23")] == ["025", "336^\\circ", "27"]
    with Grader() as grader:
        assert grader.grade("math", only("aime2025", "test").answer, "\\boxed{336}").correct
        assert grader.grade("math", only("aime2024", "test").answer, "\\boxed{25}").correct


def test_choices_in_every_spelling(root):
    arc = only("arc_challenge", "dev")
    assert (arc.question, arc.choices, arc.answer) == ("What melts?", ("ice", "air"), "B")
    assert [only("openbookqa", split).answer for split in ("train", "dev", "test")] == ["D", "B", "A"]
    assert only("openbookqa", "dev").question == "The moon"
    assert (only("commonsenseqa", "dev").answer, only("commonsenseqa", "dev").choices) == ("A", ("here", "there"))


def test_yes_and_no(root):
    assert only("strategyqa", "train").solution == "It is.\n\nSurely.\n\n#### yes"
    assert only("strategyqa", "dev").answer == "no"


def test_hub_rows_of_other_spelling_give_the_same_problem(root):
    hub = {"id": "Q1", "question": "What melts?", "choices": {"text": ["ice", "air"], "label": ["1", "2"]}, "answerKey": "2"}
    assert rows.choice(hub) == rows.choice(ARC)
    assert rows.contest({"id": 3, "question": "How far?", "answer": "27.0", "url": "u"}) == rows.contest(ROWS["amc23/test.jsonl"][0])
    assert rows.contest({"problem": "Find n.", "solution": "\\boxed{25}"}).answer == "25"


def test_rows_come_from_the_hub_where_no_folder_is_named(monkeypatch):
    asked = []

    def load_dataset(*arguments, **named):
        asked.append((arguments, named))
        return ROWS["gsm8k/test.jsonl"]

    monkeypatch.delenv("STIR_DATA_ROOT", raising=False)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    benchmarks.read_benchmark.cache_clear()
    assert [problem.answer for problem in benchmark_problems("gsm8k", "test")] == ["4", "5"]
    assert asked == [(("openai/gsm8k", "main"), {"split": "test"})]
    benchmarks.read_benchmark.cache_clear()


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.delenv("STIR_DATA_ROOT", raising=False)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    benchmarks.read_benchmark.cache_clear()
    with pytest.raises(DataError) as caught:
        benchmark_problems("gsm8k", "test")
    assert str(caught.value) == (
        "data set openai/gsm8k cannot be loaded (ConnectionError: no route to host): "
        "set STIR_DATA_ROOT to a folder with gsm8k/test.jsonl, or take task arithmetic"
    )


def test_a_file_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("STIR_DATA_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere/gsm8k/test.jsonl is not there: set STIR_DATA_ROOT"):
        benchmark_problems("gsm8k", "test")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"question": ', "line 2 is not JSON"),
        ("[1]", "line 2 is not a JSON object"),
        ({"question": "How?"}, "row 2 has no field 'answer'"),
        ({"question": "How?", "answer": "none"}, r"row 2 cannot be read \(answer has no ####\)"),
        ({"question": None, "answer": "#### 4"}, "row 2 cannot be read"),
        ({"question": "  ", "answer": "#### 4"}, "row 2 has an empty question or answer"),
    ],
)
def test_rows_that_cannot_be_read(tmp_path, monkeypatch, line, says):
    write(tmp_path, "gsm8k/test.jsonl", [{"question": "How many?", "answer": "#### 4"}, line])
    monkeypatch.setenv("STIR_DATA_ROOT", str(tmp_path))
    with pytest.raises(DataError, match=says) as caught:
        benchmark_problems("gsm8k", "test")
    assert "\n" not in str(caught.value)


def test_a_file_without_rows(tmp_path, monkeypatch):
    write(tmp_path, "gsm8k/test.jsonl", [])
    monkeypatch.setenv("STIR_DATA_ROOT", str(tmp_path))
    with pytest.raises(DataError, match="holds no problems of split 'test'"):
        benchmark_problems("gsm8k", "test")


REAL = pytest.mark.skipif(not os.environ.get("STIR_DATA_ROOT"), reason="STIR_DATA_ROOT names no folder with the real benchmark files")


@REAL
@pytest.mark.parametrize("name", ["gsm8k", "svamp", "math500", "strategyqa"])
def test_real_worked_solutions_earn_their_own_gold_answer(name):
    with Grader() as grader:
        for split in TASKS[name].splits:
            for problem in benchmark_problems(name, split)[:300]:
                assert problem.solution is not None
                verdict = grader.grade(problem.kind, problem.answer, problem.solution, choices=problem.choices)
                assert verdict.correct, (problem.id, verdict)


@REAL
def test_real_mining_rows_are_not_in_the_held_out_set():
    mined = {rows.fingerprint(problem.question) for problem in benchmark_problems("math", "train")}
    assert not mined & {rows.fingerprint(problem.question) for problem in benchmark_problems("math500", "test")}
