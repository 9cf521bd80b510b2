"""Home's pieces: the runs, one run's held-out result, stages, notes, model and command."""

import streamlit as st
from streamlit import column_config as cc

from stir_core.errors import StoreError
from workbench import bootstrap, session
from workbench.bootstrap import known_runs, shelf
from workbench.home import data as overview
from workbench.shared.command_lines import run_command
from workbench.shared.facts import RunFacts, differing_identity
from workbench.shared.intervals import with_interval
from workbench.shared.text import one_line, plain
from workbench.shared.view_page import command_line
from workbench.shared.view_saved import NONE_YET, decoding_now, page_link
from workbench.shared.view_tables import Columns, data_table, number_column


def runs() -> None:
    """The table of runs, and a warning for each unreadable folder. A click on a row chooses the run on every page."""
    st.header("Runs", anchor=False)
    st.caption("One row per run. Accuracy is on held-out problems, the same ones for both arms; empty: not measured.")
    known, broken = known_runs()
    faults = list(broken.values())
    if known:
        names = list(known)

        def choose_row(row: int) -> None:
            session.point_at(session.RUN, names[row])

        table, damaged = overview.runs_table(list(known.values()))
        faults += damaged
        table["run"] = names
        data_table(table, RUN_COLUMNS, "All runs", key="runs_table", clicked=choose_row)
    for line in faults:
        st.warning(plain(line))


def recent_saved(most: int = 5) -> None:
    """What is being decoded, and the last saved traces, branches and measurements, each with a way to it."""
    works, runs = bootstrap.saved().all()[0], bootstrap.runs_by_digest()
    st.header("Recent work", anchor=False)
    decoding_now()
    if not works:
        st.caption(NONE_YET)
    for work in works[:most]:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            page_link(work.id, runs.get(work.run_digest), f"{work.kind}: {plain(one_line(work.title, 70))}")
            st.caption(plain(f"{one_line(work.outcome, 100)} · {work.run} · {work.created} UTC"))
    if len(works) > most:
        st.page_link(bootstrap.PAGES / "saved.py", label=f"All {len(works)}")


def held_out_line(facts: RunFacts) -> None:
    """The chosen run's held-out result in one row of figures."""
    try:
        result = overview.held_out(facts)
    except StoreError as error:
        st.error(plain(str(error)))
        return
    if facts.run.results_only:
        return
    if result.vanilla.rate is None or result.steered.rate is None:
        st.caption("No held-out result yet: the last stage has not finished, or its answers have no verdict.")
        return
    columns = st.columns(5)
    columns[0].metric("Vanilla accuracy", f"{result.vanilla.rate:.1%}", help=str(result.vanilla))
    change = f"{100 * (result.steered.rate - result.vanilla.rate):+.1f} points"
    columns[1].metric(
        "Steered accuracy", f"{result.steered.rate:.1%}", change, delta_color="off", delta_arrow="off", help=str(result.steered)
    )
    columns[2].metric("Gained / lost", f"{result.gained} / {result.lost}", help="Problems that steering turned right / wrong.")
    columns[3].metric(
        "Mean tokens", f"{result.tokens_vanilla:.0f} → {result.tokens_steered:.0f}", help="Committed tokens, vanilla → steered."
    )
    columns[4].metric("Mean probe tokens", f"{result.probe_tokens:.0f}", help="Tokens decoded in previews; not in the mean tokens.")
    rates = f"vanilla {result.vanilla}; steered {result.steered}; difference {with_interval(result.difference, '+.1%')}"
    st.caption(
        plain(f"n = {result.vanilla.n} held-out problems, paired. {rates}. An action was committed on {result.committed:.0%} of them.")
    )


def stage_notes_view(facts: RunFacts) -> None:
    """Warnings that the stages recorded."""
    for stage, note in overview.stage_notes(facts):
        st.warning(plain(f"{stage}: {note}"))


def stages_and_model(facts: RunFacts) -> None:
    """The stages on disk, and the run's model beside the one in memory; nothing of a run that ships as its results, which has neither."""
    if facts.run.results_only:
        return
    left, right = st.columns([1.1, 1], gap="medium")
    with left:
        st.header("Stages on disk", anchor=False)
        data_table(overview.stage_table(facts), STAGE_COLUMNS, "Stages of the run")
    with right:
        st.header("Model", anchor=False)
        _model(facts)


def _model(facts: RunFacts) -> None:
    made_with, loaded = facts.run.model_identity(), shelf().identity
    if made_with is None:
        st.caption("No stage has finished, so no model has been used yet.")
        return
    if loaded is None:
        st.caption(plain(f"No model is in memory. Trace loads {facts.config.model.name} on first use; pages that read runs need none."))
        if st.button("Load the model now", key="load_model"):
            with st.spinner("Loading the model"):
                loaded = shelf().load(facts.config.model)
    if loaded is not None:
        agrees = not differing_identity(made_with, loaded)
        st.badge(
            "the model in memory may use this run" if agrees else "refused: made with another model", color="green" if agrees else "red"
        )
    data_table(overview.identity_table(made_with, loaded), IDENTITY_COLUMNS, "Model identity, field by field")


def made_by(facts: RunFacts) -> None:
    """The command that makes the run, and its resolved configuration."""
    command_line(run_command(facts.run), "The command that made it (called again, it keeps finished stages)")
    with st.expander("Resolved configuration"):
        st.json(facts.config.model_dump(mode="json"), expanded=1)


RUN_COLUMNS: Columns = {
    "run": cc.TextColumn("run", pinned=True),
    "kind": cc.TextColumn(
        "kind", help="A calibration object is an organism: its habits are planted, so that instruments can be judged on it."
    ),
    "stages": cc.TextColumn("stages", help="Number of finished stages, and the last one."),
    "problems": number_column("problems", "%d", "Mined problems."),
    "rollouts": number_column("rollouts", "%d", "Sampled answers."),
    "entries": number_column("entries", "%d", "Library entries: corrective and null."),
    "basis": number_column("basis", "%d", "Entries in the control basis."),
    "layers": cc.TextColumn("layers", help="Blocks whose outputs were mined."),
    "held-out n": number_column("n", "%d", "Held-out problems graded in both arms."),
    "vanilla": cc.ProgressColumn("vanilla", format="percent", min_value=0, max_value=1, help="Held-out accuracy without steering."),
    "steered": cc.ProgressColumn("steered", format="percent", min_value=0, max_value=1, help="Held-out accuracy with steering."),
    "gained": number_column("gained", "%d", "Wrong without steering, right with it."),
    "lost": number_column("lost", "%d", "Right without steering, wrong with it."),
    "notes": number_column("notes", "%d", "Warnings that the stages recorded."),
}


STAGE_COLUMNS: Columns = {
    "holds": cc.TextColumn("holds", width="large"),
    "digest": cc.TextColumn("digest", help="Equal digests mean equal files."),
}


IDENTITY_COLUMNS: Columns = {
    "run": cc.TextColumn("this run was made with", width=150),
    "loaded model": cc.TextColumn("model in memory", width=150),
    "checked": cc.TextColumn("checked", help="A model that differs here is refused."),
}
