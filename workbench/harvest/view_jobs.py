"""The Harvest page's jobs: live progress, stages on a time axis, log, cancel, resume. Polls only while a job runs."""

import time

import pandas as pd
import streamlit as st
from streamlit import column_config as cc

from stir_core.commands.watch import harvest_line, verdict_word
from stir_core.errors import FAULTS, line_of
from stir_core.records import Rollout
from stir_core.store.runs import Run
from stir_core.store.watching import HarvestWatch
from workbench import session
from workbench.bootstrap import PAGES, jobs, known_runs
from workbench.harvest import data as view
from workbench.harvest.charts import stage_timeline
from workbench.jobs import JobStore, Status
from workbench.shared.text import plain, segment
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import Columns, data_table
from workbench.shared.view_text import text_strip

_COLOURS = {"running": "blue", "stopping": "orange", "finished": "green", "stopped": "gray", "failed": "red", "lost": "red"}
_EVERY = 1.0
"""Seconds between two polls."""
_SHOWN = 20
"""Maximum number of jobs that are listed."""


def jobs_view() -> None:
    """All jobs; the latest one is shown in full."""
    st.markdown("**Jobs**")
    running = jobs().running()
    seen = [(each.job.id, each.state, _finished(jobs(), each)) for each in running]
    st.fragment(run_every=_EVERY if running else None)(_jobs)(seen)


def _jobs(seen: list[tuple[str, str, tuple[str, ...]]]) -> None:
    own = jobs()
    found, broken = own.all()
    if seen and [(each.job.id, each.state, _finished(own, each)) for each in found if each.running] != seen:
        st.rerun()  # a job or a stage has ended: the rest of the page must show it too, so redraw more than this fragment
    for line in broken:
        st.warning(plain(line))
    if not found:
        st.caption(
            "No job was started from this page yet. Runs started on the command line appear on Home once their first stage has finished."
        )
        return
    _job(own, found[0], live=True)
    if found[1:]:
        with st.expander(f"Earlier jobs ({len(found) - 1})"):
            for each in found[1:_SHOWN]:
                _job(own, each)
            if len(found) > _SHOWN:
                st.caption(plain(f"{len(found) - _SHOWN} older jobs are not shown; their files lie in the folder jobs beside the runs."))


def _job(own: JobStore, status: Status, *, live: bool = False) -> None:
    job, last = status.job, status.last
    finished = _finished(own, status)
    with st.container(border=True, gap="small", key=f"harvest_job_{job.id}"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{plain(job.run)}**", width="content")
            st.badge(status.state, color=_COLOURS[status.state])  # pyright: ignore[reportArgumentType]
            st.caption(plain(_when(status)), width="content")
            _buttons(own, status, finished)
        if pace := view.pace(status.lines):
            st.progress(pace.share, plain(pace.text))
        elif status.running:
            st.caption("Loading: imports and model.")
        if last is not None and last.error:
            st.error(plain(last.error))
        if status.state == "lost":
            st.warning(
                "The process ended without a last message: it was killed, ran out of memory, or the machine went down. "
                "Finished work is kept; Resume continues it."
            )
        if live:
            _rollouts(own, status)
        table = view.timeline(status.lines, job.started, time.time())
        if not table.empty:
            draw_chart(stage_timeline(table), alt="Stages on a time axis", key=f"harvest_time_{job.id}")
        if kept := view.kept_stages(finished, status.lines):
            st.caption(plain(f"Finished before this attempt: {', '.join(kept)}"))
        with st.expander("Log and command"):
            st.code(own.tail(job) or "nothing printed yet", language=None, height=220)
            command_line(job.shown, "The command that was started")


def _rollouts(own: JobStore, status: Status) -> None:
    """The rollouts so far, read beside the process that appends them: count, share of right ones, and the last with their texts."""
    job = status.job
    try:
        key = f"harvest_watch_{job.id}_{job.attempts}"
        watch = session.state_of(key)
        if watch is None:
            watch = HarvestWatch(Run.open(own.run_folder(job.run)))
            session.set_state(key, watch)
        found = watch.look(time.monotonic())
    except FAULTS as error:
        if status.lines and status.last is not None and status.last.stage is not None:  # else the run has no folder yet
            st.caption(plain(line_of(error)))
        return
    if found is None or not found.done:
        return
    st.markdown("**Rollouts so far**")
    early = "" if found.finished else " Answers that end early come first, so the share can move."
    st.caption(plain(f"{harvest_line(found)}.{early}"))
    chosen = f"harvest_chosen_{job.id}"

    def choose(row: int) -> None:
        session.set_state(chosen, found.last[row])

    rows = [
        (verdict_word(each), each.problem_id, each.k, each.n_tokens, each.verdict.extracted, each.verdict.reason) for each in found.last
    ]
    table = pd.DataFrame(rows, columns=["verdict", "problem", "k", "tokens", "extracted", "why"])
    data_table(table, _ROLLOUTS, "The last rollouts, the latest first", key=f"harvest_last_{job.id}", height="content", clicked=choose)
    one: Rollout = session.state_of(chosen) or found.last[0]
    head = f"{verdict_word(one)}: {one.problem_id}, k {one.k}. Click a row for its text."
    text_strip([segment(one.text)], key=f"harvest_text_{job.id}", head=head, height=200)


_ROLLOUTS: Columns = {
    "verdict": cc.TextColumn("verdict", width=80, help="right, wrong, cut off at the token budget, or no answer stated."),
    "problem": cc.TextColumn("problem", width=240),
    "k": cc.NumberColumn("k", width=40, format="%d", help="Which rollout of the problem."),
    "tokens": cc.NumberColumn("tokens", width=64, format="%d"),
    "extracted": cc.TextColumn("extracted", width=100, help="The final answer as text; empty: none was stated."),
    "why": cc.TextColumn("why", width=420),
}


def _buttons(own: JobStore, status: Status, finished: tuple[str, ...]) -> None:
    job = status.job
    name = _shown_as(own, job.run) if finished else None
    if name and st.button("Show this run on all pages", key=f"harvest_open_{job.id}", on_click=session.point_at, args=(session.RUN, name)):
        st.switch_page(PAGES / "home.py")
    try:
        if status.running:
            if st.button("Cancel", key=f"harvest_cancel_{job.id}", disabled=status.state == "stopping", help="Finished work is kept."):
                own.cancel(job.id)
                st.rerun()
        elif status.state != "finished" and st.button(
            "Resume", key=f"harvest_resume_{job.id}", help="Starts the same command again; finished work is kept."
        ):
            own.resume(job.id)
            st.rerun()
    except FAULTS as error:
        st.error(plain(line_of(error)))


def _shown_as(own: JobStore, run: str) -> str | None:
    """Name of a run in the run picker."""
    folder = own.run_folder(run)
    return next((name for name, facts in known_runs().runs.items() if facts.run.path == folder), None)


def _when(status: Status) -> str:
    job, last = status.job, status.last
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started))
    end = last.at if last is not None and not status.running else time.time()
    tries = f" · attempt {job.attempts}" if job.attempts > 1 else ""
    return f"started {at} · {view.words(max(0.0, end - job.started))}{tries}"


def _finished(own: JobStore, status: Status) -> tuple[str, ...]:
    """Finished stages of the run that a job makes; none while its folder is not a run yet."""
    try:
        return Run.open(own.run_folder(status.job.run)).stages()
    except FAULTS:  # no run.json yet: the model is still being loaded, or the command was refused
        return ()
