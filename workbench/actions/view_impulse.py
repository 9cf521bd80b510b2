"""What an action's impulse does: where to try it, the button that measures it on the live model, and the figures.

Responses are kept in memory for all tabs of this server; nothing is written to disk.
"""

import math
import threading
from collections import OrderedDict

import streamlit as st

from stir_core.evaluate.dose import degenerates_at
from stir_core.records import Entry
from stir_core.responses import ImpulseResponse, Spot
from workbench import session
from workbench.actions import data as reading
from workbench.actions.charts import attention_maps, disturbance_curves, divergence_curves, dose_curve, shift_dumbbells, travel_heatmap
from workbench.bootstrap import steering
from workbench.shared.command_lines import impulse_command
from workbench.shared.facts import RunFacts, run_fingerprint
from workbench.shared.text import plain
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import data_table

MOST = 48
"""Responses kept; the one that was looked at longest ago goes first. Each is about 0.2 MB."""
Key = tuple[str, str, str, float]


class Kept:
    """A bounded, thread-safe memory of responses."""

    def __init__(self, most: int = MOST):
        self._most, self._lock = most, threading.Lock()
        self._held: OrderedDict[Key, ImpulseResponse] = OrderedDict()

    def get(self, key: Key) -> ImpulseResponse | None:
        """What was measured under that key, if it is still there."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Key, found: ImpulseResponse) -> None:
        """Keep a response."""
        with self._lock:
            self._held[key] = found
            self._held.move_to_end(key)
            while len(self._held) > self._most:
                self._held.popitem(last=False)


def key_of(facts: RunFacts, entry: Entry, spot: Spot, alpha: float) -> Key:
    """What a response depends on: the run as it lies on disk, the entry, the place and the strength."""
    return run_fingerprint(facts.run), entry.id, spot.name, alpha


@st.cache_resource(show_spinner=False)
def impulse_memory() -> Kept:
    """The responses of this server."""
    return Kept()


def measure_live(facts: RunFacts, entry: Entry, spot: Spot, alpha: float) -> ImpulseResponse:
    """Measure on the live model, loading it on first use, and keep the response.

    Raises:
        StirError: the model cannot be loaded, belongs to another run, or refuses the place or strength.
    """
    row = entry.action_row
    assert row is not None  # only corrective entries are offered
    with steering(facts) as live:
        found = live.respond(entry, facts.run.action_rows()[row], spot, alpha)
    impulse_memory().put(key_of(facts, entry, spot, alpha), found)
    return found


_ALPHA, _PLACE, _WRITTEN, _SHOWN = "actions_alpha", "actions_alpha_place", "actions_alpha_written", "actions_impulse_shown"
_MOST = 1000.0


def impulse(facts: RunFacts, entry: Entry) -> None:
    """The whole section; nothing is measured, and no model loaded, before the button is pressed."""
    st.markdown("**What its impulse does**")
    if entry.action_row is None:
        st.caption("A null entry has no action to inject.")
        return
    spots = reading.spots_of(facts, entry)
    if not spots:
        st.caption("No held-out step retrieved it and its rollouts are not recorded: there is nowhere to try it.")
        return
    left, middle, right = st.columns([3, 1, 1], vertical_alignment="bottom")
    with left:
        name = session.choose_one(
            session.AT,
            "Tried at",
            list(spots),
            format_func=lambda at: reading.spot_label(spots[at]),
            help="Held-out steps that committed it first, then those that retrieved it, then the rollouts that it was mined from.",
        )
    with middle:
        alpha = _strength(entry, spots[name])
    with right:
        asked = st.button("Measure on the model", type="primary", key="actions_measure", help="Loads the run's model on first use.")
    if asked:
        with st.spinner("Reading the answer with and without the impulse, and decoding at each strength"):
            measure_live(facts, entry, spots[name], alpha)
    _show(facts, entry, spots[name], alpha)
    command_line(impulse_command(facts.run, entry.id, name, alpha))


def _strength(entry: Entry, spot: Spot) -> float:
    """The strength to try: the recorded one at a new place, else what the link or the field says."""
    place = f"{entry.id} {spot.name}"
    recorded = round(spot.alpha, 4) if spot.alpha is not None else 1.0
    linked = _number(session.chosen(session.ALPHA))
    if session.state_of(_PLACE) not in (None, place):
        session.set_state(_ALPHA, recorded)
    elif linked is not None and linked != session.state_of(_WRITTEN):
        session.set_state(_ALPHA, linked)
    else:
        session.first_state(_ALPHA, linked if linked is not None else recorded)
    value = st.number_input(
        "Strength α",
        0.0,
        _MOST,
        step=0.1,
        format="%.4f",
        key=_ALPHA,
        help="Multiple of the action that is injected; starts at what the gate committed there, else at 1.",
    )
    session.set_state(_PLACE, place)
    session.set_state(_WRITTEN, float(value))
    session.remember(session.ALPHA, f"{float(value):.10g}")
    return float(value)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= _MOST else None


def _show(facts: RunFacts, entry: Entry, spot: Spot, alpha: float) -> None:
    """What is asked for where it was measured; else the entry's last figures of this tab, marked as stale."""
    key = key_of(facts, entry, spot, alpha)
    found = impulse_memory().get(key)
    if found is None:
        last = session.state_of(_SHOWN)
        found = impulse_memory().get(last) if last is not None and last[:2] == key[:2] else None
        if found is None:
            st.caption("Not measured yet: press the button. It takes some seconds on the embedded model, and nothing is written to disk.")
            return
        st.warning(plain(f"Stale: these figures are of α {found.alpha:g} at {found.spot.name}. Measure again for the settings above."))
    else:
        session.set_state(_SHOWN, key)
    _figures(found)


