"""Continuations: named, independent of the batch, never done twice, and graded whole."""

import pytest

from stir_core.config import MiningConfig, RolloutConfig, RunConfig
from stir_core.harvest.rollouts import sample_rollouts
from stir_core.harvest.stability import Prefix, continuations, plan_prefixes, prefix_key_of, shares
from stir_core.harvest.states import plan_readings
from stir_core.models import passes
from stir_core.records import Continuation, Problem, Verdict
from tests.builders import make_entry, make_pair

PROMPT = [5, 9, 40]
PROBLEM = Problem(id="p", task="t", split="train", question="?", answer="1", kind="number", solution="one plus one\nmakes three, then more")
CONFIG = RunConfig(
    delimiter="e",
    rollouts=RolloutConfig(k=4, max_new_tokens=30, temperature=1.0),
    mining=MiningConfig(control_points=3, stability_rolls=3),
)


def grade(problem: Problem, text: str) -> Verdict:
    right = len(text) % 2 == 0
    return Verdict(correct=right, extracted="1", gold="1", method="m", reason="r", finished=True)


@pytest.fixture(scope="module")
def prefixes(tiny) -> list[Prefix]:
    rollouts = [s.rollout for s in sample_rollouts(tiny, [(PROBLEM, PROMPT)], CONFIG, grade)]
    first, second, *_ = sorted((r for r in rollouts if len(r.boundaries) >= 2), key=lambda r: r.k)
    pairs = [make_pair(m, (first.k,), (second.k,)) for m in (1, 2)]
    readings = plan_readings(tiny, [PROBLEM], rollouts, pairs, CONFIG, {"p": PROMPT})
    entries = [make_entry(f"p000{m}c", m, layer, positives=(first.k,), negatives=(second.k,)) for m in (1, 2) for layer in (0, 1)]
    found = plan_prefixes(entries, readings, {"p": PROBLEM}, {"p": PROMPT})
    for prefix in found:
        _, _, k, m = prefix.key
        rollout = next(r for r in rollouts if r.k == k)
        assert prefix.given == list(rollout.token_ids[: rollout.boundaries[m - 1]])
    return found


def rolled(model, prefixes, config=CONFIG, done=frozenset()) -> dict[tuple, Continuation]:
    found = list(continuations(model, prefixes, config, grade, done))
    assert len({(prefix_key_of(each), each.roll) for each in found}) == len(found)
    return {(prefix_key_of(each), each.roll): each for each in found}


@pytest.fixture(scope="module")
def plain(tiny, prefixes):
    return rolled(tiny, prefixes)


def test_each_distinct_prefix_is_rolled_once(tiny, prefixes, plain):
    assert len(prefixes) == 4, "two layers share the prefixes of two control points"
    assert set(plain) == {(prefix.key, roll) for prefix in prefixes for roll in range(3)}
    for prefix in prefixes:
        texts = [plain[prefix.key, roll].text for roll in range(3)]
        assert all(text.startswith(tiny.text(prefix.given)[:-1]) for text in texts) and len(set(texts)) > 1
        for roll in range(3):
            each = plain[prefix.key, roll]
            assert 1 <= each.n_tokens <= 30 - len(prefix.given)
            assert each.verdict == grade(PROBLEM, each.text)
            assert each.finish == "stop" or each.n_tokens == 30 - len(prefix.given)


@pytest.mark.parametrize("change", [{"batch_rows": 1}, {"batch_rows": 5}, {"cache_tokens": 150}])
def test_batch_and_memory_change_nothing(tiny, prefixes, plain, change):
    config = CONFIG.model_copy(update={"rollouts": CONFIG.rollouts.model_copy(update=change)})
    assert rolled(tiny, prefixes, config) == plain
    assert rolled(tiny, prefixes[::-1], config) == plain


def test_existing_continuations_are_not_sampled_again(tiny, prefixes, plain):
    done = frozenset(list(plain)[:5])
    rest = rolled(tiny, prefixes, done=done)
    assert rest == {key: each for key, each in plain.items() if key not in done}


def test_a_prefix_is_read_once_for_its_continuations(tiny, prefixes, monkeypatch):
    fed = []
    monkeypatch.setattr(
        "stir_core.models.scheduler.forward",
        lambda model, feeds, layers: (fed.append([f.ids for f in feeds]), passes.forward(model, feeds, layers))[1],
    )
    rolled(tiny, prefixes)
    assert sorted(fed[0]) == sorted([*PROMPT, *prefix.given] for prefix in prefixes)


def test_where_the_budget_is_used_up_the_prefix_itself_is_graded(tiny, prefixes):
    config = CONFIG.model_copy(update={"rollouts": CONFIG.rollouts.model_copy(update={"max_new_tokens": len(prefixes[0].given)})})
    found = [each for each in rolled(tiny, prefixes[:1], config).values()]
    assert [(each.n_tokens, each.finish, each.text) for each in found] == [(0, "length", tiny.text(prefixes[0].given))] * 3


def test_gold_solutions_have_prefixes_too(tiny):
    config = CONFIG.model_copy(update={"mining": MiningConfig(pos_source="gold", stability_rolls=1)})
    rollouts = [s.rollout for s in sample_rollouts(tiny, [(PROBLEM, PROMPT)], config, grade)]
    wrong = next(r for r in rollouts if r.boundaries)
    pair = make_pair(1, (), (wrong.k,), gold=True)
    readings = plan_readings(tiny, [PROBLEM], rollouts, [pair], config, {"p": PROMPT})
    entry = make_entry("p0000c", 1, positives=(), negatives=(wrong.k,), pos_source="gold")
    gold, _ = plan_prefixes([entry], readings, {"p": PROBLEM}, {"p": PROMPT})
    assert (
        gold.key == ("p", "gold", 0, 1)
        and tiny.text(gold.given).endswith("e")
        and (PROBLEM.solution or "").startswith(tiny.text(gold.given))
    )


def test_shares_are_counted_over_each_side():
    def roll(k: int, number: int, right: bool) -> Continuation:
        verdict = Verdict(correct=right, extracted="1", gold="1", method="m", reason="r", finished=True)
        return Continuation(problem_id="p", source="rollout", k=k, m=1, roll=number, n_tokens=3, finish="stop", text="x", verdict=verdict)

    made = [roll(0, 0, True), roll(0, 1, False), roll(1, 0, True), roll(1, 1, True), roll(2, 0, False), roll(2, 1, False)]
    entries = [
        make_entry("p0000c", 1, positives=(0, 1), negatives=(2,)),
        make_entry("p0000n", 1, kind="null", positives=(0, 1), negatives=(2,)),
        make_entry("p0001c", 2, positives=(0,), negatives=(2,)),
    ]
    assert shares(entries, made) == {"p0000c": (0.75, 0.0)}
