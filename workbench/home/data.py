"""The Home page's data: the runs, one run's held-out result with intervals, its stages and its model."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import pandas as pd

from stir_core.config import ON_REQUEST, STAGES
from stir_core.errors import StoreError
from stir_core.evaluate.statistics import clustered_difference
from stir_core.findings import Estimate, OwnOutcome
from stir_core.records import ModelIdentity
from stir_core.store.causal import CausalFolder
from stir_core.store.runs import CHECKED
from workbench.shared.conclusion import EvaluationVerdict, readable, stir_of, verdict_on
from workbench.shared.facts import EvaluationFacts, RunFacts
from workbench.shared.intervals import Proportion, proportion, with_interval


class HeldOut(NamedTuple):
    """Held-out answers that both arms were graded on, paired by problem."""

    vanilla: Proportion
    steered: Proportion
    gained: int
    """Wrong without steering, right with it."""
    lost: int
    """Right without steering, wrong with it."""
    committed: float | None
    """Share of problems where the gate committed at least one action."""
    tokens_vanilla: float | None
    tokens_steered: float | None
    probe_tokens: float | None

    @property
    def difference(self) -> Estimate:
        """Share of right answers with steering minus without, paired by problem; needs graded answers."""
        ties = self.vanilla.n - self.gained - self.lost
        return clustered_difference([[1.0]] * self.gained + [[-1.0]] * self.lost + [[0.0]] * ties)[0]


NO_RESULT = HeldOut(proportion(0, 0), proportion(0, 0), 0, 0, None, None, None, None)
"""In place of answers that cannot be read."""


def held_out(facts: RunFacts) -> HeldOut:
    """Paired accuracy and mean token counts; problems without a verdict in either arm are left out."""
    pairs = [(facts.vanilla[id_], trace) for id_, trace in facts.steered.items() if id_ in facts.vanilla]
    graded = [(v.verdict.correct, s.verdict.correct) for v, s in pairs if v.verdict and s.verdict]
    fired = [any(step.decision.chosen for step in steered.steps) for _, steered in pairs]
    return HeldOut(
        vanilla=proportion(sum(v for v, _ in graded), len(graded)),
        steered=proportion(sum(s for _, s in graded), len(graded)),
        gained=sum(s and not v for v, s in graded),
        lost=sum(v and not s for v, s in graded),
        committed=_mean([float(f) for f in fired]),
        tokens_vanilla=_mean([v.tokens_used for v, _ in pairs]),
        tokens_steered=_mean([s.tokens_used for _, s in pairs]),
        probe_tokens=_mean([s.probe_tokens for _, s in pairs]),
    )


class Finding(NamedTuple):
    """What one comparison says of steering a run's model, in words."""

    verdict: Literal["helps", "harms", "cannot tell", "not measured"] | OwnOutcome
    text: str


def evidence(facts: RunFacts, evaluations: Mapping[str, EvaluationFacts]) -> list[Finding]:
    """The run's own held-out answers, each evaluation of it that has STIR and vanilla, and whether a problem's own action helps.

    A verdict on answers needs an interval without 0, that of an evaluation also Holm's p below 0.05. Held-out answers that cannot be read
    count as not measured; a run that ships as its results has none.

    Raises:
        StoreError: a report cannot be read.
    """
    try:
        result = held_out(facts) if "steered" in facts.stages else NO_RESULT
    except StoreError:  # said where the answers are shown
        result = NO_RESULT
    if facts.run.results_only:
        found = []
    elif not result.vanilla.n:
        found = [Finding("not measured", "The run has no graded held-out answers yet.")]
    else:
        counts = f"{result.gained} problems gained, {result.lost} lost, n = {result.vanilla.n}"
        low, high = result.difference.bounds
        verdict = "helps" if low > 0 else "harms" if high < 0 else "cannot tell"
        why = "no interval" if result.difference.low is None else "the interval includes 0"
        found = [_judged("Held-out answers of the run", result.difference, counts, verdict, why)]
    for label, each in evaluations.items():
        method = stir_of(each.report)
        if method is not None and (versus := method.versus) is not None and versus.against == "vanilla":
            counts = f"{len(versus.won)} problems gained, {len(versus.lost)} lost, n = {each.report.problems}"
            variant = "" if method.name == "stir" else f", {readable(method.name)}"
            verdict, why = verdict_on(each.report, method)
            found.append(_judged(f"Evaluation {label}{variant}", versus.difference, counts, verdict, why))
    own = CausalFolder(facts.run, "own")
    if own.finished and (report := own.report()).outcome:
        found.append(Finding(report.outcome, f"Can an impulse help at all? {report.verdict}"))
    return found


