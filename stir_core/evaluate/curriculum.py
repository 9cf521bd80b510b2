"""The curriculum: how large a share of the steps can be handled latently before accuracy falls.

The share is raised from 0 while the one-sided lower bound of the paired change of accuracy, on validation problems, stays above a margin;
at a refusal the step is halved, and two refusals end it. The limits that give a share are quantiles of the ranks of all steps of the
unsteered answers, so each share is a method of its own (``internalise:above=...``), and the answers are an evaluation like any other.
"""

from pathlib import Path

import numpy as np
from tabulate import tabulate

from stir_core.config import with_changes
from stir_core.errors import DataError
from stir_core.evaluate.decoders.internalise import EVERY, ORDERS, ranked
from stir_core.evaluate.decoders.registry import method
from stir_core.evaluate.runner import evaluate, settle
from stir_core.evaluate.statistics import least_difference
from stir_core.findings import Answer, CurriculumReport, CurriculumRow, EvaluationReport
from stir_core.models.loading import LoadedModel
from stir_core.records import OnProgress
from stir_core.requests import CurriculumRequest, EvaluationRequest
from stir_core.store.evaluations import EvaluationFolder
from stir_core.store.runs import Run

REFUSALS = 2
"""Refused shares that end the curriculum."""


def raise_share(
    run: Run,
    model: LoadedModel,
    request: CurriculumRequest,
    *,
    command: str | None = None,
    environment: dict[str, str],
    report: OnProgress = lambda progress: None,
) -> tuple[CurriculumReport, Path]:
    """Raise the share of handled steps until accuracy falls; the same call resumes.

    Returns:
        The report, and the folder of the evaluation that holds all answers.

    Raises:
        StoreError: the run has no learned gates (`stir policy`).
        DataError: no step of the unsteered answers could be handled.
    """
    folder = EvaluationFolder(run, request.label or f"curriculum-{request.how}")
    base = method(f"internalise:how={request.how}").name

    def measured(methods: list[str]) -> tuple[EvaluationReport, Path]:
        chosen = {"n": request.n, "split": request.split, "rows": request.rows, "label": folder.final.name}
        asked = EvaluationRequest(methods=tuple(methods), baseline=base, **chosen)
        spec, problems = settle(run, model.identity, asked, command=command, environment=environment, leaks=False)
        return evaluate(run, model, spec, problems, report=report)

    evaluation, path = measured([base])
    ranks = _ranks(run, folder.answers(base))
    if not ranks[ORDERS[0]]:
        raise DataError(
            f"no step of {evaluation.problems} unsteered answers has an action that could be injected: there is nothing to handle"
        )
    rows = [_row(evaluation, folder, base, None, 0.0, request.margin)]
    reached, step, refusals = 0.0, request.step, 0
    while refusals < REFUSALS and reached < 1:
        share = round(min(1.0, reached + step), 4)
        names = [method(f"{base}{',' if ':' in base else ':'}above={_limit(ranks[order], share)},order={order}").name for order in ORDERS]
        evaluation, path = measured(names)
        rows += [_row(evaluation, folder, name, order, share, request.margin) for name, order in zip(names, ORDERS, strict=True)]
        if rows[-len(ORDERS)].holds:
            reached = share
        else:
            refusals, step = refusals + 1, step / 2
    about = {"run": run.name, "how": request.how, "margin": request.margin, "problems": evaluation.problems, "reached": reached}
    return CurriculumReport(**about, rows=tuple(rows), verdict=_verdict(rows, reached, request.margin)), path


def _ranks(run: Run, answers: list[Answer]) -> dict[str, list[float]]:
    """Ranks of all steps that could be handled, by order."""
    gate, ranks = with_changes(run.config.gate, policy="direct"), {order: list[float]() for order in ORDERS}
    for answer in answers:
        assert answer.trace is not None  # the step loop records one
        for step in answer.trace.steps:
            for order in ORDERS:
                found = ranked(order, step.evidence, step.decision, gate, seed=run.config.seed, name=answer.trace.id)
                if found is not None:
                    ranks[order].append(found.score)
    return ranks


def _limit(ranks: list[float], share: float) -> str:
    """The limit above which this share of the ranks lies."""
    return f"-{EVERY}" if share == 1 else f"{np.quantile(ranks, 1 - share):.6g}"


def _row(
    evaluation: EvaluationReport, folder: EvaluationFolder, name: str, order: str | None, share: float, margin: float
) -> CurriculumRow:
    measured = next(each for each in evaluation.methods if each.name == name)
    answers = folder.answers(name)
    asked, handled = (sum(int(answer.facts[fact]) for answer in answers) for fact in ("decisions", "commits"))
    versus, least = measured.versus, None
    if versus is not None:
        pairs = [[1.0]] * len(versus.won) + [[-1.0]] * len(versus.lost) + [[0.0]] * versus.tied
        least = least_difference(pairs)
    return CurriculumRow(
        method=name,
        order=order,
        share=share,
        handled=handled / asked if asked else 0.0,
        accuracy=measured.accuracy,
        difference=versus.difference if versus is not None else None,
        least=least,
        holds=least is not None and least > -margin,
        committed=measured.committed,
        decoded=measured.total,
        forward=measured.forward,
    )


def _verdict(rows: list[CurriculumRow], reached: float, margin: float) -> str:
    points, explicit = f"{100 * margin:g} points", rows[0]
    if not reached:
        return f"No share holds: already the smallest one that was tried may cost more than {points}."
    at = {row.order: row for row in rows if row.share == reached}
    others = ", ".join(f"{order} {row.accuracy.value:.1%}" for order, row in at.items() if order != ORDERS[0])
    best = at[ORDERS[0]]
    saved = 1 - best.decoded / explicit.decoded
    return (
        f"{reached:.0%} of the steps can be handled latently within {points} of the {explicit.accuracy.value:.1%} that are right without: "
        f"{best.accuracy.value:.1%} (other orders at this share: {others}), with {abs(saved):.0%} {'fewer' if saved >= 0 else 'more'} "
        "decoded tokens."
    )


def curriculum_markdown(report: CurriculumReport) -> str:
    """The report as Markdown: a table of all shares, and what it says."""
    heads = [
        "share",
        "order",
        "handled",
        "right [95 %]",
        "difference [95 %]",
        "at least (95 %)",
        "holds",
        "committed",
        "decoded",
        "forward",
    ]
    rows = []
    for row in report.rows:
        change = [f"{row.difference:+.1%}", "-" if row.least is None else f"{100 * row.least:+.1f}"] if row.difference else ["", ""]
        shown = [f"{row.share:.0%}", row.order or "-", f"{row.handled:.0%}", f"{row.accuracy:.1%}", *change]
        shown += ["yes" if row.holds else "no"] if row.order else [""]
        rows.append([*shown, *(f"{tokens:.1f}" for tokens in (row.committed, row.decoded, row.forward))])
    lines = [
        f"# Curriculum: {report.how}, {report.problems} problems",
        "",
        tabulate(rows, heads, "github", disable_numparse=True),
        "",
        "share: steps that were to be handled latently, of those that the gate may steer; handled: those that were. Differences are paired "
        "by problem against share 0; a share holds where the one-sided 95 % lower bound of its difference is above "
        f"{-100 * report.margin:g} points. Tokens are means over answers: committed, decoded (with previews), all positions run.",
        "",
        report.verdict,
    ]
    return "\n".join(lines) + "\n"
