"""Handle a chosen share of an answer's steps latently, whatever the gate's threshold: what a curriculum raises.

A step is handled by the impulse of its best candidate. With ``how=skip`` it is not written either: the delimiter alone stands in its place,
read with the impulse, which then stays in the cache. All other steps are decoded unsteered.
"""

from collections.abc import Iterator
from typing import NamedTuple

from stir_core.config import GateConfig, with_changes
from stir_core.errors import ConfigError
from stir_core.evaluate.decoders.base import Bench, Decoder, Parameters, Question
from stir_core.evaluate.decoders.loop import numeric
from stir_core.evaluate.decoders.stepwise import job_answers, library_of
from stir_core.findings import Answer
from stir_core.intervene.gate import injectable
from stir_core.intervene.jobs import Job, Overrule
from stir_core.intervene.memory import check_gate
from stir_core.records import Decision, Reason, Scored, StepEvidence
from stir_core.seeding import generator_for

ORDERS = ("advantage", "random", "left")
"""Which steps go first: those of the highest predicted advantage, any, or the first ones (as in Coconut and iCoT)."""
WAYS = ("impulse", "skip")
EVERY = 10**9
"""Above every rank; its negative is below every one."""


class Ranked(NamedTuple):
    """A step that could be handled."""

    score: float
    """A step goes before those of lower score."""
    best: Scored
    """The candidate of the highest predicted advantage."""
    dose: float
    """Multiple of its action that is injected."""


def ranked(order: str, evidence: StepEvidence, decision: Decision, gate: GateConfig, *, seed: int, name: str) -> Ranked | None:
    """The rank of a step in an order; ``None``: it has no candidate that could be injected.

    Args:
        decision: of a gate with the policy ``direct``, whose score is the predicted advantage over null.
        seed, name: run seed and name of the answer, which name its random stream.
    """
    doses = injectable(decision.scored, gate)
    usable = [each for each in decision.scored if each.entry_id in doses and each.policy_score is not None]
    if not usable:
        return None
    best = max(usable, key=lambda each: each.policy_score or 0.0)
    chance = float(generator_for(seed, "internalise", name, evidence.m).random())  # also splits the ties of one control point
    scores = {"advantage": best.policy_score or 0.0, "random": chance, "left": -evidence.m + chance}
    return Ranked(scores[order], best, doses[best.entry_id])


def internalise(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """Handle every step that is ranked above ``above``, and no other; see :func:`ranked`."""
    gate, memory, above = _gate(bench, parameters), library_of(bench, parameters), numeric(parameters, "above", least=-EVERY)
    order, skip = str(parameters["order"]), parameters["how"] == "skip"

    def overrule_for(question: Question) -> Overrule:
        def overrule(evidence: StepEvidence, decision: Decision) -> Decision:
            rank = ranked(order, evidence, decision, gate, seed=bench.settings.seed, name=question.name)
            if rank is None:
                return decision.replaced(chosen=None, alpha=0.0)
            about = {"entry_id": rank.best.entry_id, "value": rank.score}
            handled = rank.score > above
            reason = Reason.model_validate({"kind": "handled" if handled else "left_explicit", **about})
            return decision.replaced(chosen=rank.best.entry_id if handled else None, alpha=rank.dose if handled else 0.0, reason=reason)

        return overrule

    jobs = [Job(q.name, q.prompt_ids, gate, memory, overrule=overrule_for(q), skip=skip) for q in questions]
    return job_answers(bench, questions, jobs)


def _gate(bench: Bench, parameters: Parameters) -> GateConfig:
    return with_changes(bench.gate, policy="direct", persistence="persistent" if parameters["how"] == "skip" else bench.gate.persistence)


def _check(bench: Bench, parameters: Parameters) -> None:
    for key, known in (("order", ORDERS), ("how", WAYS)):
        if parameters[key] not in known:
            raise ConfigError(f"{key} = {parameters[key]!r} is unknown: take one of {', '.join(known)}")
    if parameters["how"] == "skip" and bench.settings.delimiter.startswith("segmenter:"):
        raise ConfigError("how = 'skip' needs a delimiter that can be written, and steps end where a function says: take how=impulse")
    check_gate(_gate(bench, parameters), library_of(bench, parameters))


INTERNALISE = Decoder(
    name="internalise",
    about="steps ranked above a limit are handled latently",
    source="the curriculum of `stir curriculum`; orders as in Coconut (2412.06769), iCoT (2405.14838) and Token Assorted (2502.03275)",
    decode=internalise,
    parameters={"library": "basis", "layer": -1, "above": float(EVERY), "order": "advantage", "how": "impulse"},
    check=_check,
)
