"""What every decoder is given, and what it gives back.

A decoder is a generator function ``(bench, questions, parameters) -> answers``: it decodes all questions side by side, at most
``bench.settings.rows`` of them at a time, and yields each answer when it ends, ungraded and untimed. An answer depends on its problem, its
seed and the method alone, never on what is decoded beside it. The budget is the same for all: ``decode.max_new_tokens`` committed tokens.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from stir_core.config import GateConfig
from stir_core.findings import Answer
from stir_core.intervene.jobs import Settings
from stir_core.intervene.memory import Memory
from stir_core.models.loading import LoadedModel
from stir_core.records import AnswerKind, Problem

Value = float | int | str | bool
Parameters = Mapping[str, Value]


class Question(NamedTuple):
    """One problem to answer, once."""

    problem: Problem
    prompt_ids: list[int]
    seed: int = 0
    """Which repetition; names the random streams together with the problem."""
    boxed: bool | None = None
    """Whether the prompt asks for ``\\boxed{...}``; ``None``: as problems of its kind are asked by default."""

    @property
    def form(self) -> AnswerKind:
        """The kind of answer in whose form this prompt wants it stated."""
        kind = self.problem.kind
        if self.boxed is None:
            return kind
        return "math" if self.boxed else ("number" if kind == "math" else kind)

    @property
    def name(self) -> str:
        """Name of this question's random streams; the first repetition's is the problem's own id."""
        return self.problem.id if self.seed == 0 else f"{self.problem.id}#{self.seed}"


@dataclass(frozen=True)
class Bench:
    """What the decoders of one evaluation share."""

    model: LoadedModel
    settings: Settings
    """Token budget, delimiter, control points, seed and batch size; its temperature is 0."""
    gate: GateConfig
    """The run's own gate."""
    libraries: Callable[[str], Memory | None]
    """Library by name (``"basis"``, ``"all"``, ``"shuffled"``, ...), built when first asked for; ``None``: it has no entry."""
    sampling: tuple[float, float] = (0.7, 0.95)
    """Temperature and top-p of methods that sample, where they are not given."""


Decode = Callable[[Bench, list[Question], Parameters], Iterator[Answer]]
"""Answers to all questions, each as it ends."""
Check = Callable[[Bench, Parameters], None]
"""Raises a ``StirError`` for parameters that cannot be decoded with."""


@dataclass(frozen=True)
class Decoder:
    """One way to answer, as the registry knows it."""

    name: str
    about: str
    """One line for tables."""
    source: str
    """Where it is defined."""
    decode: Decode
    parameters: Mapping[str, Value]
    """Parameters with their defaults; no other is accepted."""
    by_chance: bool = False
    """Whether repetitions differ."""
    check: Check = lambda bench, parameters: None
    """Refuses what cannot be decoded, before anything is."""
