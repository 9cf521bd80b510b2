"""Effects of an action's impulse: the control point and strength to try, the button that measures it on the live model, and the figures.

A measured response is saved, and is shown again wherever the same action, control point and strength are chosen.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable

import streamlit as st

from stir_core.errors import DataError, line_of
from stir_core.evaluate.dose import degenerates_at
from stir_core.records import Entry
from stir_core.responses import ImpulseResponse, Spot
from stir_core.saved import SavedImpulse
from stir_core.store.saved import new_id, run_digest
from workbench import bootstrap, session
from workbench.actions import data as reading
from workbench.actions.charts import attention_maps, disturbance_curves, divergence_curves, dose_curve, shift_dumbbells, travel_heatmap
from workbench.live import Decoding
from workbench.shared.command_lines import impulse_command
from workbench.shared.facts import RunFacts, run_fingerprint
from workbench.shared.text import plain
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_page import command_line
from workbench.shared.view_saved import followed, opened
from workbench.shared.view_tables import data_table

MOST = 48
"""Maximum number of responses that are kept; the least recently used one is dropped first. Each takes about 0.2 MB."""
Key = tuple[str, str, str, float]


class ResponseMemory:
    """A bounded, thread-safe memory of responses."""

    def __init__(self, most: int = MOST):
        self._most, self._lock = most, threading.Lock()
        self._held: OrderedDict[Key, ImpulseResponse] = OrderedDict()

    def get(self, key: Key) -> ImpulseResponse | None:
        """The response under that key, if it is still kept."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Key, response: ImpulseResponse) -> None:
        """Keep a response."""
        with self._lock:
            self._held[key] = response
            self._held.move_to_end(key)
            while len(self._held) > self._most:
                self._held.popitem(last=False)


def key_of(facts: RunFacts, entry: Entry, spot: Spot, alpha: float) -> Key:
    """Everything that a response depends on: the run's files, the entry, the control point and the strength."""
    return run_fingerprint(facts.run), entry.id, spot.name, alpha


@st.cache_resource(show_spinner=False)
def impulse_memory() -> ResponseMemory:
    """The responses of this server."""
    return ResponseMemory()


_ALPHA, _PLACE, _WRITTEN, _SHOWN = "actions_alpha", "actions_alpha_place", "actions_alpha_written", "actions_impulse_shown"
_MOST_ALPHA = 1000.0


def impulse(facts: RunFacts, entry: Entry) -> None:
    """The whole section. No model is loaded and nothing is measured before the button is pressed."""
    st.header("Effects of its impulse", anchor=False)
    if entry.action_row is None:
        st.caption("A null entry has no action to inject.")
        return
    spots = reading.spots_of(facts, entry)
    if not spots:
        st.caption("No held-out step retrieved it and its rollouts are not recorded, so there is no control point to try it at.")
        return
    left, middle, right = st.columns([3, 1, 1], vertical_alignment="bottom")
    with left:
        name = session.choose_one(
            session.AT,
            "Tried at",
            list(spots),
            format_func=lambda at: reading.spot_label(spots[at]),
            help="First the held-out steps that committed it, then those that retrieved it, then the rollouts that it was mined from.",
        )
    with middle:
        alpha = _strength(entry, spots[name])
    with right:
        asked = st.button("Measure on the model", type="primary", key="actions_measure", help="Loads the run's model on first use.")
    _measure(facts, entry, spots[name], alpha, asked=asked)
    _show(facts, entry, spots[name], alpha)
    command_line(impulse_command(facts.run, entry.id, name, alpha))


def _title(entry_id: str, spot: Spot, alpha: float) -> str:
    return f"{entry_id} × {alpha:.10g} at {spot.name}"


def _measure(facts: RunFacts, entry: Entry, spot: Spot, alpha: float, *, asked: bool) -> None:
    """Measure where the button was pressed, or wait for a measurement of this tab that goes on."""
    decoding, title = followed("impulse"), _title(entry.id, spot, alpha)
    if asked:
        decoding = bootstrap.decodings().start(Decoding(new_id("impulse"), title, facts.name, None), _work(facts, entry, spot, alpha))
        session.choose_saved(decoding.id)
    if decoding is None or decoding.title != title:
        return
    with st.spinner("Reading the answer with and without the impulse, and decoding at each strength; it goes on when you leave the page"):
        place = st.empty()
        for _ in decoding.follow():
            place.empty()
    session.saved_is_open(decoding.id)
    if decoding.fault is not None:
        session.forget_saved()
        st.error(plain(line_of(decoding.fault)))


