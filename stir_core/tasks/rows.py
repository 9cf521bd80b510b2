"""Row mappers: one row of a benchmark, as it is in its file or on the hub, -> the fields of a problem.

A mapper raises ``KeyError``, ``TypeError`` or ``ValueError`` for a row that it cannot read; the loader turns that into an error that
names the file and the line. Gold answers are in the form that grading expects.
"""

import hashlib
import re
from typing import Any, NamedTuple

from stir_core.tasks.extract import boxes


class BenchmarkRow(NamedTuple):
    """A benchmark row as fields of a problem."""

    key: str | None
    """The data set's own id; ``None`` where its copies do not share one."""
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    solution: str | None = None
    level: str | None = None


def gsm8k(row: dict[str, Any]) -> BenchmarkRow:
    """GSM8K: the gold number follows ``####``; calculator marks are removed, and every line of the solution is a step.

    Lines are joined by blank lines, the default delimiter: with single line breaks the worked solutions would have no control points.
    """
    work, mark, answer = row["answer"].rpartition("####")
    if not mark:
        raise ValueError("answer has no ####")
    answer = answer.strip().replace(",", "")
    lines = [line.strip() for line in re.sub(r"<<[^<>]*>>", "", work).splitlines()]
    return BenchmarkRow(None, row["question"].strip(), answer, solution="\n\n".join([*filter(None, lines), f"#### {answer}"]))


def svamp(row: dict[str, Any]) -> BenchmarkRow:
    """SVAMP: body and question on two lines, as in the published experiments; floats without a fractional part become integers."""
    question = f"{row['Body'].strip()}\n{row['Question'].strip()}"
    equation = row.get("Equation")
    answer = gold_number(row["Answer"])
    solution = f"{equation.strip().strip('()').strip()} = {answer}\n\n#### {answer}".replace(".0", "") if equation else None
    return BenchmarkRow(row.get("ID"), question, answer, solution=solution, level=row.get("Type"))


def svamp_is_eval(row: BenchmarkRow) -> bool:
    """Whether a SVAMP problem is held out (three in ten): by a hash of its story without the numbers.

    SVAMP consists of variations of few stories. Variations with the same body are in the same split.
    """
    story = re.sub(r"[^a-z]+", " ", row.question.partition("\n")[0].lower())
    return hashed(story) % 10 < 3


def math(row: dict[str, Any]) -> BenchmarkRow:
    """MATH: the gold answer is its own field, or the last box of the solution."""
    answer = row.get("answer")
    if answer is None:
        boxed = boxes(row["solution"])
        if not boxed:
            raise ValueError("solution has no \\boxed answer")
        # several boxes are several values only where the problem asks for a list; elsewhere the last one is the answer
        answer = ", ".join(dict.fromkeys(boxed)) if "separated by comma" in row["problem"] else boxed[-1]
    level = f"Level {str(row['level']).removeprefix('Level').strip()}"
    return BenchmarkRow(None, row["problem"].strip(), str(answer).strip(), solution=row["solution"], level=level)


def math500(row: dict[str, Any]) -> BenchmarkRow:
    """MATH-500: as MATH, with ids such as ``test/algebra/24.json`` that all copies share."""
    return math(row)._replace(key=row["unique_id"].removeprefix("test/").removesuffix(".json").replace("/", "-"))


def contest(row: dict[str, Any]) -> BenchmarkRow:
    """AIME and AMC: floats without a fractional part become integers, LaTeX answers stay as they are."""
    question = row.get("problem") or row["question"]
    answer = row["answer"] if row.get("answer") is not None else boxes(row["solution"])[-1]
    solution = row.get("solution")
    return BenchmarkRow(None, question.strip(), gold_number(answer), solution=solution if solution and "answer" in row else None)


def choice(row: dict[str, Any]) -> BenchmarkRow:
    """ARC, OpenBookQA and CommonsenseQA, in AI2's format, the hub's, or with ``ending0..3``; labels 1-4 become letters."""
    if "ending0" in row:
        texts = [row[f"ending{i}"] for i in range(4)]
        stem = f"{row['sent1']} {row['sent2']}".strip()
        return BenchmarkRow(str(row["id"]), stem, letter(int(row["label"]), len(texts)), tuple(texts))
    question = row["question_stem"] if "question_stem" in row else row["question"]
    if not isinstance(question, dict):  # the hub's rows are flat, AI2's files nest stem and choices
        question = {"stem": question, "choices": row["choices"]}
    options = question["choices"]
    if isinstance(options, list):
        options = {key: [option[key] for option in options] for key in ("label", "text")}
    texts = tuple(text.strip() for text in options["text"])
    gold = list(options["label"]).index(row["answerKey"])
    return BenchmarkRow(str(row["id"]), question["stem"].strip(), letter(gold, len(texts)), texts)


def strategyqa(row: dict[str, Any]) -> BenchmarkRow:
    """StrategyQA: booleans become yes / no; the facts, one per step, are the worked solution."""
    if not isinstance(row["answer"], bool):
        raise ValueError(f"answer {row['answer']!r} is not true or false")
    answer = "yes" if row["answer"] else "no"
    facts = row.get("facts") or []
    facts = [facts] if isinstance(facts, str) else facts
    solution = "\n\n".join([*facts, f"#### {answer}"]) if facts else None
    return BenchmarkRow(row["qid"], row["question"].strip(), answer, solution=solution)


def gold_number(value: Any) -> str:
    """A gold number as text: 27.0 -> "27", "1,080" -> "1080"; anything else unchanged."""
    text = str(value).strip()
    return re.sub(r"\.0+$", "", text.replace(",", "")) if re.fullmatch(r"-?[\d,]+(\.\d+)?", text) else text


def letter(index: int, n: int) -> str:
    """0 -> "A", 1 -> "B", ..."""
    if not 0 <= index < n:
        raise ValueError(f"gold option {index} is not among the {n} options")
    return chr(ord("A") + index)


def fingerprint(question: str) -> str:
    """A question's words without case and punctuation: equal for copies of a question."""
    return " ".join(re.findall(r"\w+", question.lower()))


def hashed(text: str) -> int:
    """A hash of a text that is the same on every machine: 64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
