"""What an action means, as tables: the steps along it, its share of the task's subspace, erasure, a dictionary, and other runs' actions."""

from collections.abc import Sequence

import pandas as pd

from stir_core.errors import FAULTS
from stir_core.evaluate.activations import Subject
from stir_core.evaluate.meaning import auc_text, nearest_elsewhere
from stir_core.findings import Separation
from stir_core.readings import ActivatingStep, Activation, Decomposition, Erasure, ForeignAction, ProjectionCounts, SubspaceShare
from stir_core.tasks.segment import split_steps
from workbench.shared.facts import RunFacts, differing_identity
from workbench.shared.text import Segment, one_line, segment, visible_token

MOST_ELSEWHERE = 12
"""Actions of other runs that are listed."""


def activating_table(steps: Sequence[ActivatingStep]) -> pd.DataFrame:
    """One row for each step at an end of the action."""
    rows = [
        (step.projection, step.right, step.wrong, step.m, one_line(step.text.rstrip(), 120), "own" if step.own else "", step.problem_id)
        for step in steps
    ]
    return pd.DataFrame(rows, columns=["projection", "right", "wrong", "m", "step", "own", "problem"])


def counts_table(counts: ProjectionCounts) -> pd.DataFrame:
    """One row for each bin and outcome, with the share that the bin holds of the outcome's steps; the last bin twice, to draw its end."""
    rows = []
    for outcome, own in (("right", counts.right), ("wrong", counts.wrong)):
        for low, high, n in zip(counts.edges, (*counts.edges[1:], *counts.edges[-1:]), (*own, *own[-1:]), strict=True):
            rows.append((low, high, outcome, n, n / max(1, sum(own))))
    return pd.DataFrame(rows, columns=["low", "high", "outcome", "steps", "share"])


def rollout_segments(facts: RunFacts, step: ActivatingStep) -> list[Segment]:
    """The rollout of a step: what is before it, muted; the step itself, marked; the rest."""
    steps = split_steps(facts.rollouts[step.problem_id, step.k].text, facts.config.delimiter)
    before, after = "".join(steps[: step.m - 1]), "".join(steps[step.m :])
    return [
        segment(before, "past"),
        segment(f"⟦step {step.m}⟧ ", "mark"),
        segment("".join(steps[step.m - 1 : step.m]), "steered"),
        segment(after),
    ]


def steps_line(seen: Activation) -> str:
    """What is projected, and the steps that were read."""
    read = "all of all rollouts" if seen.steps == seen.recorded else "those at mined control points"
    n = f"{seen.steps:,} steps" if seen.steps == seen.recorded else f"{seen.steps:,} of {seen.recorded:,} steps"
    return (
        "Projection of the state at a step's end, minus the mean state, on the action's direction, in residual-stream units. "
        f"n = {n}, {read}; {seen.problems} problems. Right, wrong: rollouts that begin so and end so."
    )


def separation_line(seen: Activation) -> str:
    """Whether right and wrong rollouts lie apart along the action, on other problems and on its own."""
    right, wrong = sum(seen.spread.right), sum(seen.spread.wrong)
    return (
        f"n = {right:,} steps of right rollouts, {wrong:,} of wrong ones. A right rollout's step lies further along it than a wrong one's "
        f"of the same problem and control point: {auc_text(seen.others)} ({seen.others.pairs:,} pairs of {seen.others.problems} other "
        "problems; 0.5 is chance; not corrected for the number of actions looked at). On its own problem, which it was made from: "
        f"{auc_text(seen.own)}."
    )


def subspace_table(shares: Sequence[SubspaceShare]) -> pd.DataFrame:
    """One row for each number of principal directions."""
    rows = [(each.k, each.share, each.actions, each.by_chance, each.chance_high) for each in shares]
    return pd.DataFrame(rows, columns=["directions", "share", "other actions", "by chance", "chance high"])


def erasure_table(erased: Erasure) -> pd.DataFrame:
    """The read-outs before and after erasure."""
    named = (
        ("this action", erased.before),
        ("linear probe of the other problems (is erased)", erased.erased),
        ("this action, after erasure", erased.after),
    )
    return pd.DataFrame([(name, *_figures(seen)) for name, seen in named], columns=["read-out", "AUC", "95 %", "pairs", "problems"])


def _figures(seen: Separation) -> tuple[float | None, str | None, int, int]:
    interval = None if seen.low is None else f"{seen.low:.2f} to {seen.high:.2f}"
    return seen.auc, interval, seen.pairs, seen.problems


def feature_table(found: Decomposition) -> pd.DataFrame:
    """The features of the sum in its order, then the nearest others."""
    chosen = {each.index for each in found.chosen}
    rows = [(each.index, each.cosine, each.weight) for each in (*found.chosen, *(e for e in found.nearest if e.index not in chosen))]
    return pd.DataFrame(rows, columns=["feature", "cosine", "weight"])


def other_runs(facts: RunFacts, known: dict[str, RunFacts]) -> tuple[list[RunFacts], int]:
    """The other runs with actions that were made with the same model, and how many were made with another one."""
    own = facts.run.manifest("actions").model
    others = [other for other in known.values() if other.name != facts.name and "actions" in other.stages]
    same = [other for other in others if not differing_identity(own, other.run.manifest("actions").model)]
    return same, len(others) - len(same)


def elsewhere(of: Subject, others: Sequence[RunFacts]) -> tuple[list[ForeignAction], list[str]]:
    """The nearest actions of other runs, nearest first; and a line for each run that cannot be compared."""
    found: list[ForeignAction] = []
    refused: list[str] = []
    for other in others:
        try:
            found += nearest_elsewhere(of, other.run, MOST_ELSEWHERE)
        except FAULTS as error:
            refused.append(str(error))
    return sorted(found, key=lambda each: -each.cosine)[:MOST_ELSEWHERE], refused


def elsewhere_table(found: Sequence[ForeignAction]) -> pd.DataFrame:
    """One row for each action of another run."""
    rows = [
        (
            each.run,
            each.entry_id,
            each.cosine,
            each.by_chance,
            each.typical,
            each.m,
            "same question" if each.same_question else each.problem_id,
            "  ".join(map(visible_token, each.promoted)),
        )
        for each in found
    ]
    return pd.DataFrame(rows, columns=["run", "entry", "cosine", "by chance", "typical", "m", "problem", "promotes"])
