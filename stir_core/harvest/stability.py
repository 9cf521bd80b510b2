"""Sampling again from the prefixes that actions were mined at: does a right beginning lead to right answers, and a wrong one to wrong?

Same sampler, temperature, nucleus and batch as the rollouts; states are not captured. A prefix that several actions share is rolled once.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from stir_core.config import RunConfig
from stir_core.harvest.rollouts import Ending, Grade, sample
from stir_core.harvest.states import Reading
from stir_core.models.generation import Strand
from stir_core.models.loading import LoadedModel
from stir_core.records import Continuation, Entry, Finish, Problem
from stir_core.seeding import generator_for

Place = tuple[str, Literal["rollout", "gold"], int, int]
"""Where a prefix comes from: problem id, source, rollout number (0 for a gold solution), control point."""


class Prefix(NamedTuple):
    """The beginning of an answer, up to a control point."""

    place: Place
    problem: Problem
    prompt_ids: list[int]
    given: list[int]
    """Ids of the answer so far."""


class Shares(NamedTuple):
    """Share of right answers among the continuations of an action's prefixes, in [0, 1]."""

    pos: float
    neg: float


def places_of(entry: Entry) -> tuple[list[Place], list[Place]]:
    """The prefixes that an entry's positive and negative states were taken at."""
    gold: list[Place] = [(entry.problem_id, "gold", 0, entry.m)] if entry.pos_source == "gold" else []
    right: list[Place] = [(entry.problem_id, "rollout", k, entry.m) for k in entry.positives]
    return [*gold, *right], [(entry.problem_id, "rollout", k, entry.m) for k in entry.negatives]


def plan_prefixes(
    entries: list[Entry], readings: list[Reading], problems: dict[str, Problem], prompts: dict[str, list[int]]
) -> list[Prefix]:
    """Every distinct prefix behind the entries, in their order.

    Args:
        readings: the sequences whose states were taken (they end where the last wanted state is).
        prompts: prompt ids by problem id.
    """
    ids = {(r.problem_id, r.source, r.k, m): r.ids[: at + 1] for r in readings for m, at in zip(r.ms, r.positions, strict=True)}
    found: dict[Place, Prefix] = {}
    for entry in entries:
        for place in [place for side in places_of(entry) for place in side]:
            prompt = prompts[entry.problem_id]
            found[place] = Prefix(place, problems[entry.problem_id], prompt, ids[place][len(prompt) :])
    return list(found.values())


def continuations(
    model: LoadedModel,
    prefixes: list[Prefix],
    config: RunConfig,
    grade: Grade,
    done: frozenset[tuple[Place, int]] = frozenset(),
) -> Iterator[Continuation]:
    """``config.mining.stability_rolls`` answers behind each prefix, yielding each as it ends (in no fixed order).

    A continuation's tokens depend on the run's seed, its prefix and its number alone. Its budget is what the prefix left of
    ``config.rollouts.max_new_tokens``; where that is nothing, the prefix itself is graded.

    Args:
        grade: settles an answer's text.
        done: (place, number) that are there already.
    """
    owners: dict[str, tuple[Prefix, int]] = {}
    waiting: list[Ending] = []
    for prefix in prefixes:
        budget = config.rollouts.max_new_tokens - len(prefix.given)
        for roll in [roll for roll in range(config.mining.stability_rolls) if (prefix.place, roll) not in done]:
            if budget < 1:
                yield _settled(model, prefix, roll, [], "length", grade)
                continue
            strand = Strand(f"{prefix.place}/{roll}", budget, generator_for(config.seed, "stability", *prefix.place, roll))
            owners[strand.name] = prefix, roll
            waiting.append(Ending([*prefix.prompt_ids, *prefix.given], strand))
    for ending in sample(model, waiting, config):
        yield _settled(model, *owners[ending.strand.name], ending.strand.ids, ending.strand.finish or "length", grade)


def shares(entries: list[Entry], rolled: list[Continuation]) -> dict[str, Shares]:
    """How often each corrective entry's sides came out right, by entry id; entries without continuations on a side are left out."""
    outcomes: dict[Place, list[bool]] = {}
    for each in rolled:
        outcomes.setdefault(place_of(each), []).append(each.verdict.correct)
    found: dict[str, Shares] = {}
    for entry in entries:
        right, wrong = ([right for place in side for right in outcomes.get(place, [])] for side in places_of(entry))
        if entry.kind == "corrective" and right and wrong:
            found[entry.id] = Shares(sum(right) / len(right), sum(wrong) / len(wrong))
    return found


def place_of(each: Continuation) -> Place:
    """The prefix that a continuation was sampled from."""
    return each.problem_id, each.source, each.k, each.m


def _settled(model: LoadedModel, prefix: Prefix, roll: int, ids: list[int], finish: Finish, grade: Grade) -> Continuation:
    problem_id, source, k, m = prefix.place
    text = model.text([*prefix.given, *ids])
    verdict = grade(prefix.problem, text)
    return Continuation(
        problem_id=problem_id, source=source, k=k, m=m, roll=roll, n_tokens=len(ids), finish=finish, text=text, verdict=verdict
    )
