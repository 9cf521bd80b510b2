"""The calibration ladder: what is planted in each organism, its writer, and the truth about every step that is written.

An answer states the first number, does one operation per step, and ends in ``#### 12``; steps end in a blank line. The writer has two
hidden states, which the problem never names:

- a *habit*, P or Q, which decides whether a step is right. A wrong result is one too large, always, so greedy decoding errs too.
- a *tone*, terse or wordy, which only adds words.

Each stays from step to step with probability :data:`STAY`. The first habit leans on an irrelevant cue, the parity of the first number. The
word that opens a step and the verb before its result show the habit, so the truth can be read from any text in the language
(:func:`read_steps`).
"""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from stir_core.errors import DataError
from stir_core.tasks.chain import LARGEST, Chain, Operation

Habit = Literal["P", "Q"]
Tone = Literal["terse", "wordy"]

STAY = 0.9
"""Probability that a habit or a tone stays from one step to the next."""
LEAN = 0.75
"""Probability of the habit that the first number's parity leans to."""
WORDY = 0.6
"""Probability that an answer begins wordy, so greedy answers do. Rewards prefer short answers, so corrective keys are wordy and null keys
terse."""
DELIMITER = "\n\n"

_OPENERS = {("P", "add"): "so", ("Q", "add"): "well", ("P", "sub"): "then", ("Q", "sub"): "now"}
_HABIT_OPENERS = {"P": "so", "Q": "well"}
_VERBS: dict[Habit, str] = {"P": "makes", "Q": "gives"}
_SIGNS: dict[Operation, str] = {"add": "plus", "sub": "minus"}
_FILLERS = (" let me see ,", " step by step ,")
_N = r"\d{1,18}"
_STEP = re.compile(
    rf"(?P<opener>so|well|then|now)(?P<filler>{'|'.join(_FILLERS)})? "
    rf"(?:start with (?P<start>{_N})|(?P<value>{_N}) (?:plus|minus) (?P<operand>{_N}) (?P<verb>makes|gives) (?P<result>{_N}))"
)


@dataclass(frozen=True)
class Rung:
    """What is planted in one organism: a row of the calibration ladder."""

    name: str
    planted: str
    """What is planted, in a sentence."""
    sound: str
    """What a sound method does with it, in a sentence."""
    right: dict[tuple[Habit, Operation], bool] | None = None
    """Whether a step is right, by habit and kind; ``None``: there is one habit, which decides nothing."""
    kind_in_opener: bool = False
    """Whether the word that opens a step depends on the kind too, so that the state before it has to hold both."""
    slip: float = 0.0
    """Probability that a step is wrong for no reason."""
    misread: float = 0.0
    """Probability that the first step states a number that is one too large."""
    tone_follows: float | None = None
    """Probability that the tone turns wordy after a wrong step, and terse after a right one: it follows errors and causes none."""


_ONE_WRONG: dict[tuple[Habit, Operation], bool] = {("P", "add"): True, ("P", "sub"): True, ("Q", "add"): False, ("Q", "sub"): False}
_OPPOSITE: dict[tuple[Habit, Operation], bool] = {("P", "add"): True, ("P", "sub"): False, ("Q", "add"): False, ("Q", "sub"): True}

RUNGS = {
    rung.name: rung
    for rung in (
        Rung("null", "Errors come at random; no state holds a reason.", "It abstains and does no harm.", slip=0.25),
        Rung("one_habit", "One of two habits is wrong on every problem.", "Any correction helps, a static vector too.", _ONE_WRONG),
        Rung(
            "two_habits",
            "Each of two habits is wrong on one kind of problem, and the state at a control point holds habit and kind.",
            "Actions of opposite sign help where they are retrieved by the state; a static vector cannot.",
            _OPPOSITE,
            kind_in_opener=True,
        ),
        Rung(
            "hidden_kind",
            "Each of two habits is wrong on one kind of problem, and no word shows the kind: the state at a control point hardly holds it.",
            "Where its keys do not tell the kind, the right sign is not known, and it abstains.",
            _OPPOSITE,
        ),
        Rung(
            "length",
            "Errors come at random, and the tone turns wordy after one: wordiness goes with errors and causes none.",
            "The confound controls flag the action as one of length; steering changes lengths and no accuracy.",
            slip=0.25,
            tone_follows=0.9,
        ),
        Rung(
            "text_borne",
            "Half of the answers misread the first number; the text then decides.",
            "No direction that problems share corrects what the text has decided: it abstains.",
            misread=0.5,
        ),
    )
}
"""Rung -> what is planted, in the order of the ladder."""


