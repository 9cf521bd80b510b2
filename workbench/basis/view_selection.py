"""Selection, replayed pick by pick and repeated under other settings. Calls no model and writes nothing."""

from typing import Any, get_args

import streamlit as st
from streamlit import column_config as cc

from stir_core.basis.selection import SELECTORS
from stir_core.config import BasisConfig, with_changes
from stir_core.keyspace import Similarity
from workbench import session
from workbench.basis import data as geometry
from workbench.basis import reselection
from workbench.basis import view_cache as cache
from workbench.basis.charts import PICKED, gain_chart, picks_map
from workbench.shared.charts import step_bars
from workbench.shared.command_lines import reselect_command
from workbench.shared.facts import RunFacts
from workbench.shared.text import plain
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import ACTION_COLUMNS, Columns, data_table, number_column

_HELP = {name: field.description for name, field in BasisConfig.model_fields.items()}
_PICK, _GAINS = "basis_pick", "basis_gains"


@st.fragment
def replay_view(facts: RunFacts) -> None:
    """The picks up to a chosen one, on a map and as gains, and the numbers of that pick."""
    selection = cache.stored_selection(facts)
    table = reselection.replay_table(facts, selection)
    if table.empty:
        st.info("The basis of this run is empty: there is nothing to replay.")
        return
    now = _pick_slider(len(table))
    every = cache.every_entry(facts)
    projection = geometry.projections(facts)[0]
    places = every[["entry"]].assign(x=every[f"{projection} 1"], y=every[f"{projection} 2"])
    places = places.merge(table[["entry", "pick"]], how="left", on="entry")

    def choose_pick() -> None:
        picks = session.selected_cells(_GAINS, PICKED)
        if picks and "pick" in picks[0]:
            session.set_state(_PICK, int(picks[0]["pick"]))

    left, right = st.columns([1, 1.25], gap="medium")
    with left:
        draw_chart(picks_map(places, now), key="basis_picks_map", alt=f"The first {now} picks on the {projection} map")
    with right:
        draw_chart(gain_chart(table, now), key=_GAINS, on_select=choose_pick, alt="Both parts of every pick's gain")
    _why_picked(facts, selection, table.iloc[now - 1].to_dict())
    selector = facts.config.basis.selector
    note = "" if selector == "dpp" else f" The selector {selector} does not use these gains; they describe its picks."
    st.caption(
        "Gain of the objective = log(1 + quality) + λ · change of log det(K + εI), both in nats; the second is negative as soon as a pick "
        f"resembles earlier ones. Click a point to choose its pick.{note}"
    )


def _pick_slider(last: int) -> int:
    def move(by: int) -> None:
        session.set_state(_PICK, min(last, max(1, session.state_of(_PICK) + by)))

    session.set_state(_PICK, min(last, max(1, session.state_of(_PICK, last))))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.button(
            "", icon=":material/chevron_left:", key="basis_pick_back", on_click=move, args=(-1,), help="One pick back.", shortcut="Left"
        )
        st.button("", icon=":material/chevron_right:", key="basis_pick_on", on_click=move, args=(1,), help="One pick on.", shortcut="Right")
        return int(st.slider("Picks so far", 1, max(2, last), key=_PICK, disabled=last < 2)) if last > 1 else 1


def _why_picked(facts: RunFacts, selection: reselection.Selection, row: dict[str, Any]) -> None:
    entry = facts.entries[row["entry"]]
    parts = st.columns(5)
    parts[0].metric("pick", f"{row['pick']} of {len(selection.picks)}")
    parts[1].metric("gain", f"{row['gain']:+.3f}", help="Marginal gain of the objective when it was picked.")
    parts[2].metric("quality part", f"{row['quality gain']:+.3f}", help="log(1 + quality).")
    parts[3].metric("log-det part", f"{row['log-det gain']:+.3f}", help="λ times the change of the log-determinant.")
    nearest = row["nearest"]
    parts[4].metric(
        "nearest earlier pick",
        "none" if nearest is None else f"{row['nearest cosine']:.3f}",
        help="Largest cosine of keys with an earlier pick, in the space that selection compares keys in.",
    )
    how = (
        f"forced in, as one of the best of control point {entry.m}"
        if row["forced"]
        else f"chosen by the selector {selection.config.basis.selector}"
    )
    near = "the first pick" if nearest is None else f"nearest earlier pick {nearest}"
    with st.container(horizontal=True, vertical_alignment="center"):
        text = f"{entry.id} · {entry.kind} · m {entry.m} · layer {entry.layer} · quality {row['quality']:.3f} · {how}; {near}."
        st.markdown(plain(text))
        st.button("Choose this entry", key="basis_choose_pick", on_click=session.point_at, args=(session.ACTION, entry.id))


