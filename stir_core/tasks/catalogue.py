"""The tasks, their splits, and where their rows come from. Data only; nothing is read here."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from stir_core.errors import DataError
from stir_core.records import AnswerKind, Problem
from stir_core.tasks import rows
from stir_core.tasks.arithmetic import LEVELS, SPLITS, arithmetic_problems
from stir_core.tasks.chain import KINDS, chain_problems

_MATH_LEVELS = tuple(f"Level {i}" for i in range(1, 6))


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task: its kind of answers, its splits and its source."""

    name: str
    kind: AnswerKind
    description: str
    source: str
    """Hub data set, or ``"generated"``."""
    licence: str
    splits: tuple[str, ...]
    """Splits that the data set has."""
    mine_split: str | None
    """Split that rollouts are sampled on; ``None``: the task is for evaluation only, see ``mine_instead``."""
    validation_split: str | None
    """Split for choosing settings; ``None``: a tenth of the mine split is set apart, by a hash of the question."""
    eval_split: str
    """Held-out split; never mined."""
    mine_instead: str = ""
    """For a task that cannot be mined: the task to mine on."""
    levels: tuple[str, ...] = ()
    """Difficulty levels or question types that problems can be chosen by."""
    problems: Callable[[str], tuple[Problem, ...]] | None = None
    """Makes the problems of a split; ``None``: they are read as :data:`SOURCES` says."""
    disjoint: bool = False
    """Whether no split repeats a problem of another, by construction. Such a task takes its levels in turn."""
    template: str | None = None
    """Prompt template of the task; ``None``: that of its kind of answers."""

    def check_levels(self, levels: Iterable[str]) -> None:
        """Refuse levels that the task does not have.

        Raises:
            DataError: no such level.
        """
        for level in levels:
            if level not in self.levels:
                known = f"take one of {', '.join(self.levels)}" if self.levels else "it has no levels, leave them out"
                raise DataError(f"task {self.name} has no level {level!r}: {known}")

    def check_mined(self) -> str:
        """The split that rollouts are sampled on.

        Raises:
            DataError: the task is for evaluation only.
        """
        if self.mine_split is None:
            raise DataError(
                f"task {self.name} is for evaluation only (its one split is {self.eval_split}): "
                f"mine on {self.mine_instead}, and evaluate the result on {self.name}"
            )
        return self.mine_split


class SplitSource(NamedTuple):
    """Where the rows of one split are, and how a row is read."""

    file: str
    """Below ``STIR_DATA_ROOT``."""
    hub: str
    config: str | None
    hub_split: str
    read: Callable[[dict[str, Any]], rows.BenchmarkRow]
    part: Callable[[rows.BenchmarkRow], bool] | None = None
    """Whether a row belongs to the split, where one file holds several."""
    rows: slice = slice(None)
    """Rows of the file that make the split, by their order, where one file holds several."""


SOURCES: dict[str, dict[str, SplitSource]] = {
    "gsm8k": {
        "train": SplitSource("gsm8k/train.jsonl", "openai/gsm8k", "main", "train", rows.gsm8k),
        "test": SplitSource("gsm8k/test.jsonl", "openai/gsm8k", "main", "test", rows.gsm8k),
    },
    "svamp": {
        "train": SplitSource("svamp/all.jsonl", "ChilleD/SVAMP", None, "train+test", rows.svamp, lambda row: not rows.svamp_is_eval(row)),
        "eval": SplitSource("svamp/all.jsonl", "ChilleD/SVAMP", None, "train+test", rows.svamp, rows.svamp_is_eval),
    },
    "math": {
        "train": SplitSource("math/train.jsonl", "nlile/hendrycks-MATH-benchmark", None, "train", rows.math),
        "test": SplitSource("math500/test.jsonl", "HuggingFaceH4/MATH-500", None, "test", rows.math500),
    },
    "math500": {"test": SplitSource("math500/test.jsonl", "HuggingFaceH4/MATH-500", None, "test", rows.math500)},
    "math500_published": {
        "train": SplitSource("math500/test.jsonl", "HuggingFaceH4/MATH-500", None, "test", rows.math500, rows=slice(100)),
        "test": SplitSource("math500/test.jsonl", "HuggingFaceH4/MATH-500", None, "test", rows.math500, rows=slice(100, None)),
    },
    "aime2024": {"test": SplitSource("aime2024/test.jsonl", "HuggingFaceH4/aime_2024", None, "train", rows.contest)},
    "aime2025": {"test": SplitSource("aime2025/test.jsonl", "math-ai/aime25", None, "test", rows.contest)},
    "amc23": {"test": SplitSource("amc23/test.jsonl", "math-ai/amc23", None, "test", rows.contest)},
    "arc_challenge": {
        "dev": SplitSource("arc_challenge/dev.jsonl", "allenai/ai2_arc", "ARC-Challenge", "validation", rows.choice),
        "test": SplitSource("arc_challenge/test.jsonl", "allenai/ai2_arc", "ARC-Challenge", "test", rows.choice),
    },
    "openbookqa": {
        "train": SplitSource("openbookqa/train.jsonl", "allenai/openbookqa", "main", "train", rows.choice),
        "dev": SplitSource("openbookqa/dev.jsonl", "allenai/openbookqa", "main", "validation", rows.choice),
        "test": SplitSource("openbookqa/test.jsonl", "allenai/openbookqa", "main", "test", rows.choice),
    },
    "strategyqa": {
        "train": SplitSource("strategyqa/train.jsonl", "ChilleD/StrategyQA", None, "train", rows.strategyqa),
        "dev": SplitSource("strategyqa/dev.jsonl", "ChilleD/StrategyQA", None, "test", rows.strategyqa),
    },
    "commonsenseqa": {"dev": SplitSource("commonsenseqa/dev.jsonl", "tau/commonsense_qa", None, "validation", rows.choice)},
}
"""Benchmark -> split -> source. StrategyQA has no dev split on the hub; its test split is used instead."""