def _figures(found: ImpulseResponse) -> None:
    figures = reading.impulse_figures(found)
    for row in (figures[:4], figures[4:]):
        for column, (name, value, text) in zip(st.columns(4), row, strict=True):
            column.metric(name, value, help=text)
    travel, tokens, heads, doses = st.tabs(["Layers", "Next tokens", "Attention", "Dose-response"], key="actions_impulse_tabs")
    with travel:
        _travel(found)
    with tokens:
        _tokens(found)
    with heads:
        _attention(found)
    with doses:
        _doses(found)


def _travel(found: ImpulseResponse) -> None:
    table = reading.layer_table(found)
    left, right = st.columns([1, 1])
    with left:
        st.altair_chart(disturbance_curves(table), key="actions_layers", alt="Size and direction of the disturbance by layer")
    with right:
        st.altair_chart(travel_heatmap(reading.travel_table(found)), key="actions_travel", alt="Size of the disturbance, layer by token")
    data_table(table, _LAYERS, "Tokens promoted by layer", key="actions_layer_table", height=300)
    st.caption(
        "Disturbance: steered minus unsteered residual after each block, on the same recorded tokens. The first row is the action itself. "
        "Promoted and suppressed: read through the final norm's gain and the unembedding, so the direct path from that layer only."
    )


def _tokens(found: ImpulseResponse) -> None:
    left, right = st.columns([1, 1.2])
    with left:
        st.altair_chart(shift_dumbbells(reading.shift_table(found)), key="actions_shifts", alt="Next tokens before and after")
        st.caption("Likeliest next tokens at the control point, with and without the impulse.")
    with right:
        st.altair_chart(divergence_curves(reading.divergence_table(found)), key="actions_kl", alt="Divergence after each token")
        st.caption(
            "Frozen: every attention pattern is held at its unsteered value, so the disturbance travels through values, MLPs and the "
            "residual stream alone. What lies between the two curves came about because heads looked elsewhere."
        )


def _attention(found: ImpulseResponse) -> None:
    table = reading.attention_table(found)
    if table.empty:
        st.caption("The recorded answer ends at this control point: no later token looks back at it.")
        return
    st.altair_chart(attention_maps(table, found.layer), key="actions_attention", alt="Attention back to the control point")
    st.caption(
        f"Mean attention of the {len(found.tokens) - 1} recorded tokens after the control point to it. The impulse is added after block "
        f"{found.layer} (line): patterns up to there cannot change."
    )


def _doses(found: ImpulseResponse) -> None:
    table = reading.dose_table(found)
    out = degenerates_at(found.doses)
    chart = dose_curve(table, found.alpha, out, found.action_norm / found.unsteered_norm)
    st.altair_chart(chart, key="actions_doses", alt="Divergence against strength")
    ending = "No strength tried makes the text degenerate." if out is None else f"Degenerate from α {out:.3g} on (solid line)."
    st.caption(f"Dashed line: the α of the other figures. {ending} One impulse at one token; greedy continuations of up to 32 tokens.")
    data_table(table, _DOSES, "Strengths tried", key="actions_dose_table", height="content")


_count = st.column_config.NumberColumn
_LAYERS = {
    "layer": _count("layer", format="%d", width=54),
    "norm": _count("norm", format="%.2f", help="L2 norm of the disturbance at the control point.", width=66),
    "relative": _count("of ‖h‖", format="%.3f", help="Over the norm of the unsteered residual.", width=66),
    "cosine": _count("cosine", format="%+.3f", help="With the injected vector.", width=66),
    "promotes": st.column_config.TextColumn("promotes", help="White space drawn.", width=400),
    "suppresses": st.column_config.TextColumn("suppresses", width=400),
}
_DOSES = {
    "alpha": _count("α", format="%.4g", help="Multiple of the action.", width=70),
    "fraction": _count("of ‖h‖", format="%.3f", help="Norm of the impulse over that of the unsteered residual.", width=66),
    "kl": _count("KL", format="%.4f", help="At the control point, in nats.", width=70),
    "kl behind": _count("KL after", format="%.5f", help="Mean over the recorded tokens of the step, in nats.", width=80),
    "rep 3": st.column_config.NumberColumn("3-grams", format="percent", help="Token triples that stood before.", width=70),
    "gap": _count(
        "gap", format="%+.2f", help="Nats a token by which the unsteered model likes it less than its own continuation.", width=60
    ),
    "degenerate": st.column_config.TextColumn("degenerate", width=170),
    "text": st.column_config.TextColumn("greedy continuation", width=700),
}
