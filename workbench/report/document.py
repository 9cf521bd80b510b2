"""A run, or a selection of it, as one HTML file: figures and numbers by section. What is missing is named, with its command."""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import NamedTuple

import pandas as pd

from stir_core.commands.overrides import as_toml
from stir_core.commands.report import SECTIONS
from stir_core.errors import DataError
from stir_core.evaluate.activations import activation, subject
from stir_core.evaluate.meaning import auc_text, erasure, subspace
from stir_core.evaluate.probe import probe_run, shipped_probe
from stir_core.findings import p_text
from stir_core.records import Trace
from stir_core.saved import SavedContent, SavedWork
from stir_core.store.calibrations import SHIPPED, read_calibration
from stir_core.store.policies import PolicyFolder
from stir_core.store.saved import SavedFolder, run_digest
from stir_core.version import VERSION
from workbench.actions import meaning
from workbench.basis import data as basis_data
from workbench.causal import data as causal_data
from workbench.codebook import data as codebook_data
from workbench.evaluate import data as evaluate_data
from workbench.gates import data as gate_data
from workbench.gates.policies import learned_table
from workbench.home import data as home_data
from workbench.report.figures import RunFigure, read_actions, run_figures
from workbench.shared.charts_paper import svg
from workbench.shared.command_lines import (
    causal_command,
    codebook_command,
    eval_command,
    policy_command,
    probe_command,
    report_command,
    run_command,
    show_command,
)
from workbench.shared.conclusion import conclusion
from workbench.shared.confounds import control_figures
from workbench.shared.entries import action_table, entry_of
from workbench.shared.facts import EvaluationFacts, RunFacts, evaluations_of
from workbench.shared.html_parts import PARTS_CSS, Part, Picture, Prose, html_file, part_html
from workbench.shared.intervals import measured_line, with_interval
from workbench.shared.saved import sections_of

MOST_ACTIONS, MOST_ANSWERS, MOST_SAVED = 40, 4, 20
"""Rows of the table of actions; answers shown of those gained, and of those lost; pieces of saved work where none is asked for."""
TITLES = {
    "evidence": "What is known",
    "actions": "Latent actions",
    "probe": "What the states tell",
    "basis": "The control basis",
    "gate": "Decisions of the gate",
    "policies": "Learned gates",
    "evaluations": "Methods compared",
    "causal": "Causal studies",
    "codebook": "Codebook of steps",
    "answers": "Held-out answers that changed",
    "saved": "Saved work",
    "run": "How it was made",
}


class Selected(NamedTuple):
    """What a report is to hold."""

    sections: tuple[str, ...] = SECTIONS
    actions: tuple[str, ...] = ()
    """Empty: see ``figures.run_figures``; the table lists the basis first."""
    saved: tuple[str, ...] = ()
    """Empty: the latest pieces that were made with the run."""


class ReportSection(NamedTuple):
    """A section with its parts; one without is missing."""

    name: str
    parts: list[tuple[str, Part]]
    """Each with the heading before it; empty: none."""
    missing: str
    """Why it has no parts, with the command that makes them."""


def missing_of(facts: RunFacts, name: str, folder: SavedFolder) -> str:
    """Why the run has nothing for a section, with the command that makes it; empty: it has something."""
    run = facts.run
    if name == "probe" and shipped_probe(run) is not None:
        return ""
    needs = {"actions": "actions", "probe": "states", "basis": "basis", "gate": "steered", "answers": "steered"}
    if run.results_only and (name in needs or name == "policies"):
        return "It does not ship: the run is in the package as its evaluations and causal studies."
    if name in needs and needs[name] not in facts.stages:
        return f"The stage {needs[name]} has not finished: {run_command(run, until=needs[name])}"
    if name in ("actions", "basis") and not facts.entries:
        return "The library is empty: no problem had both a right and a wrong rollout at a control point."
    if name == "policies" and not PolicyFolder(run).reported:
        return f"Not learned: {policy_command(run)}"
    if name == "evaluations" and not evaluations_of(run):
        return f"Not evaluated: {eval_command(run)}"
    if name == "causal" and not any(causal_data.study_of(run, study) for study in ("gate", "own")):
        return "Not measured." if run.results_only else f"Not measured: {causal_command(run)}"
    if name == "codebook" and facts.codebook is None:
        return f"Not made: {codebook_command(run)}"
    if name == "saved" and not _saved_of(facts, folder, ()):
        return "Nothing is kept: decode on Trace or What-if, or measure on Actions."
    return ""