def _work(facts: RunFacts, entry: Entry, spot: Spot, alpha: float) -> Callable[[Decoding], None]:
    shelf, saved, memory, key = bootstrap.shelf(), bootstrap.saved(), impulse_memory(), key_of(facts, entry, spot, alpha)

    def work(decoding: Decoding) -> None:
        with shelf.lent(facts.run, run_fingerprint(facts.run)) as live:
            response = live.respond(entry, facts.run.action_rows()[entry.action_row], spot, alpha)
            identity = live.identity
        memory.put(key, response)
        outcome = f"KL at the control point {response.kl[0]:.4f} nats ({response.kl_frozen[0]:.4f} with attention frozen)"
        content = SavedImpulse(response=response)
        saved.keep(content, title=decoding.title, outcome=outcome, run=facts.run, model=identity, id_=decoding.id)

    return work


def _measured_before(facts: RunFacts, entry: Entry, spot: Spot, alpha: float) -> ImpulseResponse | None:
    """The saved response to these settings, the latest one."""
    title, digest = _title(entry.id, spot, alpha), run_digest(facts.run)
    for work in bootstrap.saved().all()[0]:
        if (work.kind, work.title, work.run_digest) == ("impulse", title, digest):
            content = bootstrap.saved_content(work.id)
            if isinstance(content, SavedImpulse) and content.response.spot == spot:
                impulse_memory().put(key_of(facts, entry, spot, alpha), content.response)
                return content.response
    return None


def open_impulse(facts: RunFacts) -> None:
    """Choose the entry, control point and strength of the saved impulse that the address names. Call before they are drawn."""
    found = opened(facts, "impulse")
    if found is not None and isinstance(found[1], SavedImpulse):
        response = found[1].response
        alpha = f"{response.alpha:.10g}"
        session.point_unless_asked({session.ACTION: response.entry_id, session.AT: response.spot.name, session.ALPHA: alpha})
        session.take_state(_PLACE)


