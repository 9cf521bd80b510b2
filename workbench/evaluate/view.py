"""The Evaluate page: choice of the evaluation, its verdict, and tabs for methods, cost, flips and transfer, of which only the open one is
computed."""

import pandas as pd
import streamlit as st
from streamlit import column_config as cc

from stir_core.evaluate.report import evaluation_markdown, rounding_note
from stir_core.findings import EvaluationReport
from workbench import session
from workbench.bootstrap import known_evaluations, known_runs
from workbench.evaluate import data as tables
from workbench.evaluate.charts import pareto, transfer_heatmap
from workbench.evaluate.view_flips import flip_views
from workbench.shared.charts import method_forest
from workbench.shared.command_lines import eval_command
from workbench.shared.conclusion import conclusion, readable
from workbench.shared.facts import EvaluationFacts, RunFacts
from workbench.shared.text import plain
from workbench.shared.view_charts import ZOOMED, draw_chart
from workbench.shared.view_page import badged_line, command_line, lazy_tabs, report_downloads
from workbench.shared.view_tables import Columns, data_table, number_column

_COST_TITLES = {
    "decoded tokens": "decoded tokens per answer (committed and probe)",
    "seconds": "seconds per answer",
    "GFLOPs": "GFLOPs per answer",
}


def need_evaluation(facts: RunFacts) -> EvaluationFacts:
    """The chosen evaluation of the run. If there is none, shows the command that makes one and stops the page."""
    evaluations = known_evaluations(facts)
    if not evaluations:
        st.info(plain(f"Run {facts.name} has not been evaluated yet. An evaluation appears here once it has a report."))
        command_line(eval_command(facts.run), "Compare it with vanilla decoding, one fixed vector, and noise (resumes if interrupted)")
        st.stop()
    return evaluations[session.choose_one(session.EVALUATION, "Evaluation", list(evaluations), width=320)]


def evaluation_head(facts: RunFacts, evaluation: EvaluationFacts) -> None:
    """The verdict in one sentence, the settings, and warnings that concern all figures."""
    report = evaluation.report
    if (found := conclusion(report)) is not None:
        badged_line(found.verdict, found.text)
        if found.others:
            st.caption(plain(f"The other methods against {readable(report.spec.baseline)}: {found.others}."))
    st.caption(plain(tables.evaluation_line(report)))
    if facts.steered:
        st.caption(f"Home shows the run's own replay of {len(facts.steered)} held-out problems instead, so its figures differ.")
    if leaks := tables.leak_line(report):
        st.error(plain(leaks))
    for line in tables.warnings_of(report, facts.basis_digest):
        st.warning(plain(line))
    if not report.methods:
        st.info("No problem has been answered by every method yet, so there is nothing to compare.")
        _reproduce(facts, evaluation)
        st.stop()


METHODS, COST, FLIPS, TRANSFER = "Methods", "Accuracy against cost", "Flips", "Transfer"
_TAB = "evaluate_tab"


def tabs(facts: RunFacts, evaluation: EvaluationFacts) -> None:
    """The page's parts as tabs; a link to a problem opens the flips, and the address holds the open tab."""
    drawn = {
        METHODS: lambda: methods_view(evaluation),
        COST: lambda: costs(evaluation),
        FLIPS: lambda: flip_views(facts, evaluation),
        TRANSFER: transfer,
    }
    if _TAB not in session.parameters() and session.link_asks(session.ANSWERED):
        session.set_state(_TAB, FLIPS)
    lazy_tabs(_TAB, drawn)


def methods_view(evaluation: EvaluationFacts) -> None:
    """Accuracies and paired differences, as a forest plot and as a table."""
    report = evaluation.report
    accuracies, differences = tables.forest_tables(report)
    figure = method_forest(accuracies, differences, readable(report.spec.baseline))
    draw_chart(
        figure,
        key="evaluate_forest",
        alt="Accuracy of each method, and its paired difference from the baseline, with 95 % intervals",
    )
    _half(report, tables.RESULTS, "Accuracy of each method, and its difference from the baseline")
    tests = ", ".join(sorted({method.versus.test for method in report.methods if method.versus}))
    intervals = ", ".join(sorted({method.interval for method in report.methods}))
    repeats = f" {report.spec.same_words} problems are worded like a mined one, with other numbers." if report.spec.same_words else ""
    repeats += f" Left out, since the prompt does not fit the context: {len(report.spec.left_out)}." if report.spec.left_out else ""
    repeats += f" Rounding: {rounding.replace('`', '')}" if (rounding := rounding_note(report)) else ""
    st.caption(
        plain(
            f"n = {report.problems} problems, the same for all. Accuracy intervals: {intervals}; differences: Tango's score interval; "
            f"p: {tests or 'none'}, Holm over the methods. Colour: the verdict, by interval and p.{repeats}"
        )
    )


def costs(evaluation: EvaluationFacts) -> None:
    """Accuracy against cost."""
    cost = (
        st.segmented_control("Cost", list(tables.COSTS), default="decoded tokens", required=True, key="evaluate_cost") or "decoded tokens"
    )
    table = tables.pareto_table(evaluation.report, cost)
    if table.empty:
        st.caption("This cost was not measured for any method.")
    else:
        _front(evaluation, table, cost)
    _half(evaluation.report, tables.COSTS_AND_TEXT, "Costs and text statistics of each method")
    st.caption("Means over answers. Hover over a heading for its definition.")


