"""The Evaluate page's pieces: which evaluation, its methods as figures and numbers, cost, transfer, and the ways out."""

import pandas as pd
import streamlit as st

from stir_core.findings import EvaluationReport
from workbench import session
from workbench.bootstrap import evaluations, store
from workbench.evaluate import data as tables
from workbench.evaluate.charts_pareto import pareto
from workbench.evaluate.charts_transfer import transfer_heatmap
from workbench.evaluate.transfer import transfer_table
from workbench.shared.charts_forest import method_forest
from workbench.shared.command_lines import eval_command
from workbench.shared.evaluation_facts import EvaluationFacts
from workbench.shared.run_facts import RunFacts
from workbench.shared.view_columns import METHOD_COLUMNS
from workbench.shared.view_command import command_line
from workbench.shared.visible_text import plain

_COST_TITLES = {
    "decoded tokens": "decoded tokens an answer (committed and probe)",
    "seconds": "seconds an answer",
    "GFLOPs": "GFLOPs an answer",
}


def need_evaluation(facts: RunFacts) -> EvaluationFacts:
    """The chosen evaluation of the run; where there is none, the command that makes one, and the page stops."""
    found = evaluations(facts)
    if not found:
        st.info(plain(f"Run {facts.name} has not been evaluated yet. An evaluation appears here with its report."))
        command_line(eval_command(facts.run), "Compare it with doing nothing, one fixed vector, and noise (resumes where it stopped)")
        st.stop()
    return found[session.choose(session.EVALUATION, "Evaluation", list(found), width=320)]


def header(facts: RunFacts, evaluation: EvaluationFacts) -> None:
    """What was compared, and what must be known before any figure is read."""
    report = evaluation.report
    st.caption(plain(tables.facts_line(report)))
    if leaks := tables.leak_line(report):
        st.error(plain(leaks))
    for line in tables.warnings_of(report, facts.run.digest("basis")):
        st.warning(plain(line))
    if not report.methods:
        st.info("No problem has been answered by every method yet, so there is nothing to compare.")
        _reproduce(facts, evaluation)
        st.stop()


def methods(evaluation: EvaluationFacts) -> None:
    """Accuracies and paired differences as a forest plot, and every number in a table."""
    report = evaluation.report
    st.markdown("**Methods**")
    accuracies, differences = tables.forest_tables(report)
    figure = method_forest(accuracies, differences, report.spec.baseline)
    st.plotly_chart(
        figure,
        key="evaluate_forest",
        config={"displaylogo": False, "displayModeBar": False},
        alt="Accuracy of each method, and its paired difference from the baseline, with 95 % intervals",
    )
    _half(report, tables.RESULTS, "Methods, how often they were right, and how they compare with the baseline")
    tests = ", ".join(sorted({method.versus.test for method in report.methods if method.versus}))
    made = ", ".join(sorted({method.interval for method in report.methods}))
    repeats = f" {report.spec.same_words} problems repeat a mined one but for its numbers." if report.spec.same_words else ""
    st.caption(
        plain(
            f"n = {report.problems} problems, the same for all. Accuracy intervals: {made}; differences: bootstrap over problems; "
            f"p: {tests or 'none'}, Holm over the methods.{repeats}"
        )
    )


def costs(evaluation: EvaluationFacts) -> None:
    """Accuracy against what it cost."""
    st.markdown("**Accuracy against cost**")
    cost = (
        st.segmented_control("Cost", list(tables.COSTS), default="decoded tokens", required=True, key="evaluate_cost") or "decoded tokens"
    )
    table = tables.pareto_table(evaluation.report, tables.COSTS[cost])
    if table.empty:
        st.caption("No method's cost was measured in that unit.")
    else:
        _front(evaluation, table, cost)
    _half(evaluation.report, tables.COSTS_AND_TEXT, "Methods, what they cost, and how their text reads")
    st.caption("Means an answer. Point at a heading for how its numbers are made.")


def _front(evaluation: EvaluationFacts, table: pd.DataFrame, cost: str) -> None:
    st.plotly_chart(pareto(table, _COST_TITLES[cost]), key="evaluate_pareto", config={"displaylogo": False}, alt=f"Accuracy against {cost}")
    front = ", ".join(table[table["front"]]["method"])
    left_out = len(evaluation.report.methods) - len(table)
    st.caption(
        plain(
            f"Dotted: no other method is at least as right for at most as much ({front}). By point values: where intervals overlap, the "
            f"order is not settled.{f' {left_out} methods without this figure are left out.' if left_out else ''}"
        )
    )


def _half(report: EvaluationReport, columns: list[str], alt: str) -> None:
    config = {name: METHOD_COLUMNS[name] for name in columns}
    st.dataframe(tables.method_table(report)[columns], hide_index=True, placeholder="", column_config=config, alt=alt)


def transfer() -> None:
    """Mined task by evaluated task over all runs."""
    st.markdown("**Transfer**")
    found = {name: (run.config.task.name, evaluations(run).values()) for name, run in store().runs.items()}
    table, broken = transfer_table(found)
    if not table.empty:
        st.altair_chart(
            transfer_heatmap(table), key="evaluate_transfer", width="content", alt="Difference of stir by run and evaluated task"
        )
        st.caption(
            f"n = {len(table)} cells: accuracy of stir minus the baseline's, in points, paired by problem; interval and p in the tooltip. "
            "Framed: evaluated on the task it was mined on; exclamation mark: unfinished, or problems were mined. "
            "Of several evaluations of a task the largest finished one without mined "
            "problems is shown."
        )
    else:
        st.caption("No evaluation compares stir with a baseline yet.")
    for line in broken:
        st.warning(plain(line))


def exits(facts: RunFacts, evaluation: EvaluationFacts) -> None:
    """The command, and the report as files."""
    _reproduce(facts, evaluation)
    name, report = f"{facts.name}_{evaluation.spec.label}", evaluation.report
    with st.container(horizontal=True):
        st.download_button(
            "Report (Markdown)", tables.report_markdown(report), f"{name}.md", "text/markdown", key="evaluate_md", on_click="ignore"
        )
        st.download_button(
            "Report (JSON)", report.model_dump_json(indent=2), f"{name}.json", "application/json", key="evaluate_json", on_click="ignore"
        )


def _reproduce(facts: RunFacts, evaluation: EvaluationFacts) -> None:
    command_line(evaluation.spec.command or eval_command(facts.run), "Reproduce on the command line (what is there is kept)")
