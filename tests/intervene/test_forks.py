"""Branches that change a token, and those with a seed: the token that was there anyway gives the answer back, a seed its continuation."""

import numpy as np
import pytest

from stir_core.errors import DataError
from stir_core.intervene.branches import branch
from stir_core.intervene.changes import change_at, roll_name
from stir_core.intervene.controller import run_all, steer
from stir_core.intervene.jobs import Job
from stir_core.records import Trace, TraceEvent
from stir_core.requests import DENY, Change
from tests.intervene.test_branches import PERSISTENT, branches, commits, decisions, recorded
from tests.intervene.test_branches import sampled as drawn
from tests.intervene.test_controller import GATE, PROMPTS, make_memory, settings


@pytest.mark.parametrize("gate", [GATE, PERSISTENT], ids=["ephemeral", "persistent"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_token_that_was_there_gives_the_answer_id_for_id(tiny, gate, temperature):
    how = drawn(temperature)
    trace = recorded(tiny, gate, how)
    inside = {m for m in commits(trace) if len(trace.steps[m].token_ids) > 1}
    inside = [start + 1 for m, start in enumerate((0, *trace.step_ends)) if m in commits(trace) and len(trace.steps[m].token_ids) > 1]
    assert inside, "otherwise no fork lies within a steered step"
    places = sorted({0, *trace.step_ends, *inside, len(trace.token_ids) - 1})
    same = [change_at(trace, position, token=trace.token_ids[position]) for position in places]
    again = [change_at(trace, position) for position in inside]  # no token is put there: the model decodes it
    for found in branches(tiny, trace, *same, *again, gate=gate, how=how):
        assert found.token_ids == trace.token_ids
        assert [step.token_ids for step in found.steps] == [step.token_ids for step in trace.steps]
        assert decisions(found) == decisions(trace)
        assert (found.text, found.finish, found.given) == (trace.text, trace.finish, 0)


def test_another_token_stands_where_it_was_put_and_what_lies_before_is_kept(tiny):
    trace = recorded(tiny)
    others = {position: (trace.token_ids[position] + 1) % 200 for position in range(1, len(trace.token_ids), 4)}
    forks = [change_at(trace, position, token=token) for position, token in others.items() if token not in tiny.stop_ids]
    assert {change.m for change in forks} & set(commits(trace))
    for change, found in zip(forks, branches(tiny, trace, *forks), strict=True):
        assert change.position is not None
        assert found.token_ids[: change.position + 1] == (*trace.token_ids[: change.position], change.token)
        assert found.steps[: change.m] == trace.steps[: change.m]
        assert found.steps[change.m].decision == trace.steps[change.m].decision
    denied = [change.model_copy(update={"to": DENY, "then": "null"}) for change in forks]
    found = branches(tiny, trace, *denied)
    given = [
        (*trace.token_ids[:position], others[position]) for change in denied if (position := change.position) is not None
    ]  # read at once, and decoded on without a gate
    vanilla = run_all(tiny, [Job("a", PROMPTS["a"], GATE, given=ids) for ids in given], settings())
    assert [one.token_ids for one in found] == [other.token_ids for other in vanilla]
    assert all(set(commits(one)) <= set(range(change.m)) for change, one in zip(denied, found, strict=True))


def test_a_vanilla_answer_is_forked_as_a_steered_one(tiny):
    (vanilla,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE)], settings())
    same = [
        change_at(vanilla, position, token=vanilla.token_ids[position], then="null") for position in range(0, len(vanilla.token_ids), 5)
    ]
    assert {found.token_ids for found in branches(tiny, vanilla, *same)} == {vanilla.token_ids}


def test_rolls_with_seeds_are_those_of_the_critical_command_and_each_alone_is_the_one_among_others(tiny):
    trace, how = recorded(tiny), settings()
    warm = how.decode.model_copy(update={"temperature": 1.0, "top_p": 0.95})
    m = trace.steps[2].m
    kept = sum(len(step.token_ids) for step in trace.steps[:2])

    def rolled(*changes: Change) -> list[Trace]:
        events = branch(tiny, trace, changes, GATE, make_memory(), how, warm)
        found = {event.row: event.trace for event in events if isinstance(event, TraceEvent)}
        return [found[row] for row in range(len(changes))]

    for change in (Change(m=m), Change(m=m, to=DENY, then="null"), change_at(trace, kept + 1, token=7)):
        seeds = [change.model_copy(update={"seed": seed}) for seed in range(3)]
        together = rolled(*seeds)
        assert len({found.token_ids for found in together}) > 1
        assert [found.token_ids for found in together] == [rolled(each)[0].token_ids for each in seeds]
        for found in together:
            assert found.steps[:2] == trace.steps[:2]
    unsteered = rolled(*(Change(m=m, to=DENY, then="null", seed=seed) for seed in range(4)))
    jobs = [Job(roll_name("a", kept, seed), PROMPTS["a"], GATE, given=trace.token_ids[:kept]) for seed in range(4)]
    critical = {event.row: event.trace for event in steer(tiny, jobs, how._replace(decode=warm)) if isinstance(event, TraceEvent)}
    assert [found.token_ids for found in unsteered] == [critical[row].token_ids for row in range(4)]


def test_a_roll_is_forked_like_any_answer(tiny):
    trace = recorded(tiny)
    warm = drawn(1.0)
    events = branch(tiny, trace, [Change(m=1, seed=3)], GATE, make_memory(), settings()._replace(seed=3), warm.decode)
    (roll,) = [event.trace for event in events if isinstance(event, TraceEvent)]
    rng = np.random.default_rng(0)
    places = sorted(rng.choice(range(len(trace.steps[0].token_ids), len(roll.token_ids)), 3, replace=False).tolist())
    same = [change_at(roll, place, token=roll.token_ids[place]) for place in places]
    for found in branches(tiny, roll, *same, how=warm):
        assert found.token_ids == roll.token_ids and found.id == roll.id


def test_refusals_of_forks_name_the_value_and_the_remedy(tiny):
    trace = recorded(tiny)
    with pytest.raises(DataError, match=f"no token 1000: take 1 to {len(trace.token_ids)}"):
        change_at(trace, 999)
    for change, words in (
        (Change(m=0, position=len(trace.steps[0].token_ids)), "is not in the step after control point 0, which has tokens 1 to"),
        (Change(m=0, token=3), "token id 3 has no place"),
        (Change(m=0, position=0, token=10**9), "not in the vocabulary: take 0 to"),
    ):
        with pytest.raises(DataError, match=words):
            branches(tiny, trace, change)
