"""What every page shares: its heading, the border where refusals become one line, and the states with nothing to show."""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from stir_core.errors import StirError
from workbench import session
from workbench.shared.command_lines import FIRST_RUN, run_command
from workbench.shared.run_facts import RunFacts
from workbench.shared.view_command import command_line
from workbench.shared.view_copy_link import complete_address, copy_link
from workbench.shared.view_run_picker import current_run, run_picker
from workbench.shared.visible_text import plain


@contextmanager
def page(title: str, caption: str) -> Iterator[None]:
    """Heading and one line on what the page shows; a :class:`StirError` inside becomes one line; anything else is a bug."""
    session.begin_page(title)
    left, middle, right = st.columns([4, 0.6, 1], vertical_alignment="bottom")
    with left, st.container(gap="xxsmall"):
        st.subheader(title, anchor=False)
        st.caption(caption)
    with middle:
        address = st.empty()
        copy_link()
    with right:
        run_picker()
    try:
        with st.container(gap="small"):
            yield
    except StirError as error:
        st.error(plain(str(error)))
    if entered_with := session.end_page():
        with address:
            complete_address(entered_with)


def need_entries(facts: RunFacts) -> None:
    """Stop the page when the run's library is empty, with the notes that say why."""
    if facts.entries:
        return
    st.info(plain(f"The library of run {facts.name} is empty: no problem had both a right and a wrong rollout at a control point."))
    for note in facts.run.manifest("actions").notes:
        st.caption(plain(note))
    st.stop()


def need_run(*stages: str) -> RunFacts:
    """The chosen run with all of ``stages`` finished; otherwise prints the command that makes what is missing, and stops the page."""
    facts = current_run()
    if facts is None:
        st.info("There is no run here yet. Make one; it appears as soon as its first stage has finished.")
        command_line(FIRST_RUN, "Make a first run")
        st.stop()
    missing = [stage for stage in stages if stage not in facts.stages]
    if missing:
        st.info(plain(f'Run {facts.name} has no finished stage "{missing[0]}" yet, which this page shows.'))
        command_line(run_command(facts.run, until=stages[-1]), "Make it (finished stages are kept)")
        st.stop()
    return facts
