"""The Export page's targets: what each keeps and loses, its files, download, folder, commands and certificates."""

import hashlib
from pathlib import Path
from typing import get_args

import streamlit as st
from streamlit import column_config as cc

from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.certify.certificate import Deployment
from stir_core.deploy.export import ExportTarget, export, targets_for
from stir_core.errors import FAULTS, line_of
from workbench import session
from workbench.export import data as plan
from workbench.export import view_prepared as shipping
from workbench.export.data import certificate_table, snippets
from workbench.export.view import ExportChoice
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
    "written": cc.TextColumn("written (UTC)", help="Time at which its file was written."),
    "same": cc.NumberColumn("same", help="Prompts without any difference."),
    "injected": cc.NumberColumn("injected", help="Decisions that injected an action; if there is none, little was compared."),
    **{
        name: cc.NumberColumn(f"worst {name}", format="%.1e", help="Largest difference; empty: could not be compared.")
        for name in plan.DIFFERENCES
    },
    "correlation": cc.NumberColumn(
        "least correlation",
        format="%.4f",
        help="Between the changes in logits that a control vector makes in the target and here; empty: no control vector.",
    ),
}


def targets_view(facts: RunFacts, choice: ExportChoice, bundle: Bundle) -> None:
    """A tab for each chosen target."""
    if refused := session.take_state(_REFUSED):
        st.error(plain(refused))
    if done := session.take_state(_DONE):
        st.success(plain(done))
    if not choice.targets:
        st.caption("No target is chosen.")
        return
    stem = _folder_name(facts, choice)
    chosen = [target for target in targets_for(bundle) if target.name in choice.targets]
    for tab, target in zip(st.tabs([each.title + (" (refused)" if each.refusal else "") for each in chosen]), chosen, strict=True):
        with tab:
            _kept_and_lost(target)
            if target.refusal:
                st.warning(plain(target.refusal[:1].upper() + target.refusal[1:] + "."))
                continue
            _target(facts, choice, bundle, target.name, shipping.export_folder(stem, target.name))


def _folder_name(facts: RunFacts, choice: ExportChoice) -> str:
    """The typed name; the default one if it is refused."""
    default = plan.default_name(facts.run.path.name, choice.library, choice.only)
    key = f"export_name_{hashlib.sha256(f'{facts.run.path}|{default}'.encode()).hexdigest()[:12]}"
    help_ = "Name of the folder and the archive, to which the target is added. Folders are written to exports, beside the runs."
    typed = (st.text_input("Name", default, key=key, width=360, max_chars=60, help=help_) or "").strip()
    if refused := plan.refused_name(typed):
        st.error(plain(refused))
        return default
    return typed


def _kept_and_lost(target: ExportTarget) -> None:
    left, right = st.columns([1, 1])
    left.markdown("**Keeps**\n\n" + "\n".join(f"- {plain(line)}" for line in target.kept))
    right.markdown("**Loses**\n\n" + "\n".join(f"- {plain(line)}" for line in target.lost))


def _target(facts: RunFacts, choice: ExportChoice, bundle: Bundle, target: str, folder: Path) -> None:
    _files(bundle, target)
    earlier = shipping.written(folder) if target == "bundle" else None
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Download (.zip)",
            shipping.archiver(bundle, target, folder),
            f"{folder.name}.zip",
            "application/zip",
            key=f"export_download_{target}",
            on_click="ignore",
            type="primary",
        )
        st.button(
            "Write again" if earlier or (folder / "stir-export.json").is_file() else "Write to a folder",
            key=f"export_write_{target}",
            on_click=_write,
            args=(bundle, target, folder),
            help=str(folder).replace("_", "\\_"),
        )
        if earlier and earlier.certificates:
            st.caption("Writing again makes a bundle without the certificates of the present one.", width="content")
    if earlier is not None:
        _certificates(bundle, folder, earlier)
    left, right = st.columns([1, 1])
    with left:
        command_line(export_command(facts.run, target, folder, choice.library, choice.only), "The same on the command line")
        if target == "bundle":
            _how_to_certify(facts, choice, folder, earlier)
    with right:
        for snippet in snippets(target, bundle, folder):
            st.caption(plain(snippet.title))
            st.code(snippet.text, language=snippet.language, wrap_lines=True)


def _files(bundle: Bundle, target: str) -> None:
    """The list of files, made only while it is open: a large library has thousands of files."""
    section = st.expander("Files with sizes and SHA-256", key=f"export_files_{target}", on_change="rerun")
    if not section.open:
        return
    table = plan.file_table(shipping.listed(bundle, target))
    with section:
        data_table(table, _FILES, "Files of the export", height=320 if len(table) > 8 else "auto")
        st.caption(f"{len(table)} files, {table['bytes'].sum() / 1e6:.2f} MB. The zip stores them as they are: equal files, equal bytes.")


def _write(bundle: Bundle, target: str, folder: Path) -> None:
    """Callback: the outcome is shown on the page that is drawn next."""
    try:
        export(bundle, folder, to=target)
        session.set_state(_DONE, f"Written: {folder}")
    except FAULTS as error:
        session.set_state(_REFUSED, line_of(error))


def _certificates(bundle: Bundle, folder: Path, earlier: shipping.Written) -> None:
    for line in earlier.refused:
        st.warning(plain(line))
    if earlier.digest not in ("", bundle.manifest.digest):
        st.warning(plain(f"The bundle at {folder} is another one ({earlier.digest}, here {bundle.manifest.digest}): write it again."))
    if earlier.certificates:
        st.header("Parity certificates of the written bundle", anchor=False)
        data_table(certificate_table(earlier.certificates), _CERTIFICATES, "Parity certificates")
        if failed := [each.first_difference for each, _ in earlier.certificates if each.first_difference]:
            st.caption(plain(f"First difference: {failed[0]}"))


def _how_to_certify(facts: RunFacts, choice: ExportChoice, folder: Path, earlier: shipping.Written | None) -> None:
    certified = {each.target for each, _ in earlier.certificates} if earlier else set()
    if missing := [target for target in get_args(Deployment) if target not in certified]:
        own = facts.run if choice.library == "basis" else None
        commands = "\n".join(certify_command(folder, target, own) for target in missing)
        command_line(commands, "Parity certificate: 20 prompts, answered by the workbench and by the deployed bundle, compared")
