"""The study ``own`` on the tiny model: which states it takes, what its arms inject, and what its figures allow to say."""

# pyright: reportOptionalMemberAccess=false
# (what is None where a test expects something raises there, and the test fails as it should)

import pytest
import torch

from stir_core.errors import ConfigError, StoreError
from stir_core.evaluate import continuations
from stir_core.evaluate.causal import measure
from stir_core.evaluate.causal_text import causal_markdown
from stir_core.evaluate.continuations import SCREEN_ARM
from stir_core.evaluate.effects import (
    ANOTHER,
    NULL_ARM,
    OWN,
    PLANTED,
    RANDOM_ARM,
    RETRIEVED,
    SHUFFLED,
    arm_at,
    by_arm,
    own_verdict,
)
from stir_core.evaluate.own import SCREENED
from stir_core.findings import ArmEffect, Estimate
from stir_core.intervene.jobs import NULL
from stir_core.requests import CausalRequest
from stir_core.store.causal import CausalFolder

ARMS = {NULL_ARM, OWN, RETRIEVED, ANOTHER, SHUFFLED, RANDOM_ARM}


def own(run, model, **asked):
    told = []
    request = CausalRequest(**{"study": "own", "n": 6, "rolls": 3, "rows": 8, **asked})
    report, path = measure(run, model, request, command="stir causal --study own", environment={}, say=told.append)
    return report, path, told


@pytest.fixture
def jobs(monkeypatch):
    """Every continuation that is decoded, in order."""
    seen, steer = [], continuations.steer
    monkeypatch.setattr(continuations, "steer", lambda model, jobs, settings: seen.extend(jobs) or steer(model, jobs, settings))
    return seen


def test_arms_differ_by_their_impulse_alone(run, tiny_loaded, jobs):
    report, path, _ = own(run, tiny_loaded)
    entries = {(entry.problem_id, entry.m): entry for entry in run.entries() if entry.kind == "corrective" and entry.layer == 2}
    rollouts = {(rollout.problem_id, rollout.k): rollout for rollout in run.rollouts()}
    actions = run.action_rows()
    rolls = by_arm(CausalFolder(run, "own").rolls())
    states = {state for state, arm in rolls if arm == NULL_ARM}
    assert path == run.path / "causal-own" and report.states == len(states) > 1 and not (path / "advantages.jsonl").exists()
    assert all(roll.alpha > 0 for (_, arm), group in rolls.items() for roll in group.values() if arm in (OWN, RANDOM_ARM))
    assert {arm for state, arm in rolls if state in states} == ARMS | {SCREEN_ARM}
    for problem_id, m, k in states:
        entry, rollout = entries[problem_id, m], rollouts[problem_id, k]
        possible = {arm for state, arm in rolls if state == (problem_id, m, k)} - {SCREEN_ARM}
        assert possible >= {NULL_ARM, OWN, RANDOM_ARM}  # where no other problem has an entry, none is retrieved
        for rep in range(3):
            arms = [job for job in jobs if job.id == f"{problem_id}@{m}#{k}~{rep}"]  # all arms draw from the same streams
            assert len(arms) == len(possible) and {job.given for job in arms} == {rollout.token_ids[: rollout.boundaries[m - 1]]}
            forced = {job.force(m).label: job.force(m) for job in arms}
            assert all(job.force(at) == NULL for job in arms for at in range(6) if at != m)
            for arm in forced.keys() - {None}:
                assert forced[arm].layer == 2 and forced[arm].alpha == run.config.gate.k_scale * run.config.gate.beta
            vector = entry.quality * torch.tensor(actions[entry.action_row])
            assert torch.allclose(forced[OWN].vector, vector)
            assert float(forced[RANDOM_ARM].vector.norm()) == pytest.approx(float(vector.norm()), rel=1e-5)
            foreign = [other for other in entries.values() if other.m == m and other.problem_id != problem_id]
            for arm in {RETRIEVED, ANOTHER} & forced.keys():
                assert any(torch.allclose(forced[arm].vector, other.quality * torch.tensor(actions[other.action_row])) for other in foreign)
    noise = {tuple(job.force(int(job.id.split("@")[1].split("#")[0])).vector.tolist()) for job in jobs if _label(job) == RANDOM_ARM}
    assert len(noise) == 3 * len(states)  # drawn anew for each repetition


def _label(job):
    return job.force(int(job.id.split("@")[1].split("#")[0])).label


