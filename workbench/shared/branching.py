"""Answers that branches begin from, and where two answers part: what Trace, What-if and Saved share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from stir_core.config import DecodeConfig, GateConfig, digest_of
from stir_core.intervene.changes import step_holding
from stir_core.records import Problem, Trace
from stir_core.requests import Change
from stir_core.saved import SavedBranch, SavedRerolls
from stir_core.store.critical import Of
from workbench.shared.facts import RunFacts, run_fingerprint
from workbench.shared.trace_comparison import ROWS, Recording, first_divergence


@dataclass(frozen=True)
class BranchOrigin:
    """A recorded answer to branch from, with the settings that its branches are decoded with."""

    run: str
    """Digest of the run."""
    name: str
    trace: Trace
    gate: GateConfig
    decode: DecodeConfig
    problem: Problem | None
    question: str
    raw: bool = False
    recorded: bool = True
    """True for a held-out answer of the run itself."""
    of: Of = "steered"
    source: str = ""
    """The saved comparison that it is an answer of; empty: it is none, or not known."""

    @cached_property
    def key(self) -> str:
        """Digest of the answer and its settings: equal origins share a tree."""
        about = (self.run, self.name, self.gate, self.decode, list(self.trace.prompt_ids), list(self.trace.token_ids))
        return digest_of(*about, *(["vanilla"] if self.of == "vanilla" else []))

    def saved(self, path: Sequence[tuple[Change, Trace]]) -> SavedBranch:
        """What is saved of a branch that this path of changes and answers leads to."""
        return SavedBranch(**self._about(), changes=tuple(change for change, _ in path), traces=tuple(trace for _, trace in path))

    def saved_rerolls(self, path: Sequence[tuple[Change, Trace]], change: Change, rolls: Sequence[Trace]) -> SavedRerolls:
        """What is saved of continuations of the answer that a path leads to."""
        steps = {"changes": tuple(before for before, _ in path), "traces": tuple(trace for _, trace in path)}
        return SavedRerolls(**self._about(), **steps, change=change, rolls=tuple(rolls))

    def _about(self) -> dict[str, Any]:
        shared = ("name", "question", "problem", "raw", "gate", "decode", "recorded", "of")
        return {name: getattr(self, name) for name in shared} | {"origin": self.trace}


def origin_of(content: SavedBranch | SavedRerolls, run: str) -> BranchOrigin:
    """The answer that a saved branch begins from; ``run``: the run's digest."""
    about = (content.gate, content.decode, content.problem, content.question, content.raw, content.recorded, content.of)
    return BranchOrigin(run, content.name, content.origin, *about)


def compared_origin(facts: RunFacts, recording: Recording | None, of: Of) -> BranchOrigin | None:
    """An answer of Trace's comparison; ``None`` where it has not ended or belongs to another run."""
    trace = recording.traces[ROWS.index(of)] if recording is not None else None
    if recording is None or trace is None or recording.settings["run"] != run_fingerprint(facts.run):
        return None
    settings: Mapping[str, Any] = recording.settings
    gate, decode = GateConfig.model_validate(settings["gate"]), DecodeConfig.model_validate(settings["decode"])
    problem = facts.held_out.get(settings["problem"] or "") if "steered" in facts.stages else None
    name, question, raw = settings["problem"] or "free prompt", settings["question"], settings["raw"]
    return BranchOrigin(run_fingerprint(facts.run), name, trace, gate, decode, problem, question, raw, False, of, recording.id)


class Parting(NamedTuple):
    """Where two answers differ first."""

    position: int
    """0-based token."""
    m: int
    """The control point before it."""


def parting(one: Trace, other: Trace) -> Parting | None:
    """The first token at which two answers differ; ``None`` when they are equal, token for token."""
    at = first_divergence(one.token_ids, other.token_ids)
    return None if at is None else Parting(at, step_holding(one if len(one.token_ids) > at else other, at).m)


def parting_line(one: Trace, other: Trace, name: str) -> tuple[bool, str]:
    """Whether an answer equals another, and one line that says so."""
    difference = parting(one, other)
    if difference is None:
        return True, f"equals {name} token for token ({len(one.token_ids)} of {len(other.token_ids)} ids)"
    return False, f"differs from {name} from token {difference.position + 1} on (after control point {difference.m})"