def _benchmark(name: str, kind: AnswerKind, licence: str, mine: str | None, held_out: str, description: str, **more: Any) -> TaskSpec:
    splits = tuple(SOURCES[name])
    more = {"validation_split": None, **more}
    return TaskSpec(name, kind, description, SOURCES[name][held_out].hub, licence, splits, mine, eval_split=held_out, **more)


_ARITHMETIC = TaskSpec(
    "arithmetic",
    "number",
    "Sums and one- or two-step word problems with small numbers; generated, nothing to download",
    "generated",
    "Apache-2.0",
    ("train", "validation", "eval"),
    "train",
    "validation",
    "eval",
    levels=LEVELS,
    problems=arithmetic_problems,
    disjoint=True,
)
_CHAIN = TaskSpec(
    "chain",
    "number",
    "Chains of additions or subtractions in the language of the organisms (calibration only); generated",
    "generated",
    "Apache-2.0",
    SPLITS,
    "train",
    "validation",
    "eval",
    levels=KINDS,
    problems=chain_problems,
    disjoint=True,
    template="plain",
)
_ALL = (
    _ARITHMETIC,
    _CHAIN,
    _benchmark("gsm8k", "number", "MIT", "train", "test", "Grade-school word problems"),
    _benchmark(
        "svamp",
        "number",
        "MIT",
        "train",
        "eval",
        "One-step word problems with varied wording; split by a hash of the story, so variations stay together",
        levels=("Addition", "Subtraction", "Multiplication", "Common-Division"),
    ),
    _benchmark(
        "math",
        "math",
        "MIT",
        "train",
        "test",
        "Competition mathematics without the MATH-500 problems for mining; MATH-500 held out",
        levels=_MATH_LEVELS,
    ),
    _benchmark("math500", "math", "MIT", None, "test", "The 500-problem MATH evaluation set", mine_instead="math", levels=_MATH_LEVELS),
    _benchmark(
        "math500_published",
        "math",
        "MIT",
        "train",
        "test",
        "MATH-500 as STIR's authors split it: its first 100 problems are mined, the other 400 held out",
        levels=_MATH_LEVELS,
    ),
    _benchmark("aime2024", "math", "MIT", None, "test", "AIME 2024", mine_instead="math"),
    _benchmark("aime2025", "math", "MIT", None, "test", "AIME 2025", mine_instead="math"),
    _benchmark("amc23", "math", "MIT", None, "test", "AMC 2023", mine_instead="math"),
    _benchmark("arc_challenge", "choice", "CC BY-SA 4.0", "dev", "test", "Grade-school science questions that retrieval gets wrong"),
    _benchmark("openbookqa", "choice", "MIT", "train", "test", "Elementary science facts applied", validation_split="dev"),
    _benchmark("strategyqa", "yesno", "MIT", "train", "dev", "Yes / no questions that need several implicit steps"),
    _benchmark("commonsenseqa", "choice", "MIT", None, "dev", "Common-sense questions with five options", mine_instead="openbookqa"),
)
TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in _ALL}
"""All tasks by name, in the order in which they are shown; :func:`register_task` adds one."""


def register_task(spec: TaskSpec) -> None:
    """Add a task in this process; one of the same name that was registered before is replaced.

    Args:
        spec: with ``problems``, a function from a split's name to its problems, unless :data:`SOURCES` says where its rows are.

    Raises:
        DataError: a built-in task has that name, nothing makes its problems, or a role names a split that it does not have.
    """
    if spec.name in {own.name for own in _ALL}:
        raise DataError(f"{spec.name} is one of the built-in tasks: choose another name")
    if spec.problems is None and spec.name not in SOURCES:
        raise DataError(f"task {spec.name} has no problems: give problems=, a function from a split's name to them")
    for split in (spec.mine_split, spec.validation_split, spec.eval_split):
        if split is not None and split not in spec.splits:
            raise DataError(f"task {spec.name} has no split {split!r}: its splits are {', '.join(spec.splits)}")
    TASKS[spec.name] = spec
