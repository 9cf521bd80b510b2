"""What the user has chosen, in one place: the only module that names session keys and URL parameters.

Run, action, problem and step are selectboxes bound to the URL, shared by every page under one key each, and remembered while a
page that does not show them is open. Charts and tables point at things through :func:`point_at` in their callbacks.
"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from workbench.services.trace_comparison import Recording

RUN, ACTION, PROBLEM, STEP = "run", "action", "problem", "step"
EVALUATION, METHOD, ANSWERED = "evaluation", "method", "answered"
"""An evaluation of the run, a method that it compared, and a problem that both answered."""
OTHER = "other"
"""The second entry of a pair, chosen in the cosine heatmap."""
_RECORDING = "trace_recording"
_MEMORY = "chosen_{}"


def choose(key: str, label: str, options: Sequence[str], **widget: Any) -> str:
    """A selectbox bound to ``?key=``; the remembered choice where it is still an option, else the first option.

    ``options`` must not be empty. A value in the URL that is not an option is ignored.
    """
    prepare(key, options)
    value = st.selectbox(label, options, index=None, key=key, bind="query-params", **widget)
    return remember(key, value if value is not None and value in options else options[0])


def choose_short(key: str, label: str, options: Sequence[str], first: str | None = None, **widget: Any) -> str:
    """Like :func:`choose`, drawn as a row of buttons; for a dozen options at most. ``first`` is taken where nothing was chosen yet."""
    prepare(key, options if first is None else [first, *options])
    value = st.segmented_control(label, options, default=None, key=key, bind="query-params", **widget)
    return remember(key, value if value is not None and value in options else options[0])


def prepare(key: str, options: Sequence[str]) -> None:
    """Seed a bound widget: current value, else URL, else memory, else the first option."""
    state = st.session_state
    if state.get(key) in options:
        return
    if key not in state and st.query_params.get(key) in options:
        return
    remembered = state.get(_MEMORY.format(key))
    st.session_state[key] = remembered if remembered in options else options[0]


def remember(key: str, value: str) -> str:
    """Keep a choice for pages that do not draw its widget."""
    st.session_state[_MEMORY.format(key)] = value
    return value


def point_at(key: str, value: str) -> None:
    """Choose from a callback, before the widget of that key is drawn."""
    st.session_state[key] = value
    remember(key, value)


def chosen(key: str) -> str | None:
    """The remembered choice, whether or not its widget is on this page."""
    return st.session_state.get(_MEMORY.format(key))


def recording() -> Recording | None:
    """The last comparison of this browser tab."""
    return st.session_state.get(_RECORDING)


def keep_recording(value: Recording) -> None:
    """Make ``value`` the last comparison of this browser tab."""
    st.session_state[_RECORDING] = value


def drop_recording() -> None:
    """Forget the last comparison."""
    st.session_state.pop(_RECORDING, None)


def selected_points(chart: str) -> list[Any]:
    """Custom data of the points selected in a plotly chart; item access only, so that tests can set it."""
    state = st.session_state.get(chart) or {}
    return [point.get("customdata") for point in (state.get("selection") or {}).get("points", [])]


def selected_rows(table: str) -> list[int]:
    """Row numbers selected in a table."""
    state = st.session_state.get(table) or {}
    return list((state.get("selection") or {}).get("rows", []))


def selected_cells(chart: str, name: str) -> list[dict[str, Any]]:
    """Fields of the marks selected in an Altair chart's point selection ``name``."""
    state = st.session_state.get(chart) or {}
    return list((state.get("selection") or {}).get(name, []))
