"""The Saved page's sections: the list, one piece with its ways out of the workbench, and adding a piece from elsewhere."""

import pandas as pd
import streamlit as st
from streamlit import column_config as cc

from stir_core.errors import FAULTS, line_of
from stir_core.saved import SavedContent, SavedWork
from workbench import bootstrap, session
from workbench.shared.html_parts import words_of
from workbench.shared.saved import command_of, saved_html, sections_of
from workbench.shared.text import one_line, plain, segment
from workbench.shared.view_page import command_line
from workbench.shared.view_saved import NONE_YET, SAVED_COLUMNS, page_link, saved_table
from workbench.shared.view_tables import data_table
from workbench.shared.view_text import text_strip

_ADDED, _REFUSED = "saved_added", "saved_refused"


def saved_list() -> SavedWork | None:
    """The list, and the chosen piece; ``None``: there is none."""
    works, broken = bootstrap.saved().all()
    for line in broken:
        st.warning(plain(line))
    if not works:
        st.info(NONE_YET)
        return None
    ids = [work.id for work in works]
    asked = session.chosen(session.SAVED)
    if asked is not None and asked not in ids and all(each.id != asked for each in bootstrap.decodings().running()):
        st.warning(plain(f"There is no saved work {asked} here: it was deleted, or it is in another folder of runs."))
        session.forget_saved()

    def choose_row(row: int) -> None:
        session.point_at(session.SAVED, ids[row])

    height = min(300, 38 + 35 * len(works))
    data_table(saved_table(works), SAVED_COLUMNS, "Saved work, the latest first", key="saved_table", height=height, clicked=choose_row)
    by_id = {work.id: work for work in works}
    chosen = session.choose_one(
        session.SAVED, "Saved work", ids, format_func=lambda id_: f"{by_id[id_].kind} · {one_line(by_id[id_].title, 60)} · {id_[-8:]}"
    )
    return by_id[chosen]


def saved_work(work: SavedWork) -> None:
    """One piece: what it is, ways to open, share and delete it, and its content."""
    try:
        content = bootstrap.saved_content(work.id)
    except FAULTS as error:
        st.error(plain(line_of(error)))
        _delete(work)
        return
    here = bootstrap.runs_by_digest().get(work.run_digest)
    st.markdown(f"**{plain(work.title)}**")
    st.text(work.outcome)
    made = f"{work.kind} · saved {work.created} UTC · run {work.run}" + (f" · model {work.model.name}" if work.model else "")
    st.caption(plain(made if here else f"{made}, which is not here: the pages that need the run cannot show it"))
    absent = f"# needs the run {work.run} (digest {work.run_digest})"
    command = command_of(content, bootstrap.known_runs().runs[here].run) if here else absent
    with st.container(horizontal=True, vertical_alignment="center"):
        if here:
            page_link(work.id, here, "Open in its page")
        _share(work, content, command)
        _delete(work)
    for number, section in enumerate(sections_of(work, content)):
        area = st.expander("Made with") if section.title == "Made with" else st.container(gap="xsmall")
        with area:
            if section.title != "Made with":
                st.markdown(f"**{section.title}**")
            _body(section.body, f"saved_section_{number}", section.title)
    if here:
        command_line(command)


def _body(body: str | pd.DataFrame, key: str, name: str) -> None:
    if isinstance(body, str):
        text_strip([segment(body)], key=key, height=260)
    elif body.empty:
        st.caption("None.")
    else:
        words = pd.DataFrame(words_of(body), columns=[str(column) for column in body.columns])
        columns = {column: cc.TextColumn(column) for column in words.columns}
        data_table(words, columns, name, key=key, height=min(420, 38 + 35 * len(words)))


def _share(work: SavedWork, content: SavedContent, command: str) -> None:
    st.download_button(
        "Share as one HTML file",
        lambda: saved_html(work, content, command),
        f"{work.id}.html",
        "text/html",
        key="saved_html",
        on_click="ignore",
        help="Opens offline in any browser.",
    )
    st.download_button(
        "Share as a folder (zip)",
        lambda: bootstrap.saved().packed(work.id),
        f"{work.id}.zip",
        "application/zip",
        key="saved_zip",
        on_click="ignore",
        help="Another workbench opens it: add it on its Saved page, or with `stir saved --add FILE`.",
    )


def _delete(work: SavedWork) -> None:
    def delete() -> None:
        bootstrap.saved().delete(work.id)
        session.forget_saved()

    with st.popover("Delete", type="secondary"):
        st.markdown("It cannot be brought back.")
        st.button("Delete it for good", key="saved_delete", type="primary", on_click=delete)


def add_saved() -> None:
    """Add a piece that another workbench shared; a damaged one gets one line."""

    def add(data: bytes) -> None:
        try:
            work = bootstrap.saved().add_packed(data)
        except FAULTS as error:
            session.set_state(_REFUSED, line_of(error))
            return
        session.point_at(session.SAVED, work.id)
        session.set_state(_ADDED, f"Added {work.id}: its digests are right.")

    if added := session.take_state(_ADDED):
        st.success(plain(added))
    if refused := session.take_state(_REFUSED):
        st.error(plain(refused))
    with st.expander("Add saved work that a colleague shared"):
        file = st.file_uploader("Zip file from “Share as a folder”", type="zip", key="saved_upload")
        if file is not None:
            st.button("Add it", key="saved_add", on_click=add, args=(file.getvalue(),))
