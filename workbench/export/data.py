"""What is about to leave the workbench: which choices there are, what a reader must know first, and the files with sizes and hashes."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from stir_core.deploy.bundle.manifest import FileFact
from stir_core.deploy.bundle.reading import Bundle
from stir_core.errors import StoreError
from stir_core.stages.stage import check_fresh
from stir_core.store.curation import Curation
from workbench.shared import confounds
from workbench.shared.run_facts import RunFacts

ALL, STARRED, TAG, IDS = "all", "starred", "tag:", "ids:"
"""How a choice of actions is written in an address; but for ``all``, also how ``stir export --only`` takes it."""
MOST_TICKED = 200
"""An address holds no more ids than that with comfort; tags hold any number."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,59}")
_FLAGGED = {confounds.MOSTLY_LENGTH: "mostly length", confounds.LABELS_DO_NOT_MATTER: "as long an action with shuffled labels"}


class Caution(NamedTuple):
    """One thing to know before a library leaves."""

    grave: bool
    """It may make the export useless or misleading, rather than being good to know."""
    text: str


def choices(curation: Curation, ticked: str | None, known: Sequence[str]) -> dict[str, str]:
    """Choices of actions with their words. ``ticked`` is one of single ids, offered where all of them are known."""
    standing = curation.state
    found = {ALL: "All actions", STARRED: f"Starred only ({len(standing.starred())})"}
    found |= {f"{TAG}{tag}": f"Tag {tag} ({len(standing.tagged(tag))})" for tag in standing.tags()}
    if ticked and (ids := ids_of(ticked)) and set(ids) <= set(known):
        found[ticked] = f"Ticked rows ({len(ids)})"
    return found


def ids_of(choice: str) -> tuple[str, ...]:
    """The single ids that a choice names; none where it names a star or a tag."""
    return tuple(choice.removeprefix(IDS).split(",")) if choice.startswith(IDS) and choice != IDS else ()


def choice_of(ids: Sequence[str]) -> str:
    """The choice of these rows; no row is all of them."""
    return IDS + ",".join(ids) if ids else ALL


def cautions(bundle: Bundle, facts: RunFacts, curation: Curation) -> list[Caution]:
    """Everything to know about this library before it leaves, the grave first. What single targets lose is not in it."""
    found = [*_stale(facts), *(Caution(True, _sentence(note)) for note in bundle.manifest.notes), *_measured(bundle)]
    found += [*_causal(bundle, facts), *_controls(bundle, facts), *_judged(bundle, curation)]
    return sorted(found, key=lambda caution: not caution.grave)


def _stale(facts: RunFacts) -> list[Caution]:
    found = []
    for stage in ("actions", "basis"):
        if facts.run.finished(stage):
            try:
                check_fresh(facts.run, stage)
            except StoreError as error:
                found.append(Caution(True, _sentence(str(error))))
    return found


def _measured(bundle: Bundle) -> list[Caution]:
    summary = bundle.evaluation
    if not summary.evaluated:
        return [Caution(True, f"No measured effect: {summary.reason}.")]
    own = [each.label for each in summary.evaluations if each.same_library]
    if own:
        return []
    named = ", ".join(each.label for each in summary.evaluations)
    return [Caution(True, f"The effect of this very library was not measured: {named} evaluated another library of the run.")]


def _causal(bundle: Bundle, facts: RunFacts) -> list[Caution]:
    ids = [entry.id for entry in bundle.entries if entry.kind == "corrective"]
    measured = facts.advantages
    if not measured:
        return [Caution(False, "No causal study measured what single actions do.")]
    by = {word: [id_ for id_ in ids if id_ in measured and measured[id_].verdict == word] for word in ("harms", "no effect seen")}
    found = []
    if harms := by["harms"]:
        found.append(Caution(True, f"{_count(harms)} measured to harm: {_named(harms)}."))
    if nothing := by["no effect seen"]:
        found.append(Caution(True, f"{_count(nothing)} measured without an effect that can be told from 0: {_named(nothing)}."))
    if untried := [id_ for id_ in ids if id_ not in measured]:
        found.append(Caution(False, f"{_count(untried)} not tried in the causal study."))
    return found


