"""What a decoder takes and returns.

A decoder is a generator function ``(bench, questions, parameters) -> answers``: it decodes all questions side by side, at most
``bench.settings.rows`` of them at a time, and yields each answer when it ends, not graded or timed. An answer depends on its problem, its
seed and the method alone, never on the answers decoded beside it. The budgets are the same for all: ``bench.budget`` committed tokens, and
those of an answer's parts (``bench.parts``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stir_core.config import LOCAL, GateConfig
from stir_core.findings import Answer
from stir_core.intervene.jobs import Settings
from stir_core.intervene.memory import Memory
from stir_core.models.loading import LoadedModel
from stir_core.records import AnswerKind, Problem
from stir_core.tasks.thinking import PartBudgets

Value = float | int | str | bool
Parameters = Mapping[str, Value]


class Question(NamedTuple):
    """One problem to answer once."""

    problem: Problem
    prompt_ids: list[int]
    seed: int = 0
    """Which repetition; names the random streams together with the problem."""
    boxed: bool | None = None
    """Whether the prompt asks for ``\\boxed{...}``; ``None``: as problems of its kind are asked by default."""

    @property
    def form(self) -> AnswerKind:
        """Answer kind whose form the prompt asks for: a box for ``"math"``, ``####`` for the others."""
        kind = self.problem.kind
        if self.boxed:
            return "math"
        return "number" if kind == "math" and self.boxed is not None else kind

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
    engine: str = LOCAL
    """What samples whole answers: this process, or a server (``config.Engine``)."""

    @property
    def budget(self) -> int:
        """Maximum number of tokens that an answer may commit."""
        return self.settings.decode.max_new_tokens

    def parts(self, question: Question, given: Sequence[int] = ()) -> PartBudgets | None:
        """Budgets of the parts of an answer after its first tokens; ``None``: no part has one."""
        return self.model.budgets(question.prompt_ids, self.settings.decode, given)


@dataclass(frozen=True)
class Decoder:
    """One way to answer, as the registry knows it."""

    name: str
    about: str
    """One line for tables."""
    source: str
    """Where it is defined."""
    decode: Callable[[Bench, list[Question], Parameters], Iterator[Answer]]
    """Decodes all questions and yields each answer as it ends."""
    parameters: Mapping[str, Value]
    """Parameters with their defaults; no other is accepted."""
    by_chance: bool = False
    """Whether repetitions differ."""
    check: Callable[[Bench, Parameters], object] = lambda bench, parameters: None
    """Raises a ``StirError`` for parameters that cannot be decoded with, before anything is decoded."""
