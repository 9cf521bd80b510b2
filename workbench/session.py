"""The user's choices: the only module that names session keys and URL parameters.

Run, action, problem and control point are selectboxes that all pages share under one key each. The address of every page holds all
choices, also those without a widget on the page, so a link, a reload and the back button restore them.
(``bind="query-params"`` cannot do that: it drops the parameters of a page's widgets as soon as another page is opened.) Charts and
tables choose through :func:`point_at` in their callbacks. A fragment with linked widgets calls :func:`end_page` at its end.

Nothing is substituted for what a link asks for: where it is not here, its widget is drawn empty and the page says so in one line.
Choices made in the tab are lenient: another run, whose answer has fewer steps, begins with its own first choice.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any, TypeVar

import streamlit as st

from stir_core.errors import DataError
from workbench.shared.trace_comparison import Recording

T = TypeVar("T")

RUN, ACTION, PROBLEM, CONTROL_POINT = "run", "action", "problem", "m"
EVALUATION, METHOD, ANSWERED = "evaluation", "method", "answered"
"""An evaluation of the run, a method that it compared, and a problem that both answered."""
OTHER = "other"
"""The second entry of a pair, chosen in the cosine heatmap."""
AT, ALPHA = "at", "alpha"
"""The control point and the strength at which the Actions page tries an action."""
SEVERAL, SOURCE = "runs", "answers"
"""The runs whose answers are compared (separated by commas), and which of their answers."""
COMPARED, VERSION, COMPARED_VERSION = "compared", "version", "compared_version"
"""The other run of a comparison, and the version of the library on either side."""
LIBRARY, ONLY, TARGETS = "library", "only", "targets"
"""The library to export, which of its actions, and the targets (separated by commas)."""
CALIBRATION = "calibration"
"""A result of `stir calibrate`."""
CODE, CODED, CODED_LAYER = "code", "coded", "layer"
"""A code of a codebook, a rollout whose codes are shown, and the codebook's layer."""
EVIDENCE, FIRST_GATE, SECOND_GATE = "evidence", "gate", "against"
"""The recorded answers that two gates are compared on, and the gates."""
LATENT, CHAIN, PARTNER, SLOT = "latent", "chain", "partner", "slot"
"""A trained latent reasoner, its problem, the problem whose latents are swapped in, and the latent that is looked into."""
SAVED = "saved"
"""A piece of saved work: shown on its page, and while it is being decoded."""
LINKED = (
    *(RUN, ACTION, PROBLEM, CONTROL_POINT, EVALUATION, METHOD, ANSWERED, OTHER, AT, ALPHA),
    *(SEVERAL, SOURCE, COMPARED, VERSION, COMPARED_VERSION, LIBRARY, ONLY, TARGETS, CALIBRATION),
    *(LATENT, CHAIN, PARTNER, SLOT),
    *(CODE, CODED, CODED_LAYER, EVIDENCE, FIRST_GATE, SECOND_GATE, SAVED),
)
"""Choices that the address of every page holds, also without a widget on the page."""
LET_IN = "let_in"
"""Whether the password was given in this browser tab; never in an address."""
_RECORDING = "trace_recording"
_MEMORY = "chosen_{}"
_PAGE, _ENTERED = "page_shown", "page_entered"
_OPENED, _ARRIVED = "saved_opened", "saved_arrived"
_ADDRESS = "address"
"""Parameters last written to the address or taken from it; where the address differs, the user followed a link or went back."""
_STANDING = "standing"
"""Choices that no page has drawn yet: asked for by a link, found absent, or made for another run."""
_ASKED, _ABSENT, _OTHER_RUN = "asked", "absent", "other run"


def begin_page(name: str) -> None:
    """Take over choices from the address (a link, a reload, the back button). Call before anything is drawn."""
    st.session_state[_ENTERED] = st.session_state.get(_PAGE) != name
    st.session_state[_PAGE] = name
    for key in LINKED:
        value = st.query_params.get(key)
        if value and value != _written().get(key):
            st.session_state[_MEMORY.format(key)] = _written()[key] = value
            _standing()[key] = _ASKED


def end_page() -> dict[str, str]:
    """Write every choice to the address. Call after everything is drawn.

    A choice on this page becomes a step in the browser's history, which the back button undoes. A choice made for another run is left out
    until a page of this run draws it: a link with it could ask for what is not here.

    Returns:
        On entering a page: the parameters that are still missing in the address, to be added without a step in the history.
    """
    stale = {key for key, standing in _standing().items() if standing == _OTHER_RUN}
    held = {key: value for key in LINKED if key not in stale and (value := chosen(key))}
    changed = {key: value for key, value in held.items() if st.query_params.get(key) != value}
    _written().update(held)
    if stale.intersection(st.query_params):
        for key in stale:
            _written().pop(key, None)
        st.query_params.from_dict({key: value for key, value in st.query_params.items() if key not in stale} | held)
        return {}
    if st.session_state.get(_ENTERED):
        return changed
    if changed:
        st.query_params.update(changed)
    return {}


