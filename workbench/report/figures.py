"""The figures of a run by name, drawn when they are asked for: those that the pages open with. Needs no model and no browser."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from stir_core.errors import StoreError
from stir_core.evaluate.activations import activation, subject
from stir_core.store.files import write_whole
from stir_core.store.policies import PolicyFolder
from workbench.actions import meaning
from workbench.actions.charts import projection_shares
from workbench.basis import charts as basis_charts
from workbench.basis import data as basis_data
from workbench.basis import reselection
from workbench.causal import charts as causal_charts
from workbench.causal import data as causal_data
from workbench.codebook import charts as codebook_charts
from workbench.codebook import data as codebook_data
from workbench.evaluate import charts as evaluate_charts
from workbench.evaluate import data as evaluate_data
from workbench.gates import charts as gate_charts
from workbench.gates import data as gate_data
from workbench.gates import policies as gate_policies
from workbench.shared import charts as shared_charts
from workbench.shared import gate_evidence, gate_replay
from workbench.shared.charts_paper import Chart, pdf, svg
from workbench.shared.conclusion import readable
from workbench.shared.facts import EvaluationFacts, RunFacts, evaluations_of

LENSES = 5
"""Actions whose promoted tokens are drawn where none is asked for."""


class RunFigure(NamedTuple):
    """One figure of a run."""

    name: str
    """Of its file, without the ending."""
    section: str
    """The section of a report that it belongs to."""
    caption: str
    """What it shows, with its n."""
    draw: Callable[[], Chart]


def run_figures(facts: RunFacts, actions: Iterable[str] = ()) -> list[RunFigure]:
    """The figures that the run has, in the order of a report's sections.

    Args:
        actions: entries whose promoted tokens are drawn; none: :data:`LENSES`, the one that pages open with first.
    """
    parts = (
        _of_actions(facts, list(actions)),
        _of_basis(facts),
        _of_gate(facts),
        _of_policies(facts),
        _of_evaluations(facts),
        _of_causal(facts),
        _of_codes(facts),
    )
    return [figure for part in parts for figure in part]


def write_figures(figures: Iterable[RunFigure], folder: Path) -> Iterator[Path]:
    """Write each figure as ``NAME.svg`` and ``NAME.pdf``, yielding each file.

    Raises:
        StoreError: a file exists already, or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        chart, name = figure.draw(), re.sub(r"[^\w.+-]", "-", figure.name).lstrip(".")  # an entry's id is any text
        for file, data in ((folder / f"{name}.svg", svg(chart).encode("utf-8")), (folder / f"{name}.pdf", pdf(chart))):
            if file.exists():
                raise StoreError(f"{file} exists: name another folder, nothing is overwritten")
            write_whole(file, data)
            yield file


def _of_actions(facts: RunFacts, asked: list[str]) -> Iterator[RunFigure]:
    if "actions" not in facts.stages or not facts.entries:
        return
    n = len(facts.entries)
    yield RunFigure(
        "actions-by-control-point",
        "actions",
        f"Mined entries at every control point; solid: selected into the basis. n = {n:,} entries.",
        lambda: basis_charts.coverage_chart(basis_data.counts_by_step(facts)),
    )
    ranked = dict.fromkeys([facts.first_entry, *facts.ranked])
    for entry_id in asked or [id_ for id_ in ranked if facts.entries[id_].kind == "corrective"][:LENSES]:
        if (lens := facts.lenses.get(entry_id)) is not None:
            caption = f"Tokens that {entry_id} promotes and suppresses: direct effect on their logits, through the unembedding alone."
            yield RunFigure(f"promotes-{entry_id}", "actions", caption, partial(shared_charts.lens_bars, lens))

    for entry_id in read_actions(facts, asked):
        caption = f"Steps of right and of wrong rollouts along {entry_id}, as shares of each; their n is in the text."
        yield RunFigure(f"steps-along-{entry_id}", "actions", caption, partial(_along, facts, entry_id))


def read_actions(facts: RunFacts, asked: Sequence[str]) -> list[str]:
    """The actions whose meaning is read: those asked for, else the one that pages open with; none without states of steps."""
    if not {"states", "steps"} & {*facts.stages}:
        return []
    return [id_ for id_ in asked or (facts.first_entry,) if facts.entries[id_].action_row is not None]


def _along(facts: RunFacts, entry_id: str) -> Chart:
    return projection_shares(meaning.counts_table(activation(subject(facts.run, entry_id)).spread))


def _of_basis(facts: RunFacts) -> Iterator[RunFigure]:
    if "basis" not in facts.stages or not facts.picks:
        return
    projection = next(iter(basis_data.projections(facts)), None)
    if projection is not None:
        caption = f"Entries by key, coloured by control point; filled: in the basis. n = {len(facts.shown):,} entries. {facts.sampled}"
        yield RunFigure(f"map-{projection}", "basis", caption.strip(), partial(_map, facts, projection))
    caption = f"Both parts of the gain of every pick, in nats. n = {len(facts.picks)} picks."
    yield RunFigure("gains-of-picks", "basis", caption, partial(_gains, facts))