@st.fragment
def reselect_view(facts: RunFacts) -> None:
    """Selection repeated under other settings: both selections side by side, and the command that makes the new one."""
    config = with_changes(facts.config, basis=_settings(facts))
    before, after = cache.stored_selection(facts), cache.selection_of(facts, config)
    changed = reselection.differing(facts, config)
    _standing(facts, before, after, changed)
    table = cache.cached(facts, "comparison", lambda: reselection.comparison(facts, before, after), reselection.digest(config))
    left, right = st.columns([1.15, 1], gap="medium")
    with left:
        data_table(table, COMPARISON_COLUMNS, "Stored basis and re-selection", height=600)
    with right:
        bars = step_bars(reselection.counts(facts, before, after), "picks", "selection")
        draw_chart(bars, key="basis_reselected", alt="Picks at every control point, stored and re-selected")
        moved = reselection.pick_changes(facts, before, after)
        data_table(moved, CHANGE_COLUMNS, "Gained, lost and kept", key="basis_changes", height=290)
    for note in after.notes:
        st.caption(plain(f"Note: {note}."))
    if changed:
        command_line(
            reselect_command(facts.run, changed),
            "Apply it to a copy of the run (loads the model; without --until basis it also answers held-out problems)",
        )


def _settings(facts: RunFacts) -> dict[str, float | str]:
    """Values of the widgets, which start at the run's own settings."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        sliders = {
            "budget": _slider(facts, "budget", "Budget B", 1, max(2, len(facts.entries)), 1),
            "diversity": _slider(facts, "diversity", "Diversity λ", 0.0, 5.0, 0.05),
            "min_per_control_point": _slider(facts, "min_per_control_point", "Forced per control point", 0, 32, 1),
        }
    with st.container(horizontal=True, vertical_alignment="bottom"):
        selector = _buttons(facts, "selector", "Selector", list(SELECTORS))
        return sliders | {"selector": selector, "similarity": _buttons(facts, "similarity", "Similarity", list(get_args(Similarity)))}


def _slider(facts: RunFacts, field: str, label: str, low: float, high: float, step: float) -> float:
    own, key = getattr(facts.config.basis, field), f"basis_{field}_{facts.name}"
    return st.slider(label, low, max(high, own), own, step, key=key, help=_HELP[field], persist_state="session")


def _buttons(facts: RunFacts, field: str, label: str, options: list[str]) -> str:
    own, key = getattr(facts.config.basis, field), f"basis_{field}_{facts.name}"
    return st.segmented_control(label, options, default=own, required=True, key=key, help=_HELP[field])


def _standing(facts: RunFacts, before: reselection.Selection, after: reselection.Selection, changed: dict[str, object]) -> None:
    kept = len(set(before.ids) & set(after.ids))
    settings = ", ".join(f"{key} {value}" for key, value in changed.items()) or "the run's own settings"
    st.markdown(
        plain(f"With {settings}: {len(after.picks)} picks, {kept} kept, {len(after.picks) - kept} gained, {len(before.picks) - kept} lost.")
    )
    if not changed and before.ids != after.ids:
        st.warning("The run's own settings now select other picks than those stored: the basis is stale. Make it again with --redo basis.")


COMPARISON_COLUMNS: Columns = {
    "what": cc.TextColumn(
        "what", width=200, help="Coverage: cosine of each mined key with its nearest pick. Ranks: effective. All of raw vectors."
    ),
    "stored": number_column("stored", "%.4g", "The run's basis.", width=86),
    "re-selected": number_column("re-selected", "%.4g", "Under the settings above.", width=92),
    "change": number_column("change", "%+.4g", "Re-selected minus stored.", width=86),
}


CHANGE_COLUMNS: Columns = ACTION_COLUMNS | {
    "fate": cc.TextColumn("fate", width=64),
    "kind": cc.TextColumn("kind", width=80),
    "pick before": number_column("pick before", "%d", "Rank in the stored basis; empty: not in it.", width=82),
    "pick now": number_column("pick now", "%d", "Rank in the re-selection; empty: not in it.", width=74),
}