def _strength(entry: Entry, spot: Spot) -> float:
    """The strength to try: at a newly chosen control point the recorded one, otherwise that of the link or the field.

    Raises:
        DataError: the link's strength is no number of the field.
    """
    place = f"{entry.id} {spot.name}"
    recorded = round(spot.alpha, 4) if spot.alpha is not None else 1.0
    held = session.chosen(session.ALPHA)
    linked = _number(held)
    if held and linked is None:
        raise DataError(f'strength "{held[:80]}" of the link is no number from 0 to {_MOST_ALPHA:g}: write one after alpha= in the address')
    if session.state_of(_PLACE) not in (None, place):
        session.set_state(_ALPHA, recorded)
    elif linked is not None and linked != session.state_of(_WRITTEN):
        session.set_state(_ALPHA, linked)
    else:
        session.first_state(_ALPHA, linked if linked is not None else recorded)
    value = st.number_input(
        "Strength α",
        0.0,
        _MOST_ALPHA,
        step=0.1,
        format="%.4f",
        key=_ALPHA,
        help="Multiple of the action that is injected; starts at the gate's own strength if it committed the action there, else at 1.",
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
    return value if math.isfinite(value) and 0 <= value <= _MOST_ALPHA else None


def _show(facts: RunFacts, entry: Entry, spot: Spot, alpha: float) -> None:
    """The response to these settings; if it was not measured, the entry's last figures in this tab, marked as stale."""
    key = key_of(facts, entry, spot, alpha)
    response = impulse_memory().get(key) or _measured_before(facts, entry, spot, alpha)
    if response is not None:
        session.set_state(_SHOWN, key)
    else:
        last = session.state_of(_SHOWN)
        response = impulse_memory().get(last) if last is not None and last[:2] == key[:2] else None
        if response is None:
            st.caption("Not measured yet: press the button. It takes some seconds on the embedded model, and the result is saved.")
            return
        st.warning(
            plain(f"Stale: these figures are of α {response.alpha:g} at {response.spot.name}. Measure again for the settings above.")
        )
    _figures(response)


def _figures(response: ImpulseResponse) -> None:
    figures = reading.impulse_figures(response)
    for row in (figures[:5], figures[5:]):
        for column, (name, value, text) in zip(st.columns(5), row, strict=False):
            column.metric(name, value, help=text)
    tabs = {"Layers": _travel, "Next tokens": _tokens, "Attention": _attention, "Dose-response": _doses}
    for tab, draw in zip(st.tabs(list(tabs), key="actions_impulse_tabs"), tabs.values(), strict=True):
        with tab:
            draw(response)


def _travel(response: ImpulseResponse) -> None:
    table = reading.layer_table(response)
    left, right = st.columns([1, 1])
    with left:
        draw_chart(disturbance_curves(table), key="actions_layers", alt="Size and direction of the disturbance by layer")
    with right:
        draw_chart(travel_heatmap(reading.travel_table(response)), key="actions_travel", alt="Size of the disturbance, layer by token")
    data_table(table, _LAYERS, "Tokens promoted by layer", key="actions_layer_table", height=300)
    st.caption(
        "Disturbance: steered minus unsteered residual after each block, on the same recorded tokens. The first row is the action itself. "
        "Promoted and suppressed: read through the final norm's gain and the unembedding, so only the direct path from that layer counts."
    )


def _tokens(response: ImpulseResponse) -> None:
    left, right = st.columns([1, 1.2])
    with left:
        draw_chart(shift_dumbbells(reading.shift_table(response)), key="actions_shifts", alt="Next tokens before and after")
    left.caption("Likeliest next tokens at the control point, with and without the impulse.")
    with right:
        draw_chart(divergence_curves(reading.divergence_table(response)), key="actions_kl", alt="Divergence after each token")
    right.caption(
        "Frozen: every attention pattern is held at its unsteered value, so the disturbance travels through values, MLPs and the "
        "residual stream only. The gap between the two curves is due to changed attention patterns."
    )


def _attention(response: ImpulseResponse) -> None:
    table = reading.attention_table(response)
    if table.empty:
        st.caption("The recorded answer ends at this control point, so no later token attends to it.")
        return
    draw_chart(attention_maps(table, response.layer), key="actions_attention", alt="Attention back to the control point")
    st.caption(
        f"Attention to the control point, averaged over the {len(response.tokens) - 1} recorded tokens after it. The impulse is added "
        f"after block {response.layer} (line): patterns up to there cannot change."
    )


def _doses(response: ImpulseResponse) -> None:
    table = reading.dose_table(response)
    degenerate = degenerates_at(response.doses)
    chart = dose_curve(table, response.alpha, degenerate, response.action_norm / response.unsteered_norm)
    draw_chart(chart, key="actions_doses", alt="Divergence against strength")
    ending = (
        "No tried strength makes the text degenerate." if degenerate is None else f"Degenerate from α {degenerate:.3g} on (solid line)."
    )
    st.caption(f"Dashed line: the α of the other figures. {ending} One impulse at one token; greedy continuations of up to 32 tokens.")
    data_table(table, _DOSES, "Strengths tried", key="actions_dose_table", height="content")


_count = st.column_config.NumberColumn
_LAYERS = {
    "layer": _count("layer", format="%d", width=54),
    "norm": _count("norm", format="%.2f", help="L2 norm of the disturbance at the control point.", width=66),
    "relative": _count("of ‖h‖", format="%.3f", help="Over the norm of the unsteered residual.", width=66),
    "cosine": _count("cosine", format="%+.3f", help="With the injected vector.", width=66),
    "promotes": st.column_config.TextColumn("promotes", help="White space is made visible.", width=400),
    "suppresses": st.column_config.TextColumn("suppresses", width=400),
}
_DOSES = {
    "alpha": _count("α", format="%.4g", help="Multiple of the action.", width=70),
    "fraction": _count("of ‖h‖", format="%.3f", help="Norm of the impulse over that of the unsteered residual.", width=66),
    "kl": _count("KL", format="%.4f", help="KL(steered || unsteered) at the control point, in nats.", width=70),
    "kl after": _count("KL after", format="%.5f", help="Mean over the recorded tokens of the step, in nats.", width=80),
    "rep 3": _count("3-grams", format="percent", help="Share of token triples that occurred earlier in the continuation.", width=70),
    "gap": _count(
        "gap",
        format="%+.2f",
        help="Nats per token by which the unsteered model finds it less likely than its own continuation.",
        width=60,
    ),
    "degenerate": st.column_config.TextColumn("degenerate", width=170),
    "text": st.column_config.TextColumn("greedy continuation", width=700),
}
