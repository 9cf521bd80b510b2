"""The Harvest page's jobs: live progress, stages on a time axis, log, cancel, resume. Polls only while a job runs."""

import time

import streamlit as st

from stir_core.errors import FAULTS, line_of
from stir_core.store.runs import Run
from workbench import session
from workbench.bootstrap import PAGES, jobs, known_runs
from workbench.harvest import data as view
from workbench.harvest.charts import stage_timeline
from workbench.jobs import JobStore, Status
from workbench.shared.text import plain
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_page import command_line

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
    _job(own, found[0])
    if found[1:]:
        with st.expander(f"Earlier jobs ({len(found) - 1})"):
            for each in found[1:_SHOWN]:
                _job(own, each)
            if len(found) > _SHOWN:
                st.caption(plain(f"{len(found) - _SHOWN} older jobs are not shown; their files lie in the folder jobs beside the runs."))


def _job(own: JobStore, status: Status) -> None:
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
        table = view.timeline(status.lines, job.started, time.time())
        if not table.empty:
            draw_chart(stage_timeline(table), alt="Stages on a time axis", key=f"harvest_time_{job.id}")
        if kept := view.kept_stages(finished, status.lines):
            st.caption(plain(f"Finished before this attempt: {', '.join(kept)}"))
        with st.expander("Log and command"):
            st.code(own.tail(job) or "nothing printed yet", language=None, height=220)
            command_line(job.shown, "The command that was started")


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