def report_sections(facts: RunFacts, selected: Selected, folder: SavedFolder) -> Iterator[ReportSection]:
    """The sections one after the other, in the order of :data:`~stir_core.commands.report.SECTIONS`.

    Args:
        folder: the saved work beside the runs.

    Raises:
        DataError: an action or a piece of saved work that is asked for is not there, or belongs to another run.
    """
    for id_ in selected.actions:
        entry_of(facts, id_)
    figures: dict[str, list[RunFigure]] = {}
    for figure in run_figures(facts, selected.actions):
        figures.setdefault(figure.section, []).append(figure)
    for name in SECTIONS:
        if name not in selected.sections:
            continue
        if missing := missing_of(facts, name, folder):
            yield ReportSection(name, [], missing)
            continue
        parts = list(_PARTS[name](facts, selected, folder))
        drawn: list[tuple[str, Part]] = [("", Picture(svg(each.draw()), each.caption, each.caption)) for each in figures.get(name, ())]
        parts = [(heading, part.convert_dtypes() if isinstance(part, pd.DataFrame) else part) for heading, part in parts]  # counts as such
        yield ReportSection(name, [*parts[:1], *drawn, *parts[1:]], "")


def report_html(facts: RunFacts, selected: Selected, folder: SavedFolder) -> str:
    """The report as one HTML document that opens offline; figures in it are pictures on white, texts of models are text.

    Raises:
        DataError: see :func:`report_sections`.
    """
    sections = list(report_sections(facts, selected, folder))
    links = " · ".join(f'<a href="#{section.name}">{escape(TITLES[section.name])}</a>' for section in sections)
    body = [f"<nav>{links}</nav>"]
    for section in sections:
        body.append(f'<h2 id="{section.name}">{escape(TITLES[section.name])}</h2>')
        body += [part_html(Prose(section.missing))] if section.missing else []
        body += [(f"<h3>{escape(heading)}</h3>" if heading else "") + part_html(part) for heading, part in section.parts]
    command = report_command(facts.run, only=selected.sections, actions=selected.actions, saved=selected.saved)
    body += ["<h2>This report</h2>", part_html(Prose(f"By STIR Workbench {VERSION}; made again by the command below.")), part_html(command)]
    style = PARTS_CSS + "h3 { font-size: 0.9rem; margin: 1rem 0 0.2rem; } nav { margin: 0.6rem 0; }\n"
    return html_file(f"Run {facts.name}", "\n".join(body), style=style, pictures=True)


_Parts = Iterator[tuple[str, Part]]


def _evidence(facts: RunFacts, _selected: Selected, _folder: SavedFolder) -> _Parts:
    if facts.run.standing:
        yield "", Prose(facts.run.standing)
    evaluations = {label: EvaluationFacts(each) for label, each in evaluations_of(facts.run).items()}
    rows = [(each.verdict, each.text) for each in home_data.evidence(facts, evaluations)]
    rows.append(("instruments", f"On models whose latent modes are known: {read_calibration(SHIPPED).verdict}"))
    yield "", pd.DataFrame(rows, columns=["verdict", "because"])
    if "steered" in facts.stages:
        result = home_data.held_out(facts)
        if result.vanilla.n:
            rows = [
                ("accuracy, vanilla", str(result.vanilla)),
                ("accuracy, steered", str(result.steered)),
                ("difference, paired", f"{with_interval(result.difference, '+.1%')} at 95 %"),
                ("problems gained / lost", f"{result.gained} / {result.lost} of {result.vanilla.n}"),
                ("problems with a commit", f"{result.committed:.0%}"),
                ("mean tokens, vanilla / steered", f"{result.tokens_vanilla:.1f} / {result.tokens_steered:.1f}"),
                ("mean probe tokens", f"{result.probe_tokens:.1f}"),
            ]
            yield "Held-out problems of the run", pd.DataFrame(rows, columns=["", " "])


def _actions(facts: RunFacts, selected: Selected, _folder: SavedFolder) -> _Parts:
    corrective = [id_ for id_ in facts.ranked if facts.entries[id_].kind == "corrective"]
    ids = list(selected.actions) or corrective[:MOST_ACTIONS]
    count = (
        f"{len(facts.entries):,} entries, {len(corrective):,} of them corrective" if not facts.large else f"{len(facts.entries):,} entries"
    )
    shown = "" if selected.actions or len(corrective) <= MOST_ACTIONS else f"; the first {MOST_ACTIONS} are listed, the basis first"
    yield "", Prose(f"{count}{shown}. Effects and controls are empty where they were not measured.")
    table = action_table(facts, ids=ids)
    yield "", table.reindex(columns=[column for column in _ACTION_COLUMNS if column in table])
    for id_ in selected.actions:
        entry, control, advantage = facts.entries[id_], facts.controls.get(id_), facts.advantages.get(id_)
        rows = [(figure.name, figure.value) for figure in control_figures(control)] if control else []
        rows += [("causal effect", f"{advantage.verdict}: {measured_line(advantage)}")] if advantage else []
        problem = facts.problems.get(entry.problem_id)
        yield f"{id_}: mined at control point {entry.m}, layer {entry.layer}", problem.question if problem else entry.problem_id
        yield "", pd.DataFrame(rows, columns=["control", "value"])
    for id_ in read_actions(facts, selected.actions):
        yield from _meaning(facts, id_)


