"""States at control points equal the plain model's residual stream, and actions are differences of their means."""

import copy

import numpy as np
import pytest
import torch

from stir_core.config import MiningConfig, RunConfig
from stir_core.harvest.actions import mine
from stir_core.harvest.states import capture_states, plan_readings
from stir_core.records import Problem, Rollout, StateRow, Verdict
from stir_core.tasks.segment import boundaries
from tests.builders import make_pair

CONFIG = RunConfig(delimiter="e")
PROMPT = [5, 9, 40]


def rollout(model, k: int, ids: list[int]) -> Rollout:
    verdict = Verdict(correct=k == 0, extracted="1", gold="1", method="m", reason="r", finished=True)
    return Rollout(
        problem_id="p", k=k, seed=0, prompt_ids=tuple(PROMPT), token_ids=tuple(ids), text=model.text(ids), finish="stop",
        boundaries=boundaries(ids, model.text, "e"), mean_logprob=None, verdict=verdict, reward=float(k == 0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def rollouts(tiny):
    rng = np.random.default_rng(0)
    return [rollout(tiny, k, [int(i) for i in rng.integers(2, 300, 60)]) for k in range(3)]


PROBLEM = Problem(id="p", task="t", split="train", question="?", answer="1", kind="number", solution="one plus one\nmakes three, then more")


@pytest.mark.parametrize("compat", [False, True])
def test_states_are_the_plain_models(llama_pair, rollouts, compat):
    model, hf = llama_pair[0], copy.deepcopy(llama_pair[1])  # its own: asked for hidden states, transformers leaves hooks on a model
    pairs = [make_pair(m, (0,), (1, 2)) for m in (1, 2)]
    assert all(len(r.boundaries) >= 2 for r in rollouts)
    config = CONFIG.model_copy(update={"compat": compat})
    readings = plan_readings(model, [PROBLEM], rollouts, pairs, config, {"p": PROMPT})
    seen = 0
    for reading, by_layer in capture_states(model, readings, (1, 2), batch_tokens=100):
        for i, (m, position) in enumerate(zip(reading.ms, reading.positions, strict=True)):
            source = rollouts[reading.k]
            if compat:
                text = "".join(part + "e" for part in source.text.split("e")[:m])
                prefix = model.tokens(model.prompt_text(PROMPT) + text)
            else:
                prefix = [*PROMPT, *source.token_ids[: source.boundaries[m - 1]]]
            assert position == len(prefix) - 1
            with torch.inference_mode():
                hidden = hf(torch.tensor([prefix]), output_hidden_states=True).hidden_states
            for layer in (1, 2):  # hidden_states[i] is the input of block i
                torch.testing.assert_close(by_layer[layer][i], hidden[layer + 1][0, -1], atol=1e-4, rtol=1e-4)
            seen += 1
    assert seen == 6


def test_gold_solutions_are_read_like_rollouts(tiny, rollouts):
    config = CONFIG.model_copy(update={"mining": MiningConfig(pos_source="gold")})
    (reading, *_) = [
        r
        for r in plan_readings(tiny, [PROBLEM], rollouts, [make_pair(1, (), (1,), gold=True)], config, {"p": PROMPT})
        if r.source == "gold"
    ]
    ids = tiny.tokens(PROBLEM.solution or "")
    end = boundaries(ids, tiny.text, "e")[0]
    assert reading.ids == [*PROMPT, *ids[:end]] and reading.positions == (len(PROMPT) + end - 1,)


def test_actions_are_differences_of_means():
    rng = np.random.default_rng(1)
    rows = [
        StateRow(row=i, problem_id="p", source="rollout", k=k, m=m, position=0)
        for i, (k, m) in enumerate((k, m) for k in range(4) for m in (1, 2))
    ]
    states = {layer: rng.standard_normal((8, 5)).astype(np.float32) for layer in (3, 7)}
    pairs = [make_pair(2, (0, 1), (2, 3), 1.0, 0.1), make_pair(1, (0,), (3,), 0.9, 0.2)]
    mined = mine(pairs, rows, states, MiningConfig(control_points=2, top_pairs=3))
    assert [(e.id, e.kind, e.m, e.layer) for e in mined.entries] == [
        ("p0000c", "corrective", 2, 3),
        ("p0000n", "null", 2, 3),
        ("p0001c", "corrective", 2, 7),
        ("p0001n", "null", 2, 7),
        ("p0002c", "corrective", 1, 3),
        ("p0002n", "null", 1, 3),
    ]
    right, wrong = states[7][[1, 3]].mean(0), states[7][[5, 7]].mean(0)
    corrective, null = mined.entries[2], mined.entries[3]
    assert mined.keys[corrective.key_row] == pytest.approx(wrong) and mined.keys[null.key_row] == pytest.approx(right)
    assert mined.actions[corrective.action_row] == pytest.approx(right - wrong)
    assert corrective.quality == pytest.approx(0.9) and not corrective.reachable and mined.entries[4].reachable
    assert corrective.action_norm == pytest.approx(float(np.linalg.norm(right - wrong))) and null.action_norm is None


def test_a_state_that_is_not_finite_is_left_out_and_told():
    rows = [StateRow(row=k, problem_id="p", source="rollout", k=k, m=1, position=0) for k in range(2)]
    states = {0: np.array([[1, 2], [np.nan, 1]], np.float32)}
    mined = mine([make_pair(1, (0,), (1,))], rows, states, MiningConfig())
    assert mined.entries == [] and mined.skipped == ["p m=1 layer 0: a state is not finite or zero"]


def test_an_action_of_zero_is_left_out_and_told():
    rows = [StateRow(row=k, problem_id="p", source="rollout", k=k, m=1, position=0) for k in range(2)]
    mined = mine([make_pair(1, (0,), (1,))], rows, {0: np.ones((2, 2), np.float32)}, MiningConfig())
    assert mined.entries == [] and "have one state here, so their action is zero" in mined.skipped[0]