def test_states_are_those_whose_vanilla_rerolls_are_mixed(run, tiny_loaded, jobs, monkeypatch):
    monkeypatch.setattr("stir_core.evaluate.own.SCREENED", 2)  # of eight flips of the grader's coin, nearly all would be mixed
    report, *_ = own(run, tiny_loaded)
    rolls = by_arm(CausalFolder(run, "own").rolls())
    screened = {state: [roll.correct for roll in group.values()] for (state, arm), group in rolls.items() if arm == SCREEN_ARM}
    assert report.screened == len(screened) > report.states > 0 and {len(group) for group in screened.values()} == {2}
    assert {state for state, arm in rolls if arm == OWN} == {state for state, right in screened.items() if sum(right) == 1}
    names = [job.id for job in jobs]
    screens = {name for name in names if "~screen" in name}
    assert len(screens) == 2 * len(screened) and not any(_label(job) for job in jobs if job.id in screens)
    assert names.index(next(name for name in names if name not in screens)) >= len(screens)  # the arms come after it


def test_a_state_is_rerolled_until_both_outcomes_are_seen(run, tiny_loaded):
    own(run, tiny_loaded, rolls=1)
    rolls = by_arm(CausalFolder(run, "own").rolls())
    lengths = {len(group) for (_, arm), group in rolls.items() if arm == SCREEN_ARM}
    assert lengths <= {2, 4, SCREENED} and 2 in lengths and len(lengths) > 1
    for (_, arm), group in rolls.items():
        if arm == SCREEN_ARM and len(group) > 2:
            assert len({group[rep].correct for rep in range(len(group) // 2)}) == 1


def test_size_and_power_are_said_before_anything_is_decoded(run, tiny_loaded, monkeypatch):
    told = []

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(continuations, "steer", stop)
    request = CausalRequest(study="own", n=6, rolls=3)
    with pytest.raises(KeyboardInterrupt):
        measure(run, tiny_loaded, request, command=None, environment={}, say=told.append)
    assert len(told) == 1 and "up to 8 vanilla re-rolls each" in told[0] and "6 arms x 3 continuations" in told[0]
    assert "too few problems for a test" in told[0]


def test_it_goes_on_where_it_stopped_and_may_grow(run, tiny_loaded):
    report, path, told = own(run, tiny_loaded, states=1)
    before = (path / "rolls.jsonl").read_bytes()
    assert report.states == report.planned == 1 and told[1].startswith("Undecided: 1 states of 1 problems")
    again, path, _ = own(run, tiny_loaded)
    assert again.states > 1 and (path / "rolls.jsonl").read_bytes().startswith(before)
    rolls = CausalFolder(run, "own").rolls()
    assert len({(roll.state, roll.arm, roll.rep) for roll in rolls}) == len(rolls)
    fresh, *_ = own(run, tiny_loaded, fresh=True)
    assert (fresh.effects, fresh.verdict) == (again.effects, again.verdict)
    assert not CausalFolder(run).begun  # the other study has a folder of its own
    with pytest.raises(StoreError, match="n = 6, not 5: add --fresh"):
        own(run, tiny_loaded, n=5)
    with pytest.raises(ConfigError, match="--split eval: the study own takes the problems that were mined"):
        own(run, tiny_loaded, split="eval")


def test_further_layers_add_arms_and_change_nothing_else(run, tiny_loaded, jobs):
    before, path, _ = own(run, tiny_loaded)
    kept, decoded = (path / "rolls.jsonl").read_bytes(), len(jobs)
    report, _, told = own(run, tiny_loaded, layers=(1, 1))
    assert (path / "rolls.jsonl").read_bytes().startswith(kept) and "8 arms x 3 continuations" in told[0]
    assert report.spec.layers == (1,) and report.effects[: len(before.effects)] == before.effects
    mine, noise = arm_at(OWN, 1), arm_at(RANDOM_ARM, 1)
    assert [(each.arm, each.against) for each in report.effects[len(before.effects) :]] == [
        (mine, NULL_ARM),
        (noise, NULL_ARM),
        (mine, noise),
    ]
    entries = {(entry.problem_id, entry.m): entry for entry in run.entries() if entry.kind == "corrective" and entry.layer == 1}
    actions, new = run.action_rows(), jobs[decoded:]
    assert {_label(job) for job in new} == {mine, noise} and len(new) == 2 * 3 * report.states
    for job in new:
        problem_id, m = job.id.split("@")[0], int(job.id.split("@")[1].split("#")[0])
        forced, entry = job.force(m), entries[problem_id, m]
        vector = entry.quality * torch.tensor(actions[entry.action_row])
        assert forced.layer == 1 and float(forced.vector.norm()) == pytest.approx(float(vector.norm()), rel=1e-5)
        assert _label(job) == noise or torch.allclose(forced.vector, vector)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layers": (2,)}, "--layers 2: the study injects there anyway"),
        ({"layers": (0,)}, "--layers 0: no action was mined there, but at 1, 2"),
        ({"layers": (1,), "study": "gate"}, "--layers 1: only the study own asks for layers"),
    ],
)
def test_layers_without_actions_are_refused(run, tiny_loaded, asked, message):
    with pytest.raises(ConfigError, match=message):
        own(run, tiny_loaded, **asked)


def test_the_report_says_what_an_own_action_is(run, tiny_loaded):
    report, path, _ = own(run, tiny_loaded)
    text = (path / "report.md").read_text()
    assert text == causal_markdown(report) and f"**{report.outcome}.** {report.verdict}" in text
    assert "mined from the same problem" in text and "80 % power" not in text and "too few problems for a test" in text
    assert (report.outcome, report.detectable) == ("cannot tell", None)  # six problems
    assert report.layer == 2 and f", at layer 2 of {report.spec.model.n_layers}." in text
    assert [effect.arm for effect in report.effects if effect.against == NULL_ARM] == [OWN, RETRIEVED, ANOTHER, SHUFFLED, RANDOM_ARM]
    for effect in report.effects:
        assert effect.accuracy.value - effect.accuracy_against.value == pytest.approx(effect.advantage.value)


def effect(arm, value, half=0.05, p=None, against=NULL_ARM):
    """An effect with a symmetric interval; p follows from it, if it is not given."""
    p = (0.001 if abs(value) > half else 0.5) if p is None else p
    return ArmEffect(
        arm=arm,
        against=against,
        advantage=Estimate(value=value, low=value - half, high=value + half),
        tokens=Estimate(value=0),
        states=20,
        problems=12,
        pairs=160,
        won=1,
        lost=1,
        p=p,
        p_holm=p if against == NULL_ARM else None,
    )


HELPS = [effect(OWN, 0.2), effect(OWN, 0.2, against=RANDOM_ARM), effect(OWN, 0.2, against=SHUFFLED)]


@pytest.mark.parametrize(
    ("effects", "outcome", "words"),
    [
        ([], "cannot tell", "of 0 problems"),
        ([effect(OWN, 0.4).replaced(p_holm=None, problems=5)], "cannot tell", "of 5 problems, and an interval takes at least 8"),
        ([effect(OWN, 0.01)], "mechanism empty", "A gain of 10 points is excluded, at this layer and strength"),
        ([effect(OWN, -0.3)], "mechanism empty", "A problem's own action harms: -30.0 points"),
        ([effect(OWN, 0.06, 0.08)], "cannot tell", "A gain of 10 points is not excluded"),
        ([effect(OWN, 0.01), effect(PLANTED, 0.3)], "mining at fault", "planted direction of the same norm does help: +30.0 points"),
        ([effect(OWN, 0.01), effect(ANOTHER, 0.3)], "cannot tell", "the other problem's action did"),
        (
            [effect(OWN, 0.01), effect(arm_at(RANDOM_ARM, 5), 0.3)],
            "cannot tell",
            "But an impulse can help here: noise of its norm at layer 5 did",
        ),
        ([effect(OWN, 0.01), effect(PLANTED, 0.01)], "mechanism empty", "excluded"),
        ([HELPS[0], effect(OWN, 0.01, against=RANDOM_ARM), HELPS[2]], "cannot tell", "not seen to do better than noise of its norm"),
        ([*HELPS[:2], effect(OWN, 0.01, against=SHUFFLED)], "cannot tell", "the same action from shuffled labels"),
        (HELPS, "cannot tell", "tried on too few problems"),
        ([*HELPS, effect(RETRIEVED, 0.15), effect(RETRIEVED, 0.1, against=RANDOM_ARM)], "works", "+15.0 points [+10.0, +20.0]"),
        ([*HELPS, effect(RETRIEVED, 0.15), effect(RETRIEVED, 0.0, against=RANDOM_ARM)], "cannot tell", "is open"),
        ([*HELPS, effect(RETRIEVED, 0.0), effect(OWN, 0.2, against=RETRIEVED)], "retrieval at fault", "does worse than that (+0.0 points"),
        ([*HELPS, effect(RETRIEVED, 0.0), effect(OWN, 0.2, 0.3, against=RETRIEVED)], "cannot tell", "is open"),
    ],
)
def test_the_verdict_says_no_more_than_its_figures(effects, outcome, words):
    found, sentence = own_verdict(effects)
    assert found == outcome and words in sentence