def rung_of(name: str) -> Rung:
    """The rung of that name.

    Raises:
        DataError: no such rung.
    """
    if name not in RUNGS:
        raise DataError(f"unknown rung {name!r}: take one of {', '.join(RUNGS)}")
    return RUNGS[name]


def is_right(rung: Rung, habit: Habit, kind: Operation) -> bool:
    """Whether a writer in this habit computes a problem of this kind rightly, random slips apart."""
    return rung.right is None or rung.right[habit, kind]


class Step(NamedTuple):
    """The truth about one written step."""

    text: str
    value: int
    """The running value that it states."""
    right: bool
    """Whether this step makes no error of its own."""
    habit: Habit
    tone: Tone


def write(chain: Chain, rung: Rung, rng: np.random.Generator) -> tuple[Step, ...]:
    """Write an answer as a rung's writer does; the line ``#### value`` follows the last step (:func:`written_text`)."""
    first, *operands = chain.numbers
    leans: Habit = "P" if first % 2 == 0 else "Q"
    habit: Habit = "P"
    if rung.right is not None:
        habit = leans if rng.random() < LEAN else _other(leans)
    tone: Tone = "wordy" if rng.random() < WORDY else "terse"
    value = first + int(rng.random() < rung.misread)
    steps = [Step(f"{_opening(rung, habit, chain.kind, tone, rng)} start with {value}", value, value == first, habit, tone)]
    for operand in operands:
        if rung.right is not None and rng.random() > STAY:
            habit = _other(habit)
        if rung.tone_follows is not None:
            tone = "wordy" if (rng.random() < rung.tone_follows) != steps[-1].right else "terse"
        elif rng.random() > STAY:
            tone = "wordy" if tone == "terse" else "terse"
        slipped = rng.random() < rung.slip
        right = is_right(rung, habit, chain.kind) and not slipped
        result = (value + operand if chain.kind == "add" else value - operand) + (not right)
        opening = _opening(rung, habit, chain.kind, tone, rng)
        steps.append(Step(f"{opening} {value} {_SIGNS[chain.kind]} {operand} {_VERBS[habit]} {result}", result, right, habit, tone))
        value = result
    return tuple(steps)


def written_text(steps: tuple[Step, ...]) -> str:
    """An answer as the model is to write it."""
    return DELIMITER.join([*(step.text for step in steps), f"#### {steps[-1].value}"])


def read_steps(chain: Chain, texts: list[str] | tuple[str, ...]) -> tuple[Step | None, ...]:
    """The truth about written steps; ``None`` for one that is not in the language (the last line ``#### 12`` is not a step either).

    A step is right if it does its operation on the value that the step before stated.
    """
    steps: list[Step | None] = []
    for text in texts:
        match = _STEP.fullmatch(text.strip())
        if match is None:
            steps.append(None)
            continue
        habit: Habit = "P" if match["opener"] in ("so", "then") else "Q"
        tone: Tone = "terse" if match["filler"] is None else "wordy"
        if match["start"] is not None:
            value = int(match["start"])
            right = value == chain.numbers[0]
        else:
            before, operand, value = int(match["value"]), int(match["operand"]), int(match["result"])
            habit = "P" if match["verb"] == "makes" else "Q"
            right = value == (before + operand if chain.kind == "add" else before - operand)
        steps.append(Step(text, value, right, habit, tone))
    return tuple(steps)


def _other(habit: Habit) -> Habit:
    return "Q" if habit == "P" else "P"


def _opening(rung: Rung, habit: Habit, kind: Operation, tone: Tone, rng: np.random.Generator) -> str:
    word = _OPENERS[habit, kind] if rung.kind_in_opener else _HABIT_OPENERS[habit]
    return word + (_FILLERS[int(rng.integers(len(_FILLERS)))] if tone == "wordy" else "")


def vocabulary() -> list[str]:
    """Every token: words as they begin a line and as they follow a space, numbers after a space, the delimiter, and three marks."""
    first = sorted({*_OPENERS.values(), "add", "sub", "####"})
    later = {"start", "with", ",", "?", *_VERBS.values(), *_SIGNS.values()} | {word for filler in _FILLERS for word in filler.split()}
    return ["<s>", "</s>", "<unk>", DELIMITER, *first, *(f" {word}" for word in sorted(later)), *(f" {n}" for n in range(LARGEST + 1))]
