"""The Export page's choice of library and actions, the cautions, and the bundle's manifest and card."""

import hashlib
from typing import NamedTuple

import streamlit as st
from streamlit import column_config as cc

from stir_core.deploy.bundle.card import card_text
from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.export import TARGETS
from stir_core.store.curation import Curation
from stir_core.store.libraries import LIBRARIES, offered
from workbench import session
from workbench.export import data as plan
from workbench.export import view_prepared as shipping
from workbench.shared.curation_table import curation_table
from workbench.shared.facts import RunFacts
from workbench.shared.text import plain
from workbench.shared.view_tables import ACTION_COLUMNS, JUDGED_COLUMNS, Columns, data_table, page_of, some_entries

_TICKED = "export_ticked"
"""Session key of the choice made by ticking rows, and of its table: that table keeps its widget; any other choice gets a new one."""
_COLUMNS: Columns = {
    **ACTION_COLUMNS,
    "entry": cc.TextColumn("entry", help="Pair number and c; x and a digest: a merged one.", pinned=True, width=92),
    "exported": cc.CheckboxColumn("exported", help="Whether the action is exported, together with the null entry of its pair.", width=66),
    **JUDGED_COLUMNS,
}


class ExportChoice(NamedTuple):
    """The library, actions and targets that are chosen."""

    library: str
    only: str | None
    """``starred``, ``tag:NAME`` or ``ids:A,B`` of the curated library; ``None``: all actions."""
    targets: tuple[str, ...]
    whole: Bundle
    """The whole library that the actions are chosen from."""
    curation: Curation


def choose_library(facts: RunFacts) -> ExportChoice:
    """The choices of library, actions and targets; the address holds all three."""
    curation = Curation.open(facts.run)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        library = session.choose_short(session.LIBRARY, "Library", offered(facts.run), format_func=LIBRARIES.__getitem__)
        whole = shipping.prepared(facts, curation, library, None)
        labels = {plan.ALL: "All actions"}
        linked = session.chosen(session.ONLY)
        if library == "curated":
            labels = plan.choices(curation, linked, [entry.id for entry in whole.entries])
        only = session.choose_one(session.ONLY, "Actions", list(labels), format_func=lambda each: labels.get(each, each), width=240)
        targets = session.choose_several(
            session.TARGETS, "Targets", tuple(TARGETS), first=("bundle",), format_func=lambda each: TARGETS[each].title
        )
    if library != "curated":
        st.caption("Only the curated library can be narrowed by stars, tags or single rows.")
    return ExportChoice(library, None if only == plan.ALL else only, targets, whole, curation)


def need_actions(facts: RunFacts, choice: ExportChoice) -> Bundle:
    """Show the library's actions (with boxes to tick for the curated one) and return the bundle of the chosen ones.

    Raises:
        StirError: the choice holds no action.
    """
    bundle = shipping.prepared(facts, choice.curation, choice.library, choice.only)
    own = {entry.id: entry for entry in choice.whole.entries if entry.kind == "corrective"}
    ids, drawn = page_of(list(own), "export_page")
    state = choice.curation.state
    mined = some_entries(facts, [id_ for id_ in ids if id_ in facts.entries])
    judged = curation_table(mined, facts, state, [id_ for id_ in ids if id_ in state.merges])
    table = plan.exported_actions(judged, [own[id_] for id_ in ids], bundle)
    key = _key(choice, ids)

    def choose_rows(rows: list[int]) -> None:
        elsewhere = [id_ for id_ in chosen if id_ not in ids]
        value = plan.choice_of([*elsewhere, *(ids[row] for row in rows)][: plan.MOST_TICKED])
        session.set_state(_TICKED, (value, key))
        session.point_at(session.ONLY, value)

    chosen = plan.ids_of(choice.only or "")
    data_table(
        table,
        _COLUMNS,
        "Actions of the library, and which of them are exported",
        key=key,
        height=300 if len(table) > 8 else "auto",
        clicked=lambda row: session.point_at(session.ACTION, ids[row]),
        ticked=choose_rows if choice.library == "curated" else None,
        ticks=[ids.index(id_) for id_ in chosen if id_ in ids],
    )
    hint = " Tick rows to export these alone." if choice.library == "curated" else ""
    if len(chosen) == plan.MOST_TICKED:
        hint = f" At most {plan.MOST_TICKED} rows can be ticked: for more, give them a tag on the Curate page."
    manifest = bundle.manifest
    counts = f"{manifest.n_actions:,} of {len(own):,} actions are exported, {manifest.n_entries:,} entries with their null entries."
    st.caption(counts + drawn + hint)
    return bundle


def _key(choice: ExportChoice, ids: list[str]) -> str:
    value, key = session.state_of(_TICKED, (None, ""))
    rows = hashlib.sha256("|".join([choice.library, *ids]).encode()).hexdigest()[:12]
    if value == (choice.only or plan.ALL) and key.startswith(f"export_table_{rows}"):
        return key
    return f"export_table_{rows}_{hashlib.sha256((choice.only or '').encode()).hexdigest()[:8]}"


def cautions_view(facts: RunFacts, choice: ExportChoice, bundle: Bundle) -> None:
    """Cautions that hold for every target."""
    cautions = plan.cautions(bundle, facts, choice.curation)
    if grave := [caution.text for caution in cautions if caution.grave]:
        st.warning("**Before you export**\n\n" + "\n".join(f"- {plain(text)}" for text in grave))
    if others := [caution.text for caution in cautions if not caution.grave]:
        st.caption(plain(" · ".join(text.removesuffix(".") for text in others)))


def contents(bundle: Bundle) -> None:
    """Manifest and model card of the bundle."""
    manifest = bundle.manifest
    where = f"{manifest.base_model or manifest.model.name}, block {', '.join(map(str, manifest.layers))}"
    st.markdown(f"**Contents of the bundle** · {plain(f'{manifest.digest} · {where} · weights {manifest.model.weights_sha256[:12]}')}")
    left, right = st.columns([1, 1])
    with left, st.expander("manifest.json"):
        st.json(manifest.model_dump_json(), expanded=1)
    with right, st.expander("Model card (README.md)"):
        st.code(card_text(bundle.manifest, bundle.evaluation), language="markdown", wrap_lines=True, height=420)
