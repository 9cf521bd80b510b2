"""Critical tokens on the tiny model: prefixes kept, rates counted, the fall found, nothing sampled twice."""

from math import log

import pytest

from stir_core.errors import DataError
from stir_core.evaluate import critical
from stir_core.evaluate.critical import answer_divergence, critical_tokens, critical_trace, piece_texts
from stir_core.findings import CriticalRoll
from stir_core.intervene.controller import run_all
from stir_core.intervene.jobs import Job, Settings
from stir_core.records import Problem, Trace, Verdict
from stir_core.requests import CriticalRequest
from stir_core.store.critical import CriticalFile
from tests.evaluate.conftest import Coin

PROBLEM = Problem(id="p", task="arithmetic", split="eval", question="?", answer="1", kind="number")


@pytest.fixture(autouse=True)
def coin_here(monkeypatch):
    monkeypatch.setattr(critical, "Grader", Coin)


@pytest.fixture
def wrong(tiny_loaded, run) -> Trace:
    config = run.config
    (trace,) = run_all(tiny_loaded, [Job("p", [5, 9, 40], config.gate)], Settings(config.decode, 4, "e"))
    verdict = Verdict(correct=False, extracted=None, gold="1", method="", reason="", finished=False)
    return trace.model_copy(update={"verdict": verdict})


def test_every_position_is_continued_from_its_own_prefix(run, tiny_loaded, wrong, monkeypatch):
    seen = []
    steer = critical.steer
    monkeypatch.setattr(critical, "steer", lambda model, jobs, settings: seen.extend(jobs) or steer(model, jobs, settings))
    found = critical_tokens(tiny_loaded, run.config, PROBLEM, wrong, CriticalFile(run, "vanilla", wrong), CriticalRequest(every=5, rolls=3))
    assert [point.position for point in found.points] == list(range(0, len(wrong.token_ids), 5))
    assert all(point.rolls == 3 for point in found.points)
    assert {job.given for job in seen} == {wrong.token_ids[:position] for position in range(0, len(wrong.token_ids), 5)}
    assert len({job.id for job in seen}) == len(seen) and all(job.memory is None for job in seen)
    assert CriticalFile(run, "vanilla", wrong).read() == found
    assert len(found.pieces) == len(found.points) and "".join(found.pieces) == tiny_loaded.text(wrong.token_ids)
    ends = [sum(len(step.token_ids) for step in wrong.steps[: i + 1]) for i in range(len(wrong.steps) - 1)]
    assert list(found.control_points) == list(wrong.step_ends) == ends


def test_more_continuations_add_to_those_that_are_there(run, tiny_loaded, wrong):
    file = CriticalFile(run, "vanilla", wrong)
    critical_tokens(tiny_loaded, run.config, PROBLEM, wrong, file, CriticalRequest(every=8, rolls=1))
    before = file.rolls()
    counts = []
    found = critical_tokens(tiny_loaded, run.config, PROBLEM, wrong, file, CriticalRequest(every=8, rolls=3), report=counts.append)
    assert file.rolls()[: len(before)] == before
    assert (counts[0].done, counts[0].total) == (len(before), 3 * len(found.points)) and counts[-1].done == counts[-1].total
    assert len({(roll.position, roll.rep) for roll in file.rolls()}) == len(file.rolls()) == 3 * len(found.points)


def test_the_largest_fall_is_where_it_was_lost(wrong):
    rights = {0: 7, 8: 8, 16: 2, 24: 1}
    rolls = [CriticalRoll(position=p, rep=r, correct=r < n, finished=True, tokens=3) for p, n in rights.items() for r in range(8)]
    found = critical_trace(PROBLEM, wrong, "vanilla", 8, rolls)
    assert (found.lost_at, found.fall) == (16, pytest.approx(6 / 8))
    assert [point.right for point in found.points] == list(rights.values())
    never = critical_trace(
        PROBLEM, wrong, "vanilla", 8, [CriticalRoll(position=p, rep=0, correct=True, finished=True, tokens=3) for p in (0, 8)]
    )
    assert (never.lost_at, never.fall) == (None, 0.0)