def parameters() -> dict[str, str]:
    """The address's parameters."""
    return st.query_params.to_dict()


def _written() -> dict[str, str]:
    return st.session_state.setdefault(_ADDRESS, {})


def _standing() -> dict[str, str]:
    return st.session_state.setdefault(_STANDING, {})


def choose_one(key: str, label: str, options: Sequence[str], first: str | None = None, **widget: Any) -> str:
    """A selectbox that the address holds as ``?key=``; the remembered choice where it is still an option, else ``first``.

    Args:
        options: at least one.
        first: the first option by default.

    Raises:
        DataError: a link asks for what is not an option. The selectbox is drawn empty, for another choice.
    """
    empty = {} if _seed(key, options, first or options[0]) else {"index": None, "placeholder": "choose another"}
    return _taken(key, label, st.selectbox(label, options, key=key, **empty, **widget))


def write_line(key: str, label: str, first: str, **widget: Any) -> str:
    """A line of text that the address holds as ``?key=``; ``first`` where nothing was written yet."""
    _seed(key, None, first)
    return remember(key, st.text_input(label, key=key, **widget) or "")


def choose_short(key: str, label: str, options: Sequence[str], first: str | None = None, **widget: Any) -> str:
    """Like :func:`choose_one`, drawn as a row of buttons; for a dozen options at most.

    Args:
        first: the option that is chosen where nothing was chosen yet; the first one by default.

    Raises:
        DataError: a link asks for what is not an option.
        ValueError: ``first`` is not an option.
    """
    first = options[0] if first is None else first
    if first not in options:
        raise ValueError(f"{label}: {first!r} is not one of {', '.join(options)}")
    there = _seed(key, options, first)
    return _taken(key, label, st.segmented_control(label, options, required=there, key=key, **widget))


def choose_several(key: str, label: str, options: Sequence[str], first: Sequence[str], **widget: Any) -> tuple[str, ...]:
    """Like :func:`choose_short` for any number of options; the address holds them with commas between, or ``none``.

    Raises:
        DataError: a link asks for one that is not an option.
    """
    state = st.session_state
    asked = _standing().get(key) == _ASKED
    held = state.get(_MEMORY.format(key)) if asked or state.get(_ENTERED) or key not in state else None
    named = [name for name in (held or "").split(",") if name and name != "none"]
    missing = [name for name in named if name not in options]
    if held is not None or key not in state:
        state[key] = [name for name in named if name in options] if named or held == "none" else list(first)
    taken = st.pills(label, options, selection_mode="multi", key=key, **widget)
    if asked and missing:
        remember(key, held or "")
        raise DataError(_not_here(label, ", ".join(missing)))
    chosen_options = tuple(option for option in options if option in taken)
    remember(key, ",".join(chosen_options) or "none")
    return chosen_options


def found(key: str, label: str, options: Container[str]) -> str | None:
    """The choice of a key that a chart or strip of the page makes, without a widget; ``None`` where none of ``options`` is chosen.

    Raises:
        DataError: a link asks for what is not an option.
    """
    held = chosen(key)
    if held is None or held in options:
        return held
    if _standing().get(key) in (_ASKED, _ABSENT):
        raise DataError(_not_here(label, held))
    return None


def _taken(key: str, label: str, value: str | None) -> str:
    if value is None:
        raise DataError(_not_here(label, chosen(key) or ""))
    return remember(key, value)


def _not_here(label: str, asked: str) -> str:
    """What a link asks for and this page lacks, with the remedy."""
    return f'{label} "{asked[:80]}", which the link asks for, is not here, and nothing else is shown for it: choose another above'


def _seed(key: str, options: Sequence[str] | None, first: str) -> bool:
    """Seed a linked widget: what a link asks for, else the widget's value, else the remembered one, else ``first``.

    Args:
        options: ``None``: any text.

    Returns:
        False where a link asks for what is not an option: the widget must be drawn empty.
    """
    state, standing = st.session_state, _standing().get(key)
    held = state.get(_MEMORY.format(key))
    there = held is not None and (options is None or held in options)
    known = key in state and (options is None or state[key] in options)
    if standing == _ASKED or (standing == _ABSENT and not known):
        state[key] = held if there else None
        _standing()[key] = _ASKED if there else _ABSENT
        return there
    if state.get(_ENTERED) or not known:
        # on entering a page Streamlit shows new widgets the old page's value once, and then forgets it
        state[key] = held if there else first
    elif state[key] != held:
        _leave_link(key)
    if standing == _ABSENT:
        state[key] = state[key]  # the widget of a choice is another one than the empty widget: its value is handed over
    return True


