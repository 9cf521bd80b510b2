"""The command that makes or reproduces what a page shows, ready to be copied."""

import streamlit as st


def command_line(command: str, label: str = "Reproduce on the command line") -> None:
    """A caption and the command below it."""
    st.caption(label)
    st.code(command, language="bash", wrap_lines=True)