def test_pieces_join_to_the_text_and_tear_no_character():
    words = "a café, naïve".encode()  # one token per byte

    def text(ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")

    for every in (1, 2, 3, 5, 40):
        pieces = piece_texts(text, words, range(0, len(words), every))
        assert "".join(pieces) == "a café, naïve" and len(pieces) == -(-len(words) // every)
    assert piece_texts(text, words, range(0, len(words), 6)) == ("a caf", "é, na", "ïve")


def test_a_summary_from_before_pieces_were_kept_is_read(run, wrong):
    file = CriticalFile(run, "vanilla", wrong)
    found = critical_trace(PROBLEM, wrong, "vanilla", 8, [CriticalRoll(position=0, rep=0, correct=True, finished=True, tokens=3)])
    path = file.write(found)
    path.write_text(found.model_dump_json(exclude={"pieces"}) + "\n")
    path.with_name(f"{path.stem}.digests.json").unlink()  # nor were there digests then
    assert file.read() == found and found.pieces == ()


def test_a_right_answer_has_none(run, tiny_loaded, wrong):
    right = wrong.model_copy(update={"verdict": wrong.verdict.model_copy(update={"correct": True})})
    with pytest.raises(DataError, match="is not a wrong one"):
        critical_tokens(tiny_loaded, run.config, PROBLEM, right, CriticalFile(run, "vanilla", right), CriticalRequest())


def test_steps_are_continued_from_their_ends_and_tokens_keep_their_own_summary(run, tiny_loaded, wrong):
    file = CriticalFile(run, "vanilla", wrong)
    tokens = critical_tokens(tiny_loaded, run.config, PROBLEM, wrong, file, CriticalRequest(every=8, rolls=2))
    found = critical_tokens(tiny_loaded, run.config, PROBLEM, wrong, file, CriticalRequest(at="steps", rolls=2))
    assert len(wrong.steps) > 1 and [point.position for point in found.points] == [0, *wrong.step_ends]
    assert "".join(found.pieces) == tiny_loaded.text(wrong.token_ids)
    assert [each.text for each in found.steps] == [step.text for step in wrong.steps[:-1]]
    assert all(sum(each.before.values()) == sum(each.after.values()) == 2 for each in found.steps)
    assert (file.read(), file.read("steps")) == (tokens, found)
    assert len({(roll.position, roll.rep) for roll in file.rolls()}) == len(file.rolls())  # what both need is sampled once
    right = wrong.model_copy(update={"verdict": wrong.verdict.model_copy(update={"correct": True})})
    assert critical_tokens(tiny_loaded, run.config, PROBLEM, right, file, CriticalRequest(at="steps", rolls=2)).steps == found.steps


def test_an_answer_of_one_step_has_no_steps_to_compare(run, tiny_loaded, wrong):
    short = wrong.model_copy(update={"steps": wrong.steps[:1]})
    with pytest.raises(DataError, match="at least two"):
        critical_tokens(tiny_loaded, run.config, PROBLEM, short, CriticalFile(run, "vanilla", short), CriticalRequest(at="steps"))


def test_divergence_by_hand():
    """Two answers, (3, 1) before and (0, 4) after. All three on one side: 5 + 5 of 70 divisions."""
    kl, p = answer_divergence(["a", "a", "a", "b"], ["b"] * 4, seed=0)
    assert kl == pytest.approx(0.1 * log(0.1 / 0.7) + 0.9 * log(0.9 / 0.3))
    assert p == pytest.approx(1 / 7, abs=0.015)


def test_answers_that_do_not_change_or_never_repeat_decide_nothing():
    assert answer_divergence(["a"] * 8, ["a"] * 8, seed=0) == (0.0, 1.0)
    apart = [str(i) for i in range(16)]
    assert answer_divergence(apart[:8], apart[8:], seed=0)[1] == 1.0
    assert answer_divergence(["a"] * 8, ["b"] * 8, seed=0)[1] < 0.001
