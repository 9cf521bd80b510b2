"""Problems as token ids. In the task ``modular`` every number is one token, and every step has equally many."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stir_core.latent.frame import PADDING, LatentBatch, LatentRecipe, Markers
from stir_core.models.small import word_tokenizer
from stir_core.seeding import generator_for
from stir_core.tasks.grading import Grader
from stir_core.tasks.modular import ModularChain, ModularSetting, draw_chains
from stir_core.tasks.solutions import SolvedProblem

STEP_END = "\n\n"
ANSWER = "#### "
ONE_QUESTION = "{% if messages | length > 1 %}{{ raise_exception('this model reads one question, without a system text') }}{% endif %}"
CHAT = ONE_QUESTION + "<s>{{ messages[0]['content'] + '\\n\\n' }}"
MARKERS = ("<|start-latent|>", "<|latent|>", "<|end-latent|>")
_GRADER = Grader()


def modular_tokenizer(setting: ModularSetting) -> PreTrainedTokenizerFast:
    """The tokenizer of a setting's problems; the markers of latents are ordinary tokens, as published."""
    numbers = [str(number) for number in range(setting.modulus)]
    vocabulary = ["<s>", "</s>", "<unk>", STEP_END, "<<", ">>", "=", "?", ANSWER, "+", "-", "*", *MARKERS, *numbers]
    return word_tokenizer(vocabulary, r"\n\n|#### |<<|>>|<[^<>]+>|\d+|[-+*=?]", CHAT)


def markers_of(words: PreTrainedTokenizerBase) -> Markers:
    """The frame's own tokens."""
    ids = words.get_vocab()
    eos: Any = words.eos_token_id
    stated = len(words(ANSWER.strip(), add_special_tokens=False)["input_ids"]) if ANSWER not in ids else 1
    start, latent, end = (ids[token] for token in MARKERS)
    return Markers(start, latent, end, eos, stated)


class EncodedProblem(NamedTuple):
    """The token ids of a problem."""

    question: list[int]
    steps: list[list[int]]
    """Each ends in the delimiter."""
    answer: list[int]
    """Ends in the end-of-text token."""


def encoded(
    words: PreTrainedTokenizerBase, problems: Sequence[ModularChain | SolvedProblem], solutions: Sequence[ModularChain] | None = None
) -> list[EncodedProblem]:
    """Problems as token ids.

    Args:
        solutions: the orders in which chains are solved; ``None``: as they are asked.
    """

    def ids(texts: list[str], *, special: bool = False) -> list[list[int]]:
        return words(texts, add_special_tokens=special)["input_ids"] if texts else []  # type: ignore[return-value]

    chains = isinstance(problems[0], ModularChain)
    opening, end = ("<s>", STEP_END) if chains else ("", "\n")
    eos: Any = words.eos_token_id
    delimiter = ids([end])[0][-1]
    questions = ids([f"{opening}{problem.question}{end}" for problem in problems], special=True)
    steps = [problem.steps for problem in solutions or problems]
    flat = iter(ids([step for each in steps for step in each]))
    answers = ids([f"{ANSWER}{problem.answer}" for problem in problems])
    return [
        EncodedProblem(question, [[*next(flat), delimiter] for _ in each], [*answer, eos])
        for question, each, answer in zip(questions, steps, answers, strict=True)
    ]


def batch_of(problems: Sequence[EncodedProblem]) -> LatentBatch:
    """Problems side by side."""

    def padded(rows: Sequence[Sequence[int]], side: str = "right") -> torch.Tensor:
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PADDING, padding_side=side)

    most = max(len(problem.steps) for problem in problems)
    steps = padded([step for problem in problems for step in [*problem.steps, *[[PADDING]] * (most - len(problem.steps))]])
    return LatentBatch(
        padded([problem.question for problem in problems], "left"),
        steps.unflatten(0, (len(problems), most)),
        padded([problem.answer for problem in problems]),
    )


def as_batch(
    words: PreTrainedTokenizerBase, problems: Sequence[ModularChain | SolvedProblem], solutions: Sequence[ModularChain] | None = None
) -> LatentBatch:
    """Problems as a batch; arguments as :func:`encoded`."""
    return batch_of(encoded(words, problems, solutions))


def states_answer(problem: ModularChain | SolvedProblem, said: str) -> bool:
    """Whether what stands behind ``#### `` is the problem's answer: of a chain the same digits, else by the workbench's grader."""
    if isinstance(problem, ModularChain):
        return said == str(problem.answer)
    return _GRADER.grade("number", problem.answer, f"{ANSWER}{said}").correct


def training_batch(step: int, setting: ModularSetting, seed: int, recipe: LatentRecipe, words: PreTrainedTokenizerFast) -> LatentBatch:
    """The problems of one training step, drawn from a stream of that step's own; all have equally many operations."""
    rng = generator_for(seed, "latent batch", setting.name, step)
    count = setting.counts[int(rng.integers(len(setting.counts)))]
    chains = draw_chains(setting, "train", count, recipe.batch, rng)
    return as_batch(words, chains, [chain.reordered(rng) for chain in chains] if setting.reordered else None)
