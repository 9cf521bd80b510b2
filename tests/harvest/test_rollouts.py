"""Sampling: tokens depend on names alone, states are captured on the way, and memory stays within what is allowed."""

import gc

import pytest
import torch

from stir_core.config import MiningConfig, RolloutConfig, RunConfig
from stir_core.harvest.rollouts import Ending, Sampled, Waiting, sample_rollouts
from stir_core.models.cache import Store
from stir_core.records import Problem, Verdict
from stir_core.tasks.grading import AHEAD
from tests.builders import prefill

PROBLEMS = [
    (Problem(id=f"p{i}", task="t", split="train", question="?", answer="1", kind="number"), [5 + i, 9, 40 + 3 * i]) for i in range(4)
]
LAYERS = (1, 3)


def config(**rollouts) -> RunConfig:
    settings = RolloutConfig(**{"k": 3, "max_new_tokens": 40, "temperature": 1.0, "batch_rows": 32} | rollouts)
    return RunConfig(delimiter="e", rollouts=settings, mining=MiningConfig(control_points=3))


def grade(problem: Problem, text: str) -> Verdict:
    return Verdict(correct=False, extracted=None, gold="1", method="m", reason="r", finished=True)


def sampled(model, settings: RunConfig, layers=(), done=frozenset()) -> dict[tuple[str, int], Sampled]:
    found = list(sample_rollouts(model, PROBLEMS, settings, grade, done, layers))
    assert len({(s.rollout.problem_id, s.rollout.k) for s in found}) == len(found)
    return {(s.rollout.problem_id, s.rollout.k): s for s in found}


@pytest.fixture(scope="module")
def plain(tiny):
    return sampled(tiny, config(), LAYERS)


def test_states_are_those_of_full_prefills(tiny, plain):
    seen = 0
    for each in plain.values():
        rollout = each.rollout
        ends = rollout.boundaries[:3]
        assert all(len(each.states[layer]) == len(ends) for layer in LAYERS) if ends else each.states == {}
        for i, end in enumerate(ends):
            _, result = prefill(tiny, [[*rollout.prompt_ids, *rollout.token_ids[:end]]], LAYERS)
            for layer in LAYERS:
                torch.testing.assert_close(each.states[layer][i], result.states[0][layer][0], atol=1e-4, rtol=1e-4)
            seen += 1
    assert seen > 10


def test_a_boundary_at_the_very_end_is_captured_too(tiny, plain):
    """A budget that ends right after a boundary: the state there is still captured."""
    (_, first) = min((s.rollout.boundaries[0], s) for s in plain.values() if s.rollout.boundaries)
    end = first.rollout.boundaries[0]
    cut = sampled(tiny, config(max_new_tokens=end), LAYERS)[first.rollout.problem_id, first.rollout.k]
    assert cut.rollout.token_ids == first.rollout.token_ids[:end] and cut.rollout.boundaries == (end,)
    torch.testing.assert_close(cut.states[3], first.states[3][:1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("change", [{"batch_rows": 1}, {"batch_rows": 5}, {"cache_tokens": 300}, {"cache_tokens": 1}])
def test_batch_and_memory_change_nothing(tiny, plain, change, monkeypatch):
    places = []
    reserve = Store.reserve
    monkeypatch.setattr(Store, "reserve", lambda self, columns: (reserve(self, columns), places.append(len(self.rows) * self.columns))[0])
    other = sampled(tiny, config(**change), LAYERS)
    assert other.keys() == plain.keys()
    for name, each in other.items():
        assert each.rollout.token_ids == plain[name].rollout.token_ids
        for layer in each.states:
            torch.testing.assert_close(each.states[layer], plain[name].states[layer], atol=1e-4, rtol=1e-4)
    if "cache_tokens" in change:
        assert max(places) <= max(change["cache_tokens"], 64), "one row alone may always go on"


def test_a_batch_that_outgrows_its_memory_is_halved(tiny, plain, monkeypatch):
    """Rows that fit at first and no longer later: some wait, are read again, and end the same."""
    monkeypatch.setattr("stir_core.models.cache.GRAIN", 8)
    left = []
    gone = Waiting.gone
    monkeypatch.setattr(Waiting, "gone", lambda self, batch: (left.append(gone(self, batch)), left[-1])[1])
    monkeypatch.setattr(type(tiny), "new_store", lambda self, **_: Store(self.n_layers, columns=8))
    other = sampled(tiny, config(cache_tokens=160), LAYERS)
    assert any(left), "no rollout had to wait"
    assert {name: s.rollout.token_ids for name, s in other.items()} == {name: s.rollout.token_ids for name, s in plain.items()}


def test_memory_does_not_grow_with_the_number_of_rollouts(tiny):
    """Only endings that are live, or next, or wait for their grades, exist; each has a random stream, its tokens and its states."""

    def held() -> int:
        gc.collect()
        return sum(isinstance(each, Ending) for each in gc.get_objects())

    before = held()  # what other tests of this process still hold
    found = [held() - before for _ in sample_rollouts(tiny, PROBLEMS, config(k=8, max_new_tokens=12, batch_rows=4), grade, layers=LAYERS)]
    assert len(found) == 32 and 0 < max(found) <= 4 + 2 + AHEAD + 1


def test_existing_rollouts_are_not_sampled_again(tiny, plain):
    done = frozenset(list(plain)[:7])
    rest = sampled(tiny, config(), LAYERS, done)
    assert rest.keys() == plain.keys() - done
    assert all(rest[name].rollout.token_ids == plain[name].rollout.token_ids for name in rest)
