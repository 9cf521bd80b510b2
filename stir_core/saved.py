"""Saved work: what was decoded or measured in the workbench, with everything that it was made with.

:class:`SavedWork` is the line in a list, and one of the other records is the content. They hold no tensors.
"""

from typing import Annotated, Literal

from pydantic import Field

from stir_core.config import DecodeConfig, GateConfig
from stir_core.readings import TokenReading
from stir_core.records import ModelIdentity, Problem, Record, StepEvent, TokenEvent, Trace, TraceEvent
from stir_core.requests import Change
from stir_core.responses import ImpulseResponse

SAVED_ID = r"[a-z-]{1,20}-\d{8}-\d{6}-[0-9a-f]{8}"
"""Kind, date and time of saving (UTC), and a random part: the ids of two machines differ."""
SavedKind = Literal["trace", "what-if", "rerolls", "impulse", "re-decision"]


class SavedWork(Record):
    """One piece of saved work, without its content."""

    schema_version: Literal[1] = 1
    id: Annotated[str, Field(pattern=f"^{SAVED_ID}$")]
    """See :data:`SAVED_ID`."""
    kind: SavedKind
    title: Annotated[str, Field(max_length=300)]
    """What was asked, in one line."""
    outcome: Annotated[str, Field(max_length=300)]
    """What came of it, in one line."""
    run: str
    run_digest: str
    """Digest of the run's finished stages, wherever its folder lies."""
    model: ModelIdentity | None
    """The model that answered; ``None``: none was needed."""
    created: str
    """UTC."""
    made_by: str
    """Version of this program."""


class SavedTrace(Record):
    """Vanilla (row 0) and steered (row 1) answer to one prompt."""

    kind: Literal["trace"] = "trace"
    question: str
    problem: str | None
    """Id of the held-out problem; ``None``: a free prompt."""
    raw: bool
    gate: GateConfig
    decode: DecodeConfig
    seed: int
    events: tuple[StepEvent | TokenEvent | TraceEvent, ...]
    """In the order in which they came. A row without a trace was stopped."""
    readings: tuple[tuple[TokenReading, ...], tuple[TokenReading, ...]] = ((), ())
    """Both answers read again, token by token."""
    codes: tuple[dict[int, int], dict[int, int]] = ({}, {})
    """Code of each finished step, by control point; empty without a codebook."""
    seconds: float
    """Wall-clock time of decoding, both answers together."""
    reading_seconds: float


class TakenUp(Record):
    """Base of what continues a recorded answer."""

    name: str
    """Id of the held-out problem, or "free prompt"."""
    question: str
    problem: Problem | None
    raw: bool
    gate: GateConfig
    decode: DecodeConfig
    recorded: bool
    """True: the origin is a held-out answer of the run itself."""
    of: Literal["steered", "vanilla"] = "steered"
    """Which of the two answers the origin is."""
    origin: Trace


class SavedBranch(TakenUp):
    """A recorded answer taken up again, one change after the other."""

    kind: Literal["what-if"] = "what-if"
    changes: Annotated[tuple[Change, ...], Field(min_length=1)]
    """From the origin to this branch."""
    traces: tuple[Trace, ...]
    """The answer after each of them."""


class SavedRerolls(TakenUp):
    """A recorded answer, or a branch of it, continued from one place with one seed after the other."""

    kind: Literal["rerolls"] = "rerolls"
    changes: tuple[Change, ...]
    """From the origin to the answer that is continued; empty: the origin is."""
    traces: tuple[Trace, ...]
    """The answer after each of them."""
    change: Change
    """The place, and what is changed there; without a seed."""
    rolls: tuple[Trace, ...]
    """The continuation with the seed 0, with 1, and so on."""


class SavedImpulse(Record):
    """What one action does at one control point and strength."""

    kind: Literal["impulse"] = "impulse"
    response: ImpulseResponse


class FlippedAnswer(Record):
    """A held-out answer in which a decision turns under other settings."""

    problem: str
    m: int
    """Control point of the first decision that turns."""
    change: str
    recorded: str
    now: str
    why: str
    """Why it is decided so now."""


class SavedRedecision(Record):
    """Recorded held-out answers, decided again under other gate settings."""

    kind: Literal["re-decision"] = "re-decision"
    own: GateConfig
    """The run's own settings."""
    gate: GateConfig
    """The settings that were tried."""
    answers: int
    known: int
    """Decisions that the recording can answer."""
    flipped: int
    """Of these, the ones that turn."""
    flips: tuple[FlippedAnswer, ...]


SavedContent = SavedTrace | SavedBranch | SavedRerolls | SavedImpulse | SavedRedecision
CONTENTS: dict[SavedKind, type[SavedContent]] = {
    "trace": SavedTrace,
    "what-if": SavedBranch,
    "rerolls": SavedRerolls,
    "impulse": SavedImpulse,
    "re-decision": SavedRedecision,
}
"""The record of each kind's content."""