def _meaning(facts: RunFacts, id_: str) -> _Parts:
    of = subject(facts.run, id_)
    seen = activation(of)
    if not seen.steps:
        return
    yield f"What {id_} means", Prose(meaning.steps_line(seen))
    for title, steps in (("Furthest along it", seen.high), ("Furthest against it", seen.low)):
        yield title, meaning.activating_table(steps)
    yield "", Prose(meaning.separation_line(seen))
    if shares := subspace(of):
        yield "Its share in the task's subspace", meaning.subspace_table(shares)
    erased = erasure(of.others, of.unit, of.entry.layer)
    yield "Erasure of right against wrong (LEACE)", Prose(erased.verdict)
    yield "", meaning.erasure_table(erased)
    yield "", show_command(facts.run, id_)


def _probe(facts: RunFacts, _selected: Selected, _folder: SavedFolder) -> _Parts:
    report = probe_run(facts.run)
    yield "", Prose(report.verdict)
    n = f"{report.states} states of rollouts of {report.problems} of {report.mined} problems, {report.right:.0%} of them right"
    yield "", Prose(f"n = {n}. AUC: share of pairs (right and wrong, one problem and control point) that a read-out of the others orders.")
    read = [*report.pooled, *([report.text] if report.text else [])]
    figures = [(auc_text(each).removeprefix("AUC "), each.p_holm and p_text(each.p_holm)) for each in read]
    rows = [(each.readout, each.layer, *two, each.states, each.problems, each.pairs) for each, two in zip(read, figures, strict=True)]
    yield "", pd.DataFrame(rows, columns=["read-out", "layer", "AUC [95 %]", "p (Holm)", "states", "problems", "pairs"])
    yield "", probe_command(facts.run)


_ACTION_COLUMNS = [
    "entry", "m", "layer", "pick", "committed", "retrieved", "controls", "flags", "advantage", "advantage 95 %", "pairs", "verdict",
    "promotes", "quality", "|v|/|key|", "problem",
]  # fmt: skip


def _basis(facts: RunFacts, _selected: Selected, _folder: SavedFolder) -> _Parts:
    config = facts.config.basis
    settings = f"selector {config.selector}, budget {config.budget}, diversity {config.diversity:g}"
    yield "", Prose(f"{len(facts.picks)} of {len(facts.entries):,} entries, {settings}.")
    yield "", basis_data.coverage_table(facts)


def _gate(facts: RunFacts, _selected: Selected, _folder: SavedFolder) -> _Parts:
    reached = sum(len(trace.steps) for trace in facts.steered.values())
    commits = sum(bool(step.decision.chosen) for trace in facts.steered.values() for step in trace.steps)
    yield "", Prose(f"The gate committed an action at {commits} of {reached} steps of {len(facts.steered)} held-out answers.")
    settings = [(name, str(value)) for name, value in facts.config.gate.model_dump(mode="json").items()]
    yield "Its settings", pd.DataFrame(settings, columns=["setting", "value"])


def _policies(facts: RunFacts, _selected: Selected, _folder: SavedFolder) -> _Parts:
    report = PolicyFolder(facts.run).report()
    yield "", Prose(report.verdict)
    n = f"{report.decisions} drawn decisions of {report.problems} problems, {report.right:.1%} right under null"
    yield "", Prose(f"n = {n}; run on {report.further} further problems. Estimates are doubly robust; {report.rolls} continuations.")
    yield "", learned_table(report).drop(columns=["value", "low", "high", "verdict", "hover"])
    yield "", report.spec.command or policy_command(facts.run)


def _evaluations(facts: RunFacts, _selected: Selected, _folder: SavedFolder) -> _Parts:
    for label, folder in evaluations_of(facts.run).items():
        evaluation = EvaluationFacts(folder)
        report = evaluation.report
        said = conclusion(report)
        heading = f"Evaluation {label}"
        yield heading, Prose(evaluate_data.evaluation_line(report))
        for line in (said.text if said else "", said.others if said else "", evaluate_data.leak_line(report) or ""):
            if line:
                yield "", Prose(line)
        for line in evaluate_data.warnings_of(report, facts.basis_digest):
            yield "", Prose(line)
        table = _worded_p(evaluate_data.method_table(report))
        for columns in (evaluate_data.RESULTS, evaluate_data.COSTS_AND_TEXT):
            yield "", table.reindex(columns=[column for column in columns if column not in ("method", "source")])
        yield "", report.spec.command or eval_command(facts.run)