def _judged(what: str, difference: Estimate, counts: str, verdict: EvaluationVerdict, why: str) -> Finding:
    because = {
        "helps": "more right answers with steering than without",
        "harms": "fewer right answers with steering than without",
        "cannot tell": why,
    }[verdict]
    return Finding(verdict, f"{what}: {because}: {with_interval(difference, '+.1%')}, paired, 95 %; {counts}.")


def runs_table(runs: list[RunFacts]) -> tuple[pd.DataFrame, list[str]]:
    """One row per run, with counts as the stages recorded them, and what cannot be read; values not measured or not readable are empty."""
    rows, faults = [], []
    for facts in runs:
        try:
            result = held_out(facts)
        except StoreError as error:  # one damaged file does not hide the other runs
            result, faults = NO_RESULT, [*faults, str(error)]
        rows.append(_row(facts, result))
    return pd.DataFrame(rows), faults


def _row(facts: RunFacts, result: HeldOut) -> dict[str, object]:
    stages = facts.stages
    done = [stage for stage in stages if stage in STAGES]
    made = f"{len(done)} of {len(STAGES)}" + (f" · {done[-1]}" if done else "")
    identity = facts.run.model_identity()
    manifests = {stage: facts.run.manifest(stage) for stage in stages}

    def count(stage: str, name: str) -> int | None:
        return (manifests[stage].counts if stage in manifests else facts.run.counts(stage)).get(name)

    return {
        "run": facts.name,
        "kind": "calibration object" if facts.run.is_organism else "model",
        "stages": "results only" if facts.run.results_only else " + ".join([made, *(stage for stage in ON_REQUEST if stage in stages)]),
        "model": identity.name if identity else facts.config.model.name,
        "task": facts.config.task.name,
        "problems": count("rollouts", "problems"),
        "rollouts": count("rollouts", "rollouts"),
        "entries": count("actions", "entries"),
        "basis": count("basis", "picked"),
        "layers": ", ".join(map(str, manifests["actions"].layers)) if "actions" in manifests else None,
        "held-out n": result.vanilla.n or None,
        "vanilla": result.vanilla.rate,
        "steered": result.steered.rate,
        "gained": result.gained if result.vanilla.n else None,
        "lost": result.lost if result.vanilla.n else None,
        "notes": sum(len(manifest.notes) for manifest in manifests.values()),
        "path": str(facts.run.path),
    }


def stage_notes(facts: RunFacts) -> list[tuple[str, str]]:
    """Warnings that the stages recorded, as (stage, text)."""
    return [(stage, note) for stage in facts.stages for note in facts.run.manifest(stage).notes]


def stage_table(facts: RunFacts) -> pd.DataFrame:
    """One row per stage in order: whether it finished, its counts, layers and digest."""
    rows = []
    for stage in STAGES:
        done = stage in facts.stages
        manifest = facts.run.manifest(stage) if done else None
        rows.append(
            {
                "stage": stage,
                "finished": "yes" if done else "no",
                "holds": ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in manifest.counts.items()) if manifest else None,
                "layers": ", ".join(map(str, manifest.layers)) if manifest else None,
                "digest": facts.run.digest(stage) if done else None,
            }
        )
    return pd.DataFrame(rows)


def identity_table(made_with: ModelIdentity, loaded: ModelIdentity | None) -> pd.DataFrame:
    """The run's model beside the loaded one, field by field; ``agrees`` is empty where no model is loaded or the field is not checked."""
    rows = []
    for field, recorded in made_with:
        checked, ours = field in CHECKED, getattr(loaded, field, None)
        agrees = recorded == ours if loaded and checked else None
        rows.append((field.replace("_", " "), _short(recorded), _short(ours) if loaded else None, _word(checked), _word(agrees)))
    return pd.DataFrame(rows, columns=["field", "run", "loaded model", "checked", "agrees"])


def _word(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:16]}…" if len(text) == 64 else text


def _mean(values: list[float] | list[int]) -> float | None:
    return sum(values) / len(values) if values else None
