"""A quick benchmark that compares nothing fails."""

import ast
from pathlib import Path

import pytest

from benchmarks import harvest, retrieve, select
from benchmarks.harness import checked
from stir_core.config import RolloutConfig, RunConfig
from stir_core.harvest.rollouts import sample_rollouts
from stir_core.tasks import load_problems

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def test_a_comparison_of_nothing_is_no_equality():
    assert checked(True, tokens=3)["equal"] and not checked(False, tokens=3)["equal"]
    assert not checked(True)["equal"] and not checked(True, tokens=3, states=0)["equal"]


def test_every_part_of_all_benchmarks_counts_what_it_compares():
    parts = [name.name for node in ast.walk(ast.parse((BENCHMARKS / "all.py").read_text("utf-8")))
             if isinstance(node, ast.ImportFrom) and node.module == "benchmarks" for name in node.names]  # fmt: skip
    assert len(parts) == 5
    for part in parts:
        (measure,) = (node for node in ast.parse((BENCHMARKS / f"{part}.py").read_text("utf-8")).body
                      if isinstance(node, ast.FunctionDef) and node.name == "measure")  # fmt: skip
        calls = [node for node in ast.walk(measure) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        counted = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "checked"]
        assert len(counted) == 1 and counted[0].keywords, part


def test_states_are_compared_one_by_one(tiny):
    problems = [(problem, [5, 9, 40, 7, 100]) for problem in load_problems("arithmetic", "mine", n=2)]
    config = RunConfig(rollouts=RolloutConfig(k=2, max_new_tokens=12), delimiter="e")
    sampled = list(sample_rollouts(tiny, problems, config, harvest.ungraded, layers=(1, 2)))
    boundaries = sum(len(each.rollout.boundaries) for each in sampled)
    assert harvest.compare(tiny, sampled, (1, 2))[::2] == (True, 2 * boundaries) and boundaries > 0
    assert harvest.compare(tiny, [], (1, 2))[2] == 0


@pytest.mark.parametrize("part", [select, retrieve])
def test_a_part_without_a_model_counts(part, monkeypatch):
    monkeypatch.setattr(part, "WIDTH", 8)
    if part is select:
        monkeypatch.setattr(part, "large", lambda n, budget: (0.0, 0.0))  # another process
    else:
        monkeypatch.setattr(part, "interleaved", lambda ways, rounds: {name: [1.0] * rounds for name in ways})
    report = part.measure(quick=True)
    assert report["equal"] and report["compared"] and all(report["compared"].values())
