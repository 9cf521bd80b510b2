"""Sample again from the prefixes that actions were mined at: do right beginnings lead to right answers, and wrong ones to wrong answers?

Sampler, temperature, nucleus and batch are those of the rollouts; states are not captured. A prefix that several actions share is sampled
from once.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from stir_core.config import RunConfig
from stir_core.harvest.rollouts import Ending, Grade, ending_of, sample_endings
from stir_core.harvest.states import Reading
from stir_core.models.loading import LoadedModel
from stir_core.records import Continuation, Entry, Finish, Problem
from stir_core.tasks.thinking import graded_part

PrefixKey = tuple[str, Literal["rollout", "gold"], int, int]
"""Where a prefix comes from: problem id, source, rollout number (0 for a gold solution), control point."""


class Prefix(NamedTuple):
    """The beginning of an answer, up to a control point."""

    key: PrefixKey
    problem: Problem
    prompt_ids: list[int]
    given: list[int]
    """Ids of the answer so far."""


class Shares(NamedTuple):
    """Share of right answers among the continuations of an action's prefixes, in [0, 1]."""

    pos: float
    neg: float


def prefix_keys(entry: Entry) -> tuple[list[PrefixKey], list[PrefixKey]]:
    """The prefixes that an entry's positive and negative states were taken at."""
    gold: list[PrefixKey] = [(entry.problem_id, "gold", 0, entry.m)] if entry.pos_source == "gold" else []
    right: list[PrefixKey] = [(entry.problem_id, "rollout", k, entry.m) for k in entry.positives]
    return [*gold, *right], [(entry.problem_id, "rollout", k, entry.m) for k in entry.negatives]


def plan_prefixes(
    entries: list[Entry], readings: list[Reading], problems: dict[str, Problem], prompts: dict[str, list[int]]
) -> list[Prefix]:
    """Every distinct prefix that the entries' states were taken at, in the entries' order.

    Args:
        readings: the sequences whose states were taken; each ends at its last wanted state.
        prompts: prompt ids by problem id.
    """
    ids = {(r.problem_id, r.source, r.k, m): r.ids[: at + 1] for r in readings for m, at in zip(r.ms, r.positions, strict=True)}
    prefixes: dict[PrefixKey, Prefix] = {}
    for entry in entries:
        for key in [key for side in prefix_keys(entry) for key in side]:
            prompt = prompts[entry.problem_id]
            prefixes[key] = Prefix(key, problems[entry.problem_id], prompt, ids[key][len(prompt) :])
    return list(prefixes.values())


def continuations(
    model: LoadedModel,
    prefixes: list[Prefix],
    config: RunConfig,
    grade: Grade,
    done: frozenset[tuple[PrefixKey, int]] = frozenset(),
) -> Iterator[Continuation]:
    """Sample ``config.mining.stability_rolls`` answers after each prefix, yielding each as it ends (in no fixed order).

    A continuation's tokens depend only on the run's seed, its prefix and its number. Its budget is what the prefix leaves of
    ``config.rollouts.max_new_tokens``; if nothing is left, the prefix itself is graded.

    Args:
        grade: grades an answer's text.
        done: (prefix, number) of continuations that exist already.
    """
    asked: dict[Ending, tuple[Prefix, int]] = {}
    missing = [(prefix, roll) for prefix in prefixes for roll in range(config.mining.stability_rolls) if (prefix.key, roll) not in done]
    most = config.rollouts.max_new_tokens
    for prefix, roll in missing:
        if len(prefix.given) >= most:
            yield _settled(model, prefix, roll, [], "length", grade)

    def endings() -> Iterator[Ending]:
        for prefix, roll in missing:
            if len(prefix.given) < most:
                ending = ending_of(model, config, ("stability", *prefix.key, roll), prefix.prompt_ids, prefix.given)
                asked[ending] = prefix, roll
                yield ending

    for ending in sample_endings(model, endings(), config):
        yield _settled(model, *asked.pop(ending), ending.strand.ids, ending.strand.finish or "length", grade)


def shares(entries: list[Entry], rolled: list[Continuation]) -> dict[str, Shares]:
    """Share of right continuations on each side of a corrective entry, by entry id; entries with a side never continued are left out."""
    outcomes: dict[PrefixKey, list[bool]] = {}
    for continuation in rolled:
        outcomes.setdefault(prefix_key_of(continuation), []).append(continuation.verdict.correct)
    by_entry: dict[str, Shares] = {}
    for entry in entries:
        positive, negative = ([correct for key in side for correct in outcomes.get(key, [])] for side in prefix_keys(entry))
        if entry.kind == "corrective" and positive and negative:
            by_entry[entry.id] = Shares(sum(positive) / len(positive), sum(negative) / len(negative))
    return by_entry


def prefix_key_of(continuation: Continuation) -> PrefixKey:
    """The prefix that a continuation was sampled from."""
    return continuation.problem_id, continuation.source, continuation.k, continuation.m


def _settled(model: LoadedModel, prefix: Prefix, roll: int, ids: list[int], finish: Finish, grade: Grade) -> Continuation:
    problem_id, source, k, m = prefix.key
    whole = [*prefix.given, *ids]
    text = model.text(whole)
    verdict = grade(prefix.problem, graded_part(text, model.thinking(prefix.prompt_ids, whole, text)))
    return Continuation(
        problem_id=problem_id, source=source, k=k, m=m, roll=roll, n_tokens=len(ids), finish=finish, text=text, verdict=verdict
    )
