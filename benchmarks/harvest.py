"""The cost of capturing states during rollouts, or of reading them afterwards: ``python -m benchmarks.harvest [--dtype ...] [--json]``.

Real arithmetic problems, every boundary, eight layers. The peer is one prefill for each rollout and boundary, as published.
"""

import sys
from typing import Any

import torch

from benchmarks.harness import checked, interleaved, machine, measured, ratio
from stir_core.config import MiningConfig, RolloutConfig, RunConfig, TaskConfig
from stir_core.harvest.rollouts import Sampled, sample_rollouts
from stir_core.models.loading import LoadedModel, load_model
from stir_core.models.passes import Feed, forward
from stir_core.records import Problem, Verdict
from stir_core.tasks import load_problems, render

UNGRADED = Verdict(correct=False, extracted=None, gold="", method="none", reason="not graded", finished=False)
LEAST_SHARE = 0.002
"""Least extra time as a share of the rollouts' own: a smaller one cannot be distinguished from noise and counts as this."""


def ungraded(problem: Problem, text: str) -> Verdict:
    """A grader that does nothing, since grading is not measured."""
    return UNGRADED


def measure(name: str, dtype: str, *, quick: bool) -> dict[str, Any]:
    """Measure everything and return the figures by name."""
    model = load_model(name, dtype=dtype)
    n, k, tokens, rounds = (2, 2, 24, 1) if quick else (4, 4, 96, 5)
    config = RunConfig(
        task=TaskConfig(name="arithmetic", n_train=n),
        rollouts=RolloutConfig(k=k, max_new_tokens=tokens),
        mining=MiningConfig(control_points=64),
        delimiter="e" if quick else "\n\n",  # few tokens end no paragraph, and without boundaries no state is compared
    )
    problems = load_problems("arithmetic", "mine", n=n, seed=0, levels=("one_step",))
    prompts = [(problem, model.chat_ids(render(problem, "auto"))) for problem in problems]
    layers = tuple(round(i * (model.n_layers - 1) / 7) for i in range(8))
    sampled: dict[str, list[Sampled]] = {}

    def run(which: tuple[int, ...], name: str) -> None:
        sampled[name] = list(sample_rollouts(model, prompts, config, ungraded, layers=which))

    times = interleaved({"plain": lambda: run((), "plain"), "captured": lambda: run(layers, "captured")}, rounds)
    again = interleaved({"reprefill": lambda: reprefill(model, sampled["captured"], layers)}, 1 if quick else 2)
    overhead = ratio(times, "captured", "plain")
    plain = sorted(times["plain"])[rounds // 2]
    extra = max(overhead["median"] - 1, LEAST_SHARE) * plain
    equal, worst, states = compare(model, sampled["captured"], layers)
    same = {(s.rollout.problem_id, s.rollout.k): s.rollout.token_ids for s in sampled["plain"]} == {
        (s.rollout.problem_id, s.rollout.k): s.rollout.token_ids for s in sampled["captured"]
    }
    boundaries = sum(len(s.rollout.boundaries) for s in sampled["captured"])
    written = sum(s.rollout.n_tokens for s in sampled["captured"])
    figures = {
        "harvest.capture_overhead": overhead,
        "harvest.vs_reprefill": min(again["reprefill"]) / extra,
        "harvest.reprefill_over_rollouts": min(again["reprefill"]) / plain,
        "harvest.boundaries": boundaries,
        "harvest.rollouts": len(sampled["captured"]),
        "harvest.tokens_equal": same,
        "harvest.states_equal": equal,
        "harvest.largest_relative_difference": worst,
    }
    return {"dtype": dtype, "machine": machine(), "figures": figures, **checked(equal and same, tokens=written, states=states)}


def reprefill(model: LoadedModel, sampled: list[Sampled], layers: tuple[int, ...]) -> None:
    """One prefill for each rollout and boundary."""
    for each in sampled:
        for end in each.rollout.boundaries:
            prefilled(model, [*each.rollout.prompt_ids, *each.rollout.token_ids[:end]], layers)


def prefilled(model: LoadedModel, ids: list[int], layers: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """States at the last token, ``[1, d_model]`` by layer, of one pass over the whole sequence."""
    return forward(model, [Feed(model.new_store().open(), ids, capture=(len(ids) - 1,))], layers).states[0]


def compare(model: LoadedModel, sampled: list[Sampled], layers: tuple[int, ...]) -> tuple[bool, float, int]:
    """True if every boundary was captured; the largest distance of a state from a full prefill's, relative to its norm; states compared."""
    worst, whole, n = 0.0, True, 0
    for each in sampled:
        ends = each.rollout.boundaries
        whole &= all(len(each.states[layer]) == len(ends) for layer in layers) if ends else not each.states
        for i, end in enumerate(ends):
            states = prefilled(model, [*each.rollout.prompt_ids, *each.rollout.token_ids[:end]], layers)
            for layer in layers:
                state = states[layer][0].float().cpu()
                worst = max(worst, float(torch.linalg.norm(each.states[layer][i] - state) / torch.linalg.norm(state)))
                n += 1
    limit = 1e-4 if model.identity.dtype == "float32" else 0.1
    return whole and worst <= limit, worst, n


def main(argv: list[str] | None = None) -> int:
    """Measure and print; exit code 1 if a state is missing or differs from a full prefill's, or if there is none to compare."""
    return measured("harvest", __doc__, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