def _front(evaluation: EvaluationFacts, table: pd.DataFrame, cost: str) -> None:
    draw_chart(pareto(table, _COST_TITLES[cost]), key="evaluate_pareto", config=ZOOMED, alt=f"Accuracy against {cost}")
    front = ", ".join(table[table["front"]]["method"])
    left_out = len(evaluation.report.methods) - len(table)
    st.caption(
        plain(
            f"Dotted: Pareto front; no other method is at least as accurate at no higher cost ({front}). It goes by the point estimates: "
            f"where intervals overlap, the order is uncertain.{f' {left_out} methods without this cost are left out.' if left_out else ''}"
        )
    )


def _half(report: EvaluationReport, columns: list[str], alt: str) -> None:
    data_table(tables.method_table(report).reindex(columns=columns), METHOD_COLUMNS, alt)


def transfer() -> None:
    """Difference from the baseline by mined task and evaluated task, over all runs."""
    runs = {name: (run.config.task.name, known_evaluations(run).values()) for name, run in known_runs().runs.items()}
    table, broken = tables.transfer_table(runs)
    if table.empty:
        st.caption("No evaluation compares stir with a baseline yet.")
    else:
        chart = transfer_heatmap(table)
        draw_chart(chart, key="evaluate_transfer", alt="Difference of stir by run and evaluated task")
        st.caption(
            f"n = {len(table)} cells: accuracy of stir minus the baseline's, in points, paired by problem; interval and p in the tooltip. "
            "Framed: evaluated on the task it was mined on. Exclamation mark: unfinished, or evaluation problems were mined. "
            "Of several evaluations of a task, the largest finished one without mined problems is shown."
        )
    for line in broken:
        st.warning(plain(line))


def evaluation_downloads(facts: RunFacts, evaluation: EvaluationFacts) -> None:
    """The command that makes the evaluation, and its report as files."""
    _reproduce(facts, evaluation)
    report_downloads(evaluation_markdown(evaluation.report), evaluation.report, f"{facts.name}_{evaluation.spec.label}", "evaluate")


def _reproduce(facts: RunFacts, evaluation: EvaluationFacts) -> None:
    command_line(evaluation.spec.command or eval_command(facts.run), "Reproduce on the command line (existing answers are kept)")


_PAIRED = "Paired by problem, against the baseline; "


METHOD_COLUMNS: Columns = {
    "name": cc.TextColumn("method", pinned=True, width=190),
    "method": cc.TextColumn("as written", help="In --methods: name, and the parameters that differ from their defaults.", width=260),
    "right": cc.TextColumn("right", help="Right answers of all answers, over the problems that every method has answered.", width=72),
    "accuracy": number_column("accuracy", "%.1f", "Right answers in percent.", width=70),
    "accuracy 95 %": cc.TextColumn("95 %", help="Wilson's interval; for several seeds with problems as clusters.", width=98),
    "won": number_column(
        "won", "%d", "Problems that it got right and the baseline did not (several seeds: was right more often).", width=44
    ),
    "lost": number_column("lost", "%d", "Problems that the baseline got right and it did not.", width=44),
    "tied": number_column("tied", "%d", "Problems on which both were right equally often.", width=44),
    "difference": number_column("difference", "%+.1f", _PAIRED + "in percentage points.", width=76),
    "difference 95 %": cc.TextColumn("95 %", help="Tango's score interval with problems as clusters.", width=106),
    "p": number_column("p", "%.3f", _PAIRED + "exact McNemar; for several seeds a sign-flip permutation test over problems.", width=52),
    "p holm": number_column("p (Holm)", "%.3f", "p with Holm's correction for comparing several methods.", width=68),
    "unfinished": number_column("unfin.", "%d", "Answers without a stated final answer (most often cut off by the budget).", width=56),
    "committed": number_column("committed", "%.1f", "Mean tokens of the answer itself, which the budget limits.", width=78),
    "probe": number_column(
        "probe", "%.1f", "Mean tokens decoded in addition: previews, trial answers, votes that were not kept.", width=56
    ),
    "decoded": number_column("decoded", "%.1f", "Committed plus probe tokens.", width=66),
    "committed vs": cc.TextColumn("committed vs baseline", help=_PAIRED + "mean with a t interval over problems.", width=146),
    "decoded vs": cc.TextColumn("decoded vs baseline", help=_PAIRED + "mean with a t interval over problems.", width=146),
    "forward": number_column(
        "forward", "%.1f", "Mean token positions run through the model, including prompts and unsteered passes.", width=66
    ),
    "gflops": number_column("GFLOPs", "%.1f", "Mean floating-point operations of those passes, by formula.", width=68),
    "seconds": number_column(
        "seconds", "%.2f", "Wall-clock time of the batch, divided among its answers; depends on the machine.", width=66
    ),
    "rep 2": number_column("repeated pairs", "%.3f", "Mean share of token pairs that occurred earlier in the same answer.", width=82),
    "rep 3": number_column("repeated triples", "%.3f", "Mean share of token triples that occurred earlier in the same answer.", width=82),
    "zlib": number_column("zlib", "%.3f", "Mean of compressed size over plain size of the text; low is repetitive.", width=56),
    "commits": number_column("impulses", "%.2f", "Mean impulses in an answer; empty for methods that inject none.", width=70),
    "about": cc.TextColumn("description", width=320),
    "source": cc.TextColumn("source", width=220),
}