def _leave_link(key: str) -> None:
    """The user chose something else, so what the link asks for besides no longer belongs together."""
    _standing().clear()
    if key == RUN:
        _standing().update({other: _OTHER_RUN for other in LINKED if other != RUN})


def remember(key: str, value: str) -> str:
    """Keep a choice for pages that do not draw its widget."""
    st.session_state[_MEMORY.format(key)] = value
    _standing().pop(key, None)
    return value


def point_at(key: str, value: str) -> None:
    """Choose in a callback, before the widget of that key is drawn."""
    if value != chosen(key):
        _leave_link(key)
    st.session_state[key] = value
    remember(key, value)


def link_asks(key: str) -> bool:
    """True while a link asks for a choice that no page has drawn yet."""
    return _standing().get(key) == _ASKED


def chosen(key: str) -> str | None:
    """The remembered choice, whether or not its widget is on this page."""
    return st.session_state.get(_MEMORY.format(key))


def choose_saved(id_: str) -> None:
    """Choose a piece of saved work, and write it to the address at once."""
    remember(SAVED, id_)
    st.session_state[_ARRIVED] = id_
    _written()[SAVED] = id_
    st.query_params[SAVED] = id_


def saved_arrived() -> str | None:
    """The piece of saved work that an address or a list chose since this was last asked."""
    id_ = chosen(SAVED)
    if id_ is None or st.session_state.get(_ARRIVED) == id_:
        return None
    st.session_state[_ARRIVED] = id_
    return id_


def saved_to_open() -> str | None:
    """The chosen piece of saved work; ``None`` where there is none, or this tab has opened it."""
    id_ = chosen(SAVED)
    return None if id_ is None or st.session_state.get(_OPENED) == id_ else id_


def saved_is_open(id_: str) -> None:
    """This tab shows the piece, so it is not opened again."""
    st.session_state[_OPENED] = id_


def point_unless_asked(choices: Mapping[str, str]) -> None:
    """Choose what a piece of saved work was made with, where the link asks for nothing else."""
    for key, value in choices.items():
        if _standing().get(key) != _ASKED:
            st.session_state[key] = value
            remember(key, value)


def forget_saved() -> None:
    """No piece of saved work is chosen any more."""
    for key in (_MEMORY.format(SAVED), _OPENED, _ARRIVED):
        st.session_state.pop(key, None)
    _written().pop(SAVED, None)
    _standing().pop(SAVED, None)
    if SAVED in st.query_params:
        del st.query_params[SAVED]


def recording() -> Recording | None:
    """The last comparison of this browser tab."""
    return st.session_state.get(_RECORDING)


def keep_recording(value: Recording | None) -> None:
    """Make ``value`` the last comparison of this browser tab; ``None`` forgets it."""
    st.session_state[_RECORDING] = value


def state_of(key: str, otherwise: Any = None) -> Any:
    """The value under a widget's or a view's key in this browser tab; ``otherwise`` where there is none."""
    return st.session_state.get(key, otherwise)


def set_state(key: str, value: object) -> None:
    """Set the value of a key, in a callback or before the widget of that key is drawn."""
    st.session_state[key] = value


def first_state(key: str, value: T) -> T:
    """The value under a key; sets it to ``value`` where there is none."""
    return st.session_state.setdefault(key, value)


def take_state(key: str, otherwise: Any = None) -> Any:
    """Remove and return the value under a key."""
    return st.session_state.pop(key, otherwise)


def selected_points(chart: str) -> list[Any]:
    """Custom data of the points selected in a plotly chart; item access only, so that tests can set it."""
    state = st.session_state.get(chart) or {}
    return [point.get("customdata") for point in (state.get("selection") or {}).get("points", [])]


def selected_rows(table: str) -> list[int]:
    """Row numbers selected in a table, by their boxes or by one of their cells."""
    selection = (st.session_state.get(table) or {}).get("selection") or {}
    return [*selection.get("rows", []), *(cell[0] for cell in selection.get("cells", []))]


def selected_cells(chart: str, name: str) -> list[dict[str, Any]]:
    """Fields of the marks selected in an Altair chart's point selection ``name``."""
    state = st.session_state.get(chart) or {}
    return list((state.get("selection") or {}).get(name, []))