def _map(facts: RunFacts, projection: str) -> Chart:
    table = basis_data.entry_columns(facts)
    places = {"x": table[f"{projection} 1"], "y": table[f"{projection} 2"], "value": table["m"]}
    return basis_charts.action_map(table.assign(**places), projection, "m", basis_data.scale_of(table["m"].tolist()))


def _gains(facts: RunFacts) -> Chart:
    table = reselection.replay_table(facts, reselection.stored(facts))
    return basis_charts.gain_chart(table, len(table))


def _of_gate(facts: RunFacts) -> Iterator[RunFigure]:
    rates = gate_evidence.firing_rates(facts.steered.values())
    if not rates.empty:
        caption = (
            "Held-out answers with a commit at each control point, with Wilson 95 % intervals; above a bar: answers that reached it. "
            f"n = {len(facts.steered)} answers."
        )
        yield RunFigure("commits-by-control-point", "gate", caption, partial(gate_charts.firing_chart, rates))
        own = facts.config.gate
        answers = gate_replay.replay_all(facts.steered, own, own, seed=facts.config.seed, policies=facts.policies)
        outcomes = {id_: gate_data.outcome(trace, facts.vanilla.get(id_)) for id_, trace in facts.steered.items()}
        table = gate_data.map_rows(answers, outcomes).dropna(subset=["gain"])
        if not table.empty:
            caption = (
                f"The best candidate of each step on the gate's axes, by what became of the answer. n = {len(table)} steps with a preview."
            )
            yield RunFigure("steps-on-the-axes-of-the-gate", "gate", caption, partial(gate_charts.step_map, table))


def _of_policies(facts: RunFacts) -> Iterator[RunFigure]:
    folder = PolicyFolder(facts.run)
    if folder.reported:
        report = folder.report()
        caption = (
            f"Doubly robust advantage of each learned gate over never acting, with 95 % intervals. n = {report.decisions} drawn decisions."
        )
        title = "advantage over null (share of right answers)"
        yield RunFigure("gates-over-null", "policies", caption, partial(shared_charts.forest, gate_policies.learned_table(report), title))


def _of_evaluations(facts: RunFacts) -> Iterator[RunFigure]:
    for label, folder in evaluations_of(facts.run).items():
        report = EvaluationFacts(folder).report
        if not report.methods:
            continue
        n = f"n = {report.problems} problems, the same for all"
        yield RunFigure(
            f"methods-{label}",
            "evaluations",
            f"Evaluation {label}: accuracy of each method, and its paired difference from the baseline, with 95 % intervals. {n}.",
            partial(shared_charts.method_forest, *evaluate_data.forest_tables(report), readable(report.spec.baseline)),
        )
        table = evaluate_data.pareto_table(report, "decoded tokens")
        if not table.empty:
            caption = f"Evaluation {label}: accuracy against decoded tokens per answer. {n}."
            title = "decoded tokens per answer (committed and probe)"
            yield RunFigure(f"cost-{label}", "evaluations", caption, partial(evaluate_charts.pareto, table, title))


def _of_causal(facts: RunFacts) -> Iterator[RunFigure]:
    for study in ("gate", "own"):
        found = causal_data.study_of(facts.run, study)
        table = causal_data.arm_table(found.report) if found else None
        if found is None or table is None or table.empty:
            continue
        n = f"n = {found.report.states} states, {found.report.rolls} continuations"
        title = "advantage (share of right answers, first minus second)"
        caption = f"Study {study}: advantage of each arm, with 95 % intervals. {n}."
        yield RunFigure(f"arms-{study}", "causal", caption, partial(shared_charts.forest, table, title))
        actions = causal_data.advantage_table(found.report)
        if study == "gate" and not actions.empty:
            title = "advantage (share of right answers with the action minus without)"
            yield RunFigure(
                "advantage-of-actions", "causal", f"Measured advantage of each action. {n}.", partial(shared_charts.forest, actions, title)
            )
        if study == "gate" and found.report.points:
            bins = causal_data.calibration_table(found.report)
            caption = f"Measured advantage by the gate's predicted margin. n = {len(found.report.points)} candidates in {len(bins)} bins."
            yield RunFigure("margin-against-advantage", "causal", caption, partial(causal_charts.calibration_chart, bins))


def _of_codes(facts: RunFacts) -> Iterator[RunFigure]:
    for layer in facts.codebook.layers if facts.codebook else ():
        held_out = facts.codebook.held_out if facts.codebook else 0
        caption = f"Held-out error over the number of codes, layer {layer.layer}. n = steps of {held_out} held-out problems."
        yield RunFigure(
            f"codes-layer-{layer.layer}", "codebook", caption, partial(codebook_charts.rate_chart, codebook_data.error_table(layer))
        )
