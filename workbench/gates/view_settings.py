"""The Gates page's sliders: other gate settings to try on what was recorded. Bound to the address; each says the run's own value."""

import streamlit as st

from stir_core.config import GateConfig, with_changes
from workbench.gates.scales import Scale, scales
from workbench.shared.run_facts import RunFacts
from workbench.shared.visible_text import plain

_RUN, _PUT_BACK = "gates_settings_of", "gates_put_back"


def tried(facts: RunFacts) -> GateConfig:
    """Draw the sliders; the gate that they stand at, checked by the config's own rules."""
    found = scales(facts.config.gate, facts.steered.values())
    state = st.session_state
    if state.setdefault(_RUN, facts.name) != facts.name:  # another run has settings of its own
        state[_RUN] = facts.name
        _put_back(found)
    fresh = state.pop(_PUT_BACK, False)
    with st.container(border=True, gap="xsmall"):
        columns = st.columns([*(1 for _ in found), 0.8], vertical_alignment="center", gap="medium")
        values = {}
        for scale, column in zip(found, columns, strict=False):
            with column:
                values[scale.name] = _slider(scale, seeded=fresh)
        with columns[-1]:
            st.button("Reset", key="gates_reset", help="Back to the run's own settings.", on_click=_put_back, args=(found,))
    return with_changes(facts.config.gate, **values)


def _slider(scale: Scale, *, seeded: bool) -> float | int:
    """One slider; ``seeded``: its state was just written, so it must not be given a default as well."""
    kind = int if scale.whole else float
    label = plain(f"{scale.label} · run {scale.own:g}")
    value = st.slider(
        label,
        kind(scale.low),
        kind(scale.high),
        None if seeded else kind(scale.own),
        kind(scale.step),
        key=_key(scale),
        help=f"gate.{scale.name}: {scale.help} The run's own value is {scale.own:g}.",
        bind="query-params",
        persist_state="session",
    )
    return int(value) if scale.whole else round(float(value), 6)


def _key(scale: Scale) -> str:
    return f"gates_{scale.name}"


def _put_back(found: list[Scale]) -> None:
    for scale in found:
        st.session_state[_key(scale)] = int(scale.own) if scale.whole else float(scale.own)
    st.session_state[_PUT_BACK] = True