def _causal(facts: RunFacts, _selected: Selected, _folder: SavedFolder) -> _Parts:
    for name in ("gate", "own"):
        study = causal_data.study_of(facts.run, name)
        if study is None:
            continue
        yield f"Study {name}", Prose(causal_data.study_line(study.report))
        readings = (causal_data.own_reading,) if name == "own" else (causal_data.gate_reading, causal_data.choice_reading)
        for reading in readings:
            answer = reading(study.report)
            yield "", Prose(f"{answer.answer} {answer.figures}")
        for line in causal_data.study_warnings(study.report, facts.basis_digest, ended=study.ended):
            yield "", Prose(line)
        for table in (causal_data.arm_table(study.report), causal_data.advantage_table(study.report)):
            if not table.empty:
                yield "", _worded_p(table.reindex(columns=[column for column in _EFFECT_COLUMNS if column in table]))


def _worded_p(table: pd.DataFrame) -> pd.DataFrame:
    """With p-values in words: a small one is not 0."""
    worded = {column: [None if pd.isna(p) else p_text(p) for p in table[column]] for column in ("p", "p holm") if column in table}
    return table.assign(**worded)


_EFFECT_COLUMNS = ("name", "advantage", "verdict", "won", "lost", "p", "p holm", "tokens", "problems", "states", "pairs")


def _codebook(facts: RunFacts, _selected: Selected, _folder: SavedFolder) -> _Parts:
    report = facts.codebook
    assert report is not None
    yield "", Prose(codebook_data.head_line(report))
    for layer in report.layers:
        yield f"Layer {layer.layer}", codebook_data.fit_table(layer)


def _answers(facts: RunFacts, _selected: Selected, _folder: SavedFolder) -> _Parts:
    outcomes = {id_: gate_data.outcome(trace, facts.vanilla.get(id_)) for id_, trace in facts.steered.items()}
    counts = [(kind, sum(each == kind for each in outcomes.values())) for kind in dict.fromkeys(outcomes.values())]
    yield "", pd.DataFrame(counts, columns=["outcome, steered against vanilla", "problems"])
    for kind in ("gained", "lost"):
        for id_ in [id_ for id_, each in outcomes.items() if each == kind][:MOST_ANSWERS]:
            problem = facts.held_out.get(id_)
            yield f"{kind}: {id_}", problem.question if problem else id_
            for name, trace in (("Vanilla", facts.vanilla[id_]), ("Steered", facts.steered[id_])):
                yield _answer_head(name, trace), trace.text


def _answer_head(name: str, trace: Trace) -> str:
    steered = [f"m {step.m}: {step.decision.chosen}" for step in trace.steps if step.decision.chosen]
    return f"{name}, {trace.tokens_used} tokens" + (f"; steered at {', '.join(steered)}" if steered else "")


def _saved(facts: RunFacts, selected: Selected, folder: SavedFolder) -> _Parts:
    for work, content in _saved_of(facts, folder, selected.saved):
        yield f"{work.kind}: {work.title}", Prose(f"{work.id}, saved {work.created} UTC. {work.outcome}")
        for section in sections_of(work, content):
            yield section.title, section.body


def _saved_of(facts: RunFacts, folder: SavedFolder, asked: Sequence[str]) -> list[tuple[SavedWork, SavedContent]]:
    digest = run_digest(facts.run)
    works = [folder.work(id_) for id_ in asked] if asked else [work for work in folder.all()[0] if work.run_digest == digest][:MOST_SAVED]
    for work in works:
        if work.run_digest != digest:
            raise DataError(
                f"{work.id} was made with run {work.run}, not with {facts.name} as it is here: leave it out, or report on that run"
            )
    return [(work, folder.content(work.id)) for work in works]


def _run(facts: RunFacts, _selected: Selected, _folder: SavedFolder) -> _Parts:
    yield "", run_command(facts.run)
    yield "Stages", home_data.stage_table(facts)
    notes = home_data.stage_notes(facts)
    if notes:
        yield "Notes of the stages", pd.DataFrame(notes, columns=["stage", "note"])
    identity = facts.run.model_identity()
    if identity is not None:
        yield "Model", pd.DataFrame([(name.replace("_", " "), str(value)) for name, value in identity], columns=["field", "value"])
    yield "Settings", as_toml(facts.config)


_PARTS: dict[str, Callable[[RunFacts, Selected, SavedFolder], _Parts]] = {
    "evidence": _evidence,
    "actions": _actions,
    "probe": _probe,
    "basis": _basis,
    "gate": _gate,
    "policies": _policies,
    "evaluations": _evaluations,
    "causal": _causal,
    "codebook": _codebook,
    "answers": _answers,
    "saved": _saved,
    "run": _run,
}
