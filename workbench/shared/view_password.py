"""The question before all pages of a shared workbench."""

import functools
import os

import streamlit as st

from stir_core.deploy.serving.guard import is_loopback
from stir_core.deploy.serving.password import HASH, MOST_CHARS, PasswordCheck
from stir_core.errors import DeployError
from workbench import session


@functools.cache  # not Streamlit's cache: a browser can ask for that to be cleared, and the wait after a wrong password with it
def password_check(hash: str) -> PasswordCheck:
    """The one comparison of this server, with its wait."""
    return PasswordCheck(hash)


def is_open() -> bool:
    """Whether this browser tab may see pages: the server listens on the loopback, or the password was given here."""
    if HASH in os.environ:
        return session.state_of(session.LET_IN) is True
    return is_loopback(str(st.get_option("server.address") or ""))


def ask() -> None:
    """Draw the question for the password, and nothing else; the right one opens the pages in this tab."""
    st.title("STIR Workbench")
    if HASH not in os.environ:
        st.error("This server can be reached from other machines and has no password: start it with `stir workbench --share`.")
        return
    with st.form("password", width=420, clear_on_submit=True):
        given = st.text_input("Password", type="password", max_chars=MOST_CHARS, autocomplete="current-password")
        asked = st.form_submit_button("Open", type="primary")
    if not asked:
        return
    try:
        if password_check(os.environ[HASH]).fits(given):
            session.set_state(session.LET_IN, True)
            st.rerun()
        st.error("That is not the password.")
    except DeployError as error:
        st.error(str(error))
