"""The Evaluate page's pieces: which evaluation, its methods as figures and numbers, cost, transfer, and the ways out."""

import pandas as pd
import streamlit as st
from streamlit import column_config as cc

from stir_core.evaluate.report import markdown
from stir_core.findings import EvaluationReport
from workbench import session
from workbench.bootstrap import known_evaluations, known_runs
from workbench.evaluate import data as tables
from workbench.evaluate.charts import pareto, transfer_heatmap
from workbench.evaluate.data import transfer_table
from workbench.shared.charts import method_forest
from workbench.shared.command_lines import eval_command
from workbench.shared.facts import EvaluationFacts, RunFacts
from workbench.shared.text import plain
from workbench.shared.view_page import command_line, report_downloads
from workbench.shared.view_tables import Columns, data_table, number_column

_COST_TITLES = {
    "decoded tokens": "decoded tokens an answer (committed and probe)",
    "seconds": "seconds an answer",
    "GFLOPs": "GFLOPs an answer",
}


def need_evaluation(facts: RunFacts) -> EvaluationFacts:
    """The chosen evaluation of the run; where there is none, the command that makes one, and the page stops."""
    found = known_evaluations(facts)
    if not found:
        st.info(plain(f"Run {facts.name} has not been evaluated yet. An evaluation appears here with its report."))
        command_line(eval_command(facts.run), "Compare it with doing nothing, one fixed vector, and noise (resumes where it stopped)")
        st.stop()
    return found[session.choose_one(session.EVALUATION, "Evaluation", list(found), width=320)]


def evaluation_head(facts: RunFacts, evaluation: EvaluationFacts) -> None:
    """What was compared, and what must be known before any figure is read."""
    report = evaluation.report
    st.caption(plain(tables.evaluation_line(report)))
    if leaks := tables.leak_line(report):
        st.error(plain(leaks))
    for line in tables.warnings_of(report, facts.run.digest("basis")):
        st.warning(plain(line))
    if not report.methods:
        st.info("No problem has been answered by every method yet, so there is nothing to compare.")
        _reproduce(facts, evaluation)
        st.stop()


def methods_view(evaluation: EvaluationFacts) -> None:
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
    data_table(tables.method_table(report).reindex(columns=columns), METHOD_COLUMNS, alt)


def transfer() -> None:
    """Mined task by evaluated task over all runs."""
    st.markdown("**Transfer**")
    found = {name: (run.config.task.name, known_evaluations(run).values()) for name, run in known_runs().runs.items()}
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


def evaluation_downloads(facts: RunFacts, evaluation: EvaluationFacts) -> None:
    """The command, and the report as files."""
    _reproduce(facts, evaluation)
    report_downloads(markdown(evaluation.report), evaluation.report, f"{facts.name}_{evaluation.spec.label}", "evaluate")


def _reproduce(facts: RunFacts, evaluation: EvaluationFacts) -> None:
    command_line(evaluation.spec.command or eval_command(facts.run), "Reproduce on the command line (what is there is kept)")


_PAIRED = "Paired by problem, against the baseline; "


METHOD_COLUMNS: Columns = {
    "method": cc.TextColumn("method", help="Name with the parameters that differ from its defaults.", pinned=True, width=150),
    "right": cc.TextColumn("right", help="Right answers of all answers over problems that every method has answered.", width=72),
    "accuracy": number_column("accuracy", "%.1f", "Right answers in percent.", width=70),
    "accuracy 95 %": cc.TextColumn("95 %", help="Wilson's interval; for several seeds a bootstrap over problems.", width=98),
    "won": number_column("won", "%d", "Problems it got right and the baseline did not (several seeds: more often right).", width=44),
    "lost": number_column("lost", "%d", "Problems the baseline got right and it did not.", width=44),
    "tied": number_column("tied", "%d", "Problems on which both did equally well.", width=44),
    "difference": number_column("difference", "%+.1f", _PAIRED + "in percentage points.", width=76),
    "difference 95 %": cc.TextColumn("95 %", help="Percentile bootstrap over problems.", width=106),
    "p": number_column("p", "%.3f", _PAIRED + "exact McNemar; for several seeds a sign-flip permutation test over problems.", width=52),
    "p holm": number_column("p (Holm)", "%.3f", "The same, corrected for having compared several methods.", width=68),
    "unfinished": number_column("unfin.", "%d", "Answers without a stated final answer (most often cut off by the budget).", width=56),
    "committed": number_column("committed", "%.1f", "Mean tokens of the answer itself: what the budget bounds.", width=78),
    "probe": number_column(
        "probe", "%.1f", "Mean tokens decoded beside the answer: previews, trial answers, votes that were not kept.", width=56
    ),
    "decoded": number_column("decoded", "%.1f", "Committed plus probe tokens.", width=66),
    "decoded vs": cc.TextColumn("decoded vs baseline", help=_PAIRED + "mean, bootstrap over problems.", width=146),
    "forward": number_column(
        "forward", "%.1f", "Mean token positions run through the model, prompts and unsteered passes included.", width=66
    ),
    "gflops": number_column("GFLOPs", "%.1f", "Mean floating-point operations of those passes, by formula.", width=68),
    "seconds": number_column(
        "seconds", "%.2f", "Wall-clock time of the batch shared out among its answers: depends on the machine.", width=66
    ),
    "rep 2": number_column("2-gram rep.", "%.3f", "Share of token pairs that stood before in the same answer, mean.", width=82),
    "rep 3": number_column("3-gram rep.", "%.3f", "Share of token triples that stood before in the same answer, mean.", width=82),
    "zlib": number_column("zlib", "%.3f", "Compressed over plain size of the text, mean: low is repetitive.", width=56),
    "commits": number_column("impulses", "%.2f", "Mean impulses an answer; empty for methods that have none.", width=70),
    "about": cc.TextColumn("what it is", width=320),
    "source": cc.TextColumn("source", width=220),
}
