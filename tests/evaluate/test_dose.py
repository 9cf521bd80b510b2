"""Reading a dose-response, and finding where an action can be tried."""

import math

import pytest

from stir_core.errors import DataError
from stir_core.evaluate.dose import degenerates_at, meters, strength_for
from stir_core.evaluate.spots import held_out_spots, source_spots, spot_named
from stir_core.records import Decision, Reason, Retrieved, Rollout, StepEvidence, StepTrace, Trace, Verdict
from stir_core.responses import Dose
from tests.builders import make_entry

FRESH, LOOP = tuple(range(20)), (1, 2, 3) * 7


def dose(alpha: float, kl: float, ids: tuple[int, ...] = FRESH, logprob: float | None = -0.5) -> Dose:
    return Dose(alpha=alpha, fraction=alpha, kl=kl, kl_following=None, token_ids=ids, text="text", unsteered_logprob=logprob)


def test_strength_is_read_between_two_doses_and_never_beyond_them() -> None:
    square = [dose(alpha, 0.3 * alpha**2) for alpha in (0.0, 0.5, 1.0, 2.0)]
    assert strength_for(square, 0.1) == pytest.approx(math.sqrt(0.1 / 0.3))  # exact for any power of the strength
    assert strength_for(square, 1.2) == pytest.approx(2.0)
    assert strength_for(square, 1.21) is None
    assert strength_for([dose(0.0, 0.0)], 0.1) is None
    assert strength_for([dose(0.0, 0.0), dose(2.0, 0.4)], 0.1) == pytest.approx(0.5)  # a plain line from 0
    dip = [dose(0.0, 0.0), dose(1.0, 0.6), dose(2.0, 0.2), dose(4.0, 0.9)]
    assert strength_for(dip, 0.5) == pytest.approx(1.0 * 0.5 / 0.6)  # the first crossing of a curve that is not monotone


def test_degeneration_is_repeating_or_strange_and_lasts_to_the_end() -> None:
    unsteered, loops, far = dose(0.0, 0.0), dose(1.0, 1.0, LOOP), dose(2.0, 2.0, logprob=-3.6)
    assert meters(unsteered, unsteered).why is None
    assert "token 3-grams are repeated" in (meters(loops, unsteered).why or "")
    assert "3.1 nats per token less likely" in (meters(far, unsteered).why or "")
    assert meters(loops, dose(0.0, 0.0, LOOP)).why is None  # it repeats itself without an impulse as well
    assert meters(dose(1.0, 1.0, logprob=None), unsteered).gap is None
    assert degenerates_at([unsteered, loops, far]) == 1.0
    assert degenerates_at([unsteered, loops, dose(2.0, 2.0), far.model_copy(update={"alpha": 4.0})]) == 4.0
    assert degenerates_at([unsteered, loops, dose(2.0, 2.0)]) is None


def a_trace(name: str, fired: str | None, sim: float) -> Trace:
    seen = (Retrieved(entry_id="p0001c", kind="corrective", layer=0, sim=sim, quality=1.0, value=sim),)
    steps = (
        StepTrace(
            step=1,
            evidence=StepEvidence(m=0, position=1),
            decision=Decision(chosen=None, alpha=0, score_null=None, reason=Reason(kind="start")),
            token_ids=(7, 8),
            text="",
            logprobs=(0.0, 0.0),
            probe_tokens=0,
        ),
        StepTrace(
            step=2,
            evidence=StepEvidence(m=1, position=3, retrieved=seen),
            decision=Decision(chosen=fired, alpha=0.4 if fired else 0.0, score_null=0.0, reason=Reason(kind="forced")),
            token_ids=(9,),
            text="",
            logprobs=(0.0,),
            probe_tokens=0,
        ),
    )
    return Trace(
        id=name,
        variant="stir",
        prompt_ids=(1, 2),
        steps=steps,
        token_ids=(7, 8, 9),
        text="",
        finish="stop",
        tokens_used=3,
        probe_tokens=0,
        forward_tokens=5,
    )


def test_held_out_places_are_where_it_was_retrieved_fired_ones_first() -> None:
    spots = held_out_spots(make_entry("p0001c", 1), [a_trace("a", None, 0.9), a_trace("b", "p0001c", 0.5), a_trace("c", "p0009c", 0.7)])
    assert [(spot.name, spot.alpha, spot.sim) for spot in spots] == [("b:1", 0.4, 0.5), ("a:1", None, 0.9), ("c:1", None, 0.7)]
    assert (spots[0].prompt_ids, spots[0].given, spots[0].following) == ((1, 2), (7, 8), (9,))
    assert len(spots[0].prompt_ids) + len(spots[0].given) - 1 == 3  # the recorded position of the control point
    assert held_out_spots(make_entry("p0002c", 1), [a_trace("a", None, 0.9)]) == []
    assert spot_named(spots, "a:1", make_entry("p0001c", 1)) is spots[1]
    with pytest.raises(DataError, match='"a:2" is not a place for p0001c: take one such as b:1, a:1'):
        spot_named(spots, "a:2", make_entry("p0001c", 1))
    with pytest.raises(DataError, match="choose another action"):
        spot_named([], None, make_entry("p0001c", 1))


def test_source_places_are_cut_at_the_boundaries_wrong_answers_first() -> None:
    def rollout(k: int, ends: tuple[int, ...]) -> Rollout:
        verdict = Verdict(correct=k == 0, extracted=None, gold="", method="", reason="", finished=True)
        facts = {"seed": 0, "text": "", "finish": "stop", "mean_logprob": None, "reward": 0.0, "verdict": verdict}
        return Rollout(problem_id="p", k=k, prompt_ids=(1,), token_ids=(5, 6, 7, 8), boundaries=ends, **facts)

    rollouts = {("p", 0): rollout(0, (1, 3)), ("p", 1): rollout(1, (2,)), ("p", 2): rollout(2, ())}
    entry = make_entry("p0001c", 1, positives=(0,), negatives=(1, 2, 3))
    wrong, right = source_spots(entry, rollouts)
    assert (wrong.name, wrong.correct, wrong.given, wrong.following) == ("p#1:1", False, (5, 6), (7, 8))
    assert (right.name, right.correct, right.given, right.following) == ("p#0:1", True, (5,), (6, 7))