def _controls(bundle: Bundle, facts: RunFacts) -> list[Caution]:
    mined = {origin.entry_id: origin.members or (origin.entry_id,) for origin in bundle.origins}
    ids = [entry.id for entry in bundle.entries if entry.kind == "corrective"]
    if not facts.controls:
        return [Caution(False, "This run was made before controls were measured: length and chance are not excluded for any action.")]
    found = []
    for flag, words in _FLAGGED.items():
        hit = [id_ for id_ in ids if any(flag in confounds.flags(facts.controls[m]) for m in mined[id_] if m in facts.controls)]
        if hit:
            found.append(Caution(True, f"{_count(hit)} flagged by the controls, {words}: {_named(hit)}."))
    unknown = [id_ for id_ in ids if all(confounds.verdict(facts.controls.get(m)) == "cannot tell" for m in mined[id_])]
    if unknown:
        found.append(Caution(False, f"{_count(unknown)} with too few rollouts for the controls to tell anything."))
    return found


def _judged(bundle: Bundle, curation: Curation) -> list[Caution]:
    found = []
    origin, standing = bundle.manifest.provenance, curation.state
    if curation.strangers:
        found.append(Caution(True, f"{len(curation.strangers)} edits were made on other entries than the run has now and do not apply."))
    if origin.library == "curated" and not len(curation):
        found.append(Caution(False, "Nobody has curated this run yet: its curated library is the control basis as selection left it."))
    if origin.library != "curated" and len(curation):
        found.append(
            Caution(True, f"{len(curation)} edits of the Curate page are not in it: the {origin.library} library is as it was made.")
        )
    if len(curation) and not standing.starred():
        found.append(Caution(False, "Nothing is starred."))
    if deaf := [entry.id for entry in bundle.entries if not entry.reachable]:
        found.append(Caution(False, f"{_count(deaf, 'entry', 'entries')} at the last control point, which retrieval never asks for."))
    return found


def _count(ids: Sequence[str], one: str = "action", many: str = "actions") -> str:
    return f"{len(ids)} {one if len(ids) == 1 else many}"


def _named(ids: Sequence[str], most: int = 6) -> str:
    return ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def actions_leaving(actions: pd.DataFrame, library: Bundle, leaving: Bundle) -> pd.DataFrame:
    """The actions of a library with a column ``leaves``: whether they are among those that go out.

    Args:
        actions: entries with what was judged of them (see ``curation_table``).
    """
    rank = {entry.id: i for i, entry in enumerate(library.entries) if entry.kind == "corrective"}
    out = {entry.id for entry in leaving.entries}
    table = actions.drop(columns=["kind", "library"]).set_index("entry").loc[list(rank)].reset_index()
    table = table.drop(columns=[name for name in ("star", "tags", "name", "note") if not table[name].astype(bool).any()])
    table.insert(1, "leaves", table["entry"].isin(list(out)))
    return table


def file_table(files: Mapping[str, FileFact]) -> pd.DataFrame:
    """Every file with its size in bytes and its hash."""
    return pd.DataFrame([(name, fact.size, fact.sha256) for name, fact in sorted(files.items())], columns=["file", "bytes", "sha256"])


def default_name(run: str, library: str, only: str | None) -> str:
    """A folder's name for the choice, of plain characters."""
    part = {None: "", STARRED: "-starred"}.get(only, "")
    if only is not None and only.startswith(TAG):
        part = f"-{only.removeprefix(TAG)}"
    elif only is not None and only.startswith(IDS):
        part = "-picked"
    name = re.sub(r"-*[^A-Za-z0-9_-]+-*", "-", f"{run}-{library}{part}").strip("-")
    return name[:60]


def refused_name(name: str) -> str | None:
    """Why a folder cannot have this name; ``None`` where it can. A page takes no paths."""
    if _NAME.fullmatch(name):
        return None
    return f"{name[:80]!r} is no name for a folder: 1 to 60 letters, digits, dots, dashes and underscores, not beginning with a dot or dash"
