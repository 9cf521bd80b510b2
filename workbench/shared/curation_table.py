"""A run's curation as tables: the library with its judgements, the history, two versions side by side, and the curated library."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from stir_core.basis.selection import unit_rows
from stir_core.basis.summary import summary
from stir_core.curation import Judgement, Recorded, merge_weights
from stir_core.records import Entry
from stir_core.store.curated import Curated
from stir_core.store.curation import Curation
from stir_core.store.runs import Library
from workbench.shared.facts import RunFacts
from workbench.shared.text import one_line

JUDGED = ("star", "tags", "name", "library", "note")
"""Columns of the judgements."""
LISTS = {
    "all": "All",
    "starred": "Starred",
    "tagged": "Tagged",
    "noted": "With a note",
    "changed": "Kept, excluded, merged",
    "untouched": "Untouched",
}
"""Subsets that the table can be narrowed to, with their labels."""


def fate_of(entry_id: str, standing: Judgement, picked: bool) -> str:
    """Whether an entry is in the curated library, and why."""
    judged = standing.of(entry_id)
    if judged.merged_into:
        return f"in {judged.merged_into}"
    if judged.fate is not None:
        return {"in": "kept", "out": "excluded"}[judged.fate]
    if entry_id in standing.merges:
        return "merged"
    return "in the basis" if picked else "not selected"


def judged_columns(ids: list[str], standing: Judgement, picks: Mapping[str, object]) -> pd.DataFrame:
    """One row per id with the columns of :data:`JUDGED`, in the given order."""
    rows = []
    for id_ in ids:
        judged = standing.of(id_)
        note = one_line(judged.note, 90) if judged.note else None
        rows.append(("★" if judged.starred else None, list(judged.tags), judged.name, fate_of(id_, standing, id_ in picks), note))
    return pd.DataFrame(rows, columns=list(JUDGED))


def curation_table(actions: pd.DataFrame, facts: RunFacts, standing: Judgement, merged_ids: Sequence[str]) -> pd.DataFrame:
    """Merged entries, then mined ones: judgements, and beside them the mined and measured columns.

    Args:
        actions: a table of mined entries (see ``action_table``).
    """
    merged = pd.DataFrame([_merged_row(id_, standing.merges[id_], facts.entries) for id_ in merged_ids])
    measured = actions.reindex(columns=[name for name in SHOWN if name in actions.columns])
    table = pd.concat([merged, measured], ignore_index=True) if len(merged) else measured.reset_index(drop=True)
    judged = judged_columns([str(id_) for id_ in table["entry"]], standing, facts.picks)
    return judged.assign(entry=table["entry"]).join(table.drop(columns="entry")).reindex(columns=["entry", *JUDGED, *table.columns[1:]])


def with_judgements(actions: pd.DataFrame, facts: RunFacts) -> pd.DataFrame:
    """A table of entries with the judgements after their ids; unchanged where nothing was judged yet."""
    standing = Curation.open(facts.run).state
    if not standing.entries:
        return actions.reset_index(drop=True)
    judged = judged_columns([str(id_) for id_ in actions["entry"]], standing, facts.picks)
    ordered = ["entry", *(name for name in JUDGED if name != "note"), *(name for name in actions.columns if name != "entry")]
    return actions.reset_index(drop=True).join(judged).reindex(columns=ordered)


SHOWN = (
    "entry",
    "kind",
    "m",
    "layer",
    "quality",
    "pick",
    "retrieved",
    "committed",
    "advantage",
    "verdict",
    "controls",
    "flags",
    "promotes",
    "problem",
)


def _merged_row(id_: str, members: tuple[str, ...], entries: Mapping[str, Entry]) -> dict[str, object]:
    first = entries[members[0]]
    qualities = [entries[member].quality for member in members]
    quality = sum(q * q for q in qualities) / sum(qualities)
    return {"entry": id_, "kind": first.kind, "m": first.m, "layer": first.layer, "quality": quality, "promotes": " + ".join(members)}


def narrowed(ids: Sequence[str], kind: str, tag: str | None, standing: Judgement) -> list[str]:
    """Those of one of :data:`LISTS`, and of one tag."""
    tests: dict[str, Callable[[str], bool]] = {
        "starred": lambda id_: standing.of(id_).starred,
        "tagged": lambda id_: bool(standing.of(id_).tags),
        "noted": lambda id_: standing.of(id_).note is not None,
        "changed": lambda id_: id_ in standing.merges or standing.of(id_).fate is not None or standing.of(id_).merged_into is not None,
        "untouched": lambda id_: id_ not in standing.entries and id_ not in standing.merges,
    }
    test = tests.get(kind, lambda id_: True)
    return [id_ for id_ in ids if test(id_) and (tag is None or tag in standing.of(id_).tags)]


def with_twins(ids: list[str], entries: Mapping[str, Entry]) -> list[str]:
    """The ids, and the null entries that are paired with their corrective ones."""
    pairs = {entries[id_].pair for id_ in ids if id_ in entries and entries[id_].kind == "corrective"}
    return list(dict.fromkeys([*ids, *(entry.id for entry in entries.values() if entry.kind == "null" and entry.pair in pairs)]))


def history_table(curation: Curation) -> pd.DataFrame:
    """Every edit, the last one first."""
    rows = [
        (line.number, line.edit.when, line.edit.who, what_was_done(line), line.edit.why or None, None if curation.applies(line) else "no")
        for line in reversed(curation.lines)
    ]
    return pd.DataFrame(rows, columns=["edit", "when", "who", "what", "why", "applies"])


def what_was_done(line: Recorded, limit: int = 4) -> str:
    """An edit in one line, its text bounded."""
    edit = line.edit
    more = f" and {len(edit.entries) - limit} more" if len(edit.entries) > limit else ""
    value = " cleared" if edit.kind in ("note", "rename") else ""
    if edit.value is not None:
        value = f" {one_line(edit.value, 60)}"
    back = f" · takes back edit {edit.undoes}" if edit.undoes else ""
    return f"{edit.kind}{value} · {', '.join(edit.entries[:limit])}{more}{back}"


def diff_table(curation: Curation, a: int, b: int) -> pd.DataFrame:
    """Where two versions differ; an empty cell: no value in that version."""
    rows = [(change.entry_id, change.field, change.before or None, change.after or None) for change in curation.diff(a, b)]
    return pd.DataFrame(rows, columns=["entry", "what", f"version {a}", f"version {b}"])


def libraries_table(libraries: Mapping[str, Library]) -> pd.DataFrame:
    """One row per library: counts, halves of pairs, effective ranks, mean quality."""
    return pd.DataFrame([{"library": name, **summary(library)._asdict()} for name, library in libraries.items()]).drop(columns="by_step")


def steps_table(libraries: Mapping[str, Library]) -> pd.DataFrame:
    """Corrective and null entries of each library at every control point, tidy."""
    rows = [
        (name, m, kind, count)
        for name, library in libraries.items()
        for m, counts in summary(library).by_step.items()
        for kind, count in zip(("corrective", "null"), counts, strict=True)
    ]
    return pd.DataFrame(rows, columns=["library", "m", "kind", "entries"])


def lineage_table(library: Curated) -> pd.DataFrame:
    """Merged entries of a curated library, with the entries and weights of their mean."""
    rows = [
        (entry.id, origin.name, entry.m, entry.layer, entry.quality, entry.action_norm, _weighted(origin.members, origin.weights))
        for entry, origin in zip(library.library.entries, library.origins, strict=True)
        if origin.members
    ]
    return pd.DataFrame(rows, columns=["entry", "name", "m", "layer", "quality", "|v|", "mean of"])


def _weighted(members: tuple[str, ...], weights: tuple[float, ...]) -> str:
    return " + ".join(f"{weight:.2f} {member}" for member, weight in zip(members, weights, strict=True))


def merge_line(facts: RunFacts, ids: Sequence[str]) -> str:
    """What merging these entries would make of their actions: the smallest cosine between two, their norms, and the norm of the mean."""
    members = [facts.entries[id_] for id_ in ids if facts.entries[id_].action_row is not None]
    if len(members) < 2:
        return "Tick at least two actions to see how alike they are."
    rows = np.stack([facts.run.action_rows()[member.action_row] for member in members]).astype(np.float64)
    units = unit_rows(rows)
    least = min(float(units[i] @ units[j]) for i in range(len(rows)) for j in range(i))
    if any(member.quality <= 0 for member in members):
        return f"Smallest cosine between two of these actions: {least:+.2f}. One has no quality above 0, so they cannot be merged."
    norms = ", ".join(f"{np.linalg.norm(row):.1f}" for row in rows)
    mean = np.linalg.norm(np.asarray(merge_weights(members)) @ rows)
    caution = "" if least >= ALIKE else " They point different ways: the mean is shorter than its members and is neither of them."
    return f"Smallest cosine between two of these actions: {least:+.2f}. Norms {norms}; their mean has {mean:.1f}.{caution}"


ALIKE = 0.7
"""Cosine from which Compare counts two actions as the same, too."""
