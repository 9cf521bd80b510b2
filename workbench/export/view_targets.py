"""The Export page's lower half, target by target: what it keeps and loses, its files, download, folder, commands, certificates."""

import hashlib
from pathlib import Path
from typing import get_args

import streamlit as st
from streamlit import column_config as cc

from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.certify.certificate import Deployment
from stir_core.deploy.export import ExportTarget, export, targets_for
from stir_core.errors import StirError
from workbench import session
from workbench.export import data as plan
from workbench.export import view_prepared as shipping
from workbench.export.data import certificate_table, snippets
from workbench.export.view import Choice
from workbench.shared.command_lines import certify_command, export_command
from workbench.shared.facts import RunFacts
from workbench.shared.text import plain
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import Columns, data_table

_REFUSED, _DONE = "export_refused", "export_done"
_FILES: Columns = {
    "file": cc.TextColumn("file", width=300),
    "bytes": cc.NumberColumn("bytes", format="localized", width=90),
    "sha256": cc.TextColumn("sha256", width=520),
}
_CERTIFICATES: Columns = {
    "written": cc.TextColumn("written (UTC)", help="When its file was written."),
    "same": cc.NumberColumn("same", help="Prompts on which nothing differed."),
    "injected": cc.NumberColumn("injected", help="Decisions that injected an action: with none, little was compared."),
    **{
        name: cc.NumberColumn(f"worst {name}", format="%.1e", help="Largest difference seen; empty: could not be compared.")
        for name in ("logits", "logprob", "score", "cosine")
    },
    "correlation": cc.NumberColumn(
        "least correlation", format="%.4f", help="Of the changes in logits that control vectors make, in the target and here; empty: none."
    ),
}


def targets_view(facts: RunFacts, choice: Choice, made: Bundle) -> None:
    """A tab for each chosen target."""
    if refused := session.take_state(_REFUSED):
        st.error(plain(refused))
    if done := session.take_state(_DONE):
        st.success(plain(done))
    if not choice.targets:
        st.caption("No target is chosen.")
        return
    stem = _stem(facts, choice)
    chosen = [target for target in targets_for(made) if target.name in choice.targets]
    for tab, target in zip(st.tabs([each.title + (" (refused)" if each.refusal else "") for each in chosen]), chosen, strict=True):
        with tab:
            _kept_and_lost(target)
            if target.refusal:
                st.warning(plain(target.refusal[:1].upper() + target.refusal[1:] + "."))
                continue
            _target(facts, choice, made, target.name, shipping.place(stem, target.name))


def _stem(facts: RunFacts, choice: Choice) -> str:
    default = plan.default_name(facts.run.path.name, choice.library, choice.only)
    key = f"export_name_{hashlib.sha256(f'{facts.run.path}|{default}'.encode()).hexdigest()[:12]}"
    help_ = "Folder and archive are called so, with the target at the end. Folders lie in exports, beside the runs."
    typed = (st.text_input("Name", default, key=key, width=360, max_chars=60, help=help_) or "").strip()
    if refused := plan.refused_name(typed):
        st.error(plain(refused))
        return default
    return typed


def _kept_and_lost(target: ExportTarget) -> None:
    left, right = st.columns([1, 1])
    left.markdown("**Keeps**\n\n" + "\n".join(f"- {plain(line)}" for line in target.kept))
    right.markdown("**Loses**\n\n" + "\n".join(f"- {plain(line)}" for line in target.lost))


def _target(facts: RunFacts, choice: Choice, made: Bundle, target: str, folder: Path) -> None:
    _files(made, target)
    there = shipping.written(folder) if target == "bundle" else None
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Download (.zip)",
            shipping.archiver(made, target, folder),
            f"{folder.name}.zip",
            "application/zip",
            key=f"export_download_{target}",
            on_click="ignore",
            type="primary",
        )
        st.button(
            "Write again" if there or (folder / "stir-export.json").is_file() else "Write to a folder",
            key=f"export_write_{target}",
            on_click=_write,
            args=(made, target, folder),
            help=str(folder).replace("_", "\\_"),
        )
        if there and there.certificates:
            st.caption("Writing again makes a bundle without the certificates that lie there.", width="content")
    if there is not None:
        _certificates(made, folder, there)
    left, right = st.columns([1, 1])
    with left:
        command_line(export_command(facts.run, target, folder, choice.library, choice.only), "The same on the command line")
        if target == "bundle":
            _how_to_certify(facts, choice, folder, there)
    with right:
        for snippet in snippets(target, made, folder):
            st.caption(plain(snippet.title))
            st.code(snippet.text, language=snippet.language, wrap_lines=True)


def _files(made: Bundle, target: str) -> None:
    """Made only when they are looked at: a large library is thousands of files."""
    held = st.expander("Files with sizes and SHA-256", key=f"export_files_{target}", on_change="rerun")
    if not held.open:
        return
    table = plan.file_table(shipping.listed(made, target))
    with held:
        data_table(table, _FILES, "Files of the export", height=320 if len(table) > 8 else "auto")
        st.caption(f"{len(table)} files, {table['bytes'].sum() / 1e6:.2f} MB. The zip stores them as they are: equal files, equal bytes.")


def _write(made: Bundle, target: str, folder: Path) -> None:
    """In a callback: a refusal is one line on the page that is drawn after it."""
    try:
        export(made, folder, to=target)
        session.set_state(_DONE, f"Written: {folder}")
    except StirError as error:
        session.set_state(_REFUSED, str(error))


def _certificates(made: Bundle, folder: Path, there: shipping.Written) -> None:
    for line in there.refused:
        st.warning(plain(line))
    if there.digest not in ("", made.manifest.digest):
        st.warning(plain(f"The bundle at {folder} is another one ({there.digest}, here {made.manifest.digest}): write it again."))
    if there.certificates:
        st.markdown("**Parity certificates of the bundle that lies there**")
        data_table(certificate_table(there.certificates), _CERTIFICATES, "Parity certificates")
        if failed := [each.first_difference for each, _ in there.certificates if each.first_difference]:
            st.caption(plain(f"First difference: {failed[0]}"))


def _how_to_certify(facts: RunFacts, choice: Choice, folder: Path, there: shipping.Written | None) -> None:
    held = {each.target for each, _ in there.certificates} if there else set()
    if wanted := [target for target in get_args(Deployment) if target not in held]:
        own = facts.run if choice.library == "basis" else None
        commands = "\n".join(certify_command(folder, target, own) for target in wanted)
        command_line(commands, "Parity certificate: 20 prompts through the workbench and through what the written bundle is deployed with")
