"""The Export page's upper half: which library and actions leave, what to know before, and what the bundle says of itself."""

import hashlib
from typing import NamedTuple

import streamlit as st
from streamlit import column_config as cc

from stir_core.deploy.bundle.card import card_text
from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.export import TARGETS
from stir_core.store.curation import Curation
from stir_core.store.libraries import LIBRARIES, LIBRARY_KINDS
from workbench import session
from workbench.export import data as plan
from workbench.export import view_prepared as shipping
from workbench.shared.curation_table import curation_table
from workbench.shared.facts import RunFacts
from workbench.shared.text import plain
from workbench.shared.view_tables import ACTION_COLUMNS, JUDGED_COLUMNS, Columns, all_entries, data_table

_TICKED = "export_ticked"
"""The choice that ticking made, and the table that it was made in: that table stays, every other choice gets a fresh one."""
_COLUMNS: Columns = {
    **ACTION_COLUMNS,
    "entry": cc.TextColumn("entry", help="Pair number and c; x and a digest: a merged one.", pinned=True, width=92),
    "leaves": cc.CheckboxColumn("leaves", help="Among the actions that go out, with the null entry of its pair.", width=56),
    **JUDGED_COLUMNS,
}


class Choice(NamedTuple):
    """What is to leave, and for what."""

    library: str
    only: str | None
    """Of the curated library: ``starred``, ``tag:NAME`` or ``ids:A,B``; ``None``: all of it."""
    targets: tuple[str, ...]
    whole: Bundle
    """The library that is chosen from."""
    curation: Curation


def choose_library(facts: RunFacts) -> Choice:
    """Library, actions and targets; the address holds all three."""
    curation = Curation.open(facts.run)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        offered = [name for name in LIBRARY_KINDS if name == "all" or "basis" in facts.stages]
        library = session.choose_short(session.LIBRARY, "Library", offered, format_func=LIBRARIES.__getitem__)
        whole = shipping.prepared(facts, curation, library, None)
        words = {plan.ALL: "All actions"}
        if library == "curated":
            words = plan.choices(curation, session.chosen(session.ONLY), [entry.id for entry in whole.entries])
        asked = session.chosen(session.ONLY)
        only = session.choose_one(session.ONLY, "Actions", list(words), format_func=lambda each: words.get(each, each), width=240)
        named = session.choose_several(
            session.TARGETS, "Targets", tuple(TARGETS), first=("bundle",), format_func=lambda each: TARGETS[each].title
        )
    if library == "curated" and asked and asked not in words:
        st.warning(plain(f"The link asks for {asked[:80]}, which this library does not have: all of its actions are shown."))
    if library != "curated":
        st.caption("Stars, tags and single rows choose within the curated library only.")
    return Choice(library, None if only == plan.ALL else only, named, whole, curation)


def need_actions(facts: RunFacts, choice: Choice) -> Bundle:
    """The library's actions, to be ticked where it is the curated one; gives what leaves. A choice of nothing ends the page."""
    made = shipping.prepared(facts, choice.curation, choice.library, choice.only)
    judged = curation_table(all_entries(facts), facts, choice.curation.state)
    table = plan.actions_leaving(judged, choice.whole, made)
    ids = [str(id_) for id_ in table["entry"]]
    key = _key(choice, ids)

    def choose_rows(rows: list[int]) -> None:
        value = plan.choice_of([ids[row] for row in rows[: plan.MOST_TICKED]])
        session.set_state(_TICKED, (value, key))
        session.point_at(session.ONLY, value)

    chosen = plan.ids_of(choice.only or "")
    data_table(
        table,
        _COLUMNS,
        "Actions of the library, and which of them leave",
        key=key,
        height=300 if len(table) > 8 else "auto",
        clicked=lambda row: session.point_at(session.ACTION, ids[row]),
        ticked=choose_rows if choice.library == "curated" else None,
        ticks=[ids.index(id_) for id_ in chosen if id_ in ids],
    )
    hint = " Tick rows to send these alone." if choice.library == "curated" else ""
    if len(chosen) == plan.MOST_TICKED:
        hint = f" No more than {plan.MOST_TICKED} rows are taken: give the others a tag on the Curate page."
    manifest = made.manifest
    st.caption(f"{manifest.n_actions} of {len(table)} actions leave, {manifest.n_entries} entries with their null entries.{hint}")
    return made


def _key(choice: Choice, ids: list[str]) -> str:
    value, key = session.state_of(_TICKED, (None, ""))
    rows = hashlib.sha256("|".join([choice.library, *ids]).encode()).hexdigest()[:12]
    if value == (choice.only or plan.ALL) and key.startswith(f"export_table_{rows}"):
        return key
    return f"export_table_{rows}_{hashlib.sha256((choice.only or '').encode()).hexdigest()[:8]}"


def cautions_view(facts: RunFacts, choice: Choice, made: Bundle) -> None:
    """What to know before it leaves, whatever the target."""
    found = plan.cautions(made, facts, choice.curation)
    if grave := [caution.text for caution in found if caution.grave]:
        st.warning("**Before it leaves**\n\n" + "\n".join(f"- {plain(text)}" for text in grave))
    if others := [caution.text for caution in found if not caution.grave]:
        st.caption(plain(" · ".join(text.removesuffix(".") for text in others)))


def contents(made: Bundle) -> None:
    """Manifest and card, as they will stand in the bundle."""
    manifest = made.manifest
    where = f"{manifest.base_model or manifest.model.name}, block {', '.join(map(str, manifest.layers))}"
    st.markdown(
        f"**What the bundle says of itself** · {plain(f'{manifest.digest} · {where} · weights {manifest.model.weights_sha256[:12]}')}"
    )
    left, right = st.columns([1, 1])
    with left, st.expander("manifest.json"):
        st.json(manifest.model_dump_json(), expanded=1)
    with right, st.expander("Model card (README.md)"):
        st.code(card_text(made.manifest, made.evaluation), language="markdown", wrap_lines=True, height=420)
