"""``stir curate``: star, tag, note, exclude, rename and merge entries of a run's library, with who, when and why."""

import argparse
import json
from typing import TYPE_CHECKING

from stir_core.commands.console import Command, table
from stir_core.errors import CurationError

if TYPE_CHECKING:
    from stir_core.curation import Difference, Judgement, Recorded
    from stir_core.store.curation import Curation


VERBS = {
    "star": "Mark entries as worth keeping.",
    "unstar": "Take the mark away.",
    "tag": "Tag entries.",
    "untag": "Take a tag away.",
    "note": 'Write a note on entries; "" clears it.',
    "exclude": "Leave entries out of the curated library.",
    "include": "Keep entries in the curated library that selection dropped.",
    "reselect": "Leave entries to selection again.",
    "rename": 'Give an entry a display name; "" gives it back its id.',
    "merge": "Merge corrective entries of one control point and layer: quality-weighted mean of keys and of actions.",
    "split": "Take merged entries apart again.",
}
"""Edits by name."""
WITH_VALUE = {"tag": "tag", "untag": "tag", "note": "text", "rename": "name"}


def add(command: Command) -> None:
    """Make the parsers."""
    curate = command("curate", _curate, "Judge a run's library entry by entry; every edit is kept with who, when and why (STIR_USER).")
    curate.add_argument("run", help='run folder, or "demo"')
    verbs = curate.add_subparsers(dest="verb", required=True, metavar="WHAT")

    def verb(name: str, help: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=help, description=help)

    for name, help in VERBS.items():
        edit = verb(name, help)
        if name in WITH_VALUE:
            edit.add_argument("value", metavar=WITH_VALUE[name], help="what it is to be")
        edit.add_argument("entries", nargs="+", metavar="entry", help="id or display name")
        edit.add_argument("--why", default="", help="reason, kept in the history")
    listed = verb("list", "Entries that were judged, and what stands.")
    listed.add_argument("--tag", help="only those with this tag")
    listed.add_argument("--starred", action="store_true", help="only starred ones")
    shown = verb("show", "The curated library: its entries with where they come from, and what it is in numbers.")
    shown.add_argument("--only", metavar="starred|tag:NAME|ids:A,B", help="these actions with the null entries of their pairs")
    undo = verb("undo", "Take an edit back, by a further edit; nothing is deleted.")
    undo.add_argument("number", type=int, nargs="?", help="number of the edit (default: the last)")
    undo.add_argument("--why", default="", help="reason, kept in the history")
    verb("history", "Every edit: when, who, what, why.")
    diff = verb("diff", "What two versions say differently; version n is what stood after n edits.")
    diff.add_argument("a", type=int, help="number of a version")
    diff.add_argument("b", type=int, nargs="?", help="number of the other version (default: now)")
    for name in ("list", "show", "history", "diff"):
        verbs.choices[name].add_argument("--json", action="store_true", help="print JSON")


def _curate(arguments: argparse.Namespace) -> int:
    from stir_core.store.curation import Curation
    from stir_core.store.runs import Run

    curation = Curation.open(Run.open(arguments.run))
    if curation.strangers and arguments.verb != "history":
        print(f"{len(curation.strangers)} edits were made on other entries than the run has now and do not apply")
    views = {"list": _list, "show": _show, "history": _history, "diff": _diff, "undo": _undo}
    return views.get(arguments.verb, _edit)(curation, arguments)


def _edit(curation: "Curation", arguments: argparse.Namespace) -> int:
    from stir_core.curation import make_edit
    from stir_core.store.curation import signature

    who, when = signature()
    value = arguments.value if arguments.verb in WITH_VALUE else None
    names: dict[str, str] = {judged.name: id_ for id_, judged in curation.state.entries.items() if judged.name}
    ids = [names.get(str(entry), str(entry)) for entry in arguments.entries]
    after = curation.add(make_edit(arguments.verb, ids, value, who=who, when=when, why=arguments.why))
    print(f"edit {len(after)}: {in_words(after.lines[-1])}")
    return 0


def _undo(curation: "Curation", arguments: argparse.Namespace) -> int:
    from stir_core.store.curation import signature

    if not len(curation):
        raise CurationError("there is nothing to take back: the history is empty")
    who, when = signature()
    after = curation.undo(len(curation) if arguments.number is None else arguments.number, who=who, when=when, why=arguments.why)
    for line in after.lines[len(curation) :]:
        print(f"edit {line.number}: {in_words(line)}")
    return 0


def _list(curation: "Curation", arguments: argparse.Namespace) -> int:
    state = curation.state
    chosen = {
        id_: judged
        for id_, judged in sorted(state.entries.items())
        if (not arguments.starred or judged.starred) and (arguments.tag is None or arguments.tag in judged.tags)
    }
    if arguments.json:
        rows = [{"entry": id_, **judged._asdict(), "members": state.merges.get(id_, ())} for id_, judged in chosen.items()]
        print(json.dumps({"version": len(curation), "digest": curation.digest, "entries": rows}, indent=2, ensure_ascii=False))
        return 0
    table(["entry", "name", "", "tags", "library", "note"], [_row(id_, state) for id_ in chosen])
    return 0


def _row(id_: str, state: "Judgement") -> list[str]:
    judged = state.of(id_)
    fate = f"merged into {judged.merged_into}" if judged.merged_into else {"in": "kept", "out": "excluded", None: ""}[judged.fate]
    if id_ in state.merges:
        fate = "; ".join(filter(None, [f"merge of {', '.join(state.merges[id_])}", fate]))
    return [id_, judged.name or "", "*" if judged.starred else "", ", ".join(judged.tags), fate, " ".join((judged.note or "").split())[:80]]


def _show(curation: "Curation", arguments: argparse.Namespace) -> int:
    from stir_core.basis.summary import summary
    from stir_core.store.curated import curated, library_digest

    library, origins = curated(curation.run, curation.state, arguments.only)
    found = summary(library)
    if arguments.json:
        facts = {"version": len(curation), "history": curation.digest, "library": library_digest(library), "summary": found._asdict()}
        rows = [e.model_dump(mode="json") | {"origin": o.model_dump(mode="json")} for e, o in zip(library.entries, origins, strict=True)]
        print(json.dumps({**facts, "entries": rows}, indent=2, ensure_ascii=False))
        return 0
    rows = []
    for entry, origin in zip(library.entries, origins, strict=True):
        parts = [f"{member} x {weight:.2f}" for member, weight in zip(origin.members, origin.weights, strict=True)]
        words = [entry.id, origin.name or "", entry.kind, str(entry.m), str(entry.layer), f"{entry.quality:.4f}"]
        rows.append([*words, "*" if origin.starred else "", ", ".join(origin.tags), " + ".join(parts)])
    table(["entry", "name", "kind", "m", "layer", "quality", "", "tags", "merged from"], rows)
    steps = ", ".join(f"m={m}: {corrective}+{null}" for m, (corrective, null) in found.by_step.items())
    ranks = ", ".join(f"{name} {rank:.1f}" for name, rank in (("keys", found.key_rank), ("actions", found.action_rank)) if rank is not None)
    print(f"{found.entries} entries ({found.corrective} corrective, {found.null} null); {steps}")
    print(f"{found.orphaned} pairs with one entry only; effective rank: {ranks or '-'}; library {library_digest(library)}")
    return 0


def _history(curation: "Curation", arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(json.dumps([line.model_dump(mode="json") for line in curation.lines], indent=2, ensure_ascii=False))
        return 0
    rows = []
    for line in curation.lines:
        applies = "" if curation.applies(line) else "other entries"
        rows.append([str(line.number), line.edit.when, line.edit.who, in_words(line), line.edit.why, applies])
    table(["edit", "when", "who", "what", "why", ""], rows)
    return 0


def _diff(curation: "Curation", arguments: argparse.Namespace) -> int:
    b = len(curation) if arguments.b is None else arguments.b
    found: tuple[Difference, ...] = curation.diff(arguments.a, b)
    if arguments.json:
        print(json.dumps([change._asdict() for change in found], indent=2, ensure_ascii=False))
        return 0
    if not found:
        print(f"versions {arguments.a} and {b} say the same")
        return 0
    table(
        ["entry", "what", f"version {arguments.a}", f"version {b}"], [[c.entry_id, c.field, c.before or "-", c.after or "-"] for c in found]
    )
    return 0


def in_words(line: "Recorded", limit: int = 6) -> str:
    """What an edit did, in one line."""
    edit = line.edit
    more = f" and {len(edit.entries) - limit} more" if len(edit.entries) > limit else ""
    value = "" if edit.value is None else f" {' '.join(edit.value.split())[:60]!r}" if edit.kind == "note" else f" {edit.value}"
    if edit.kind in ("note", "rename") and edit.value is None:
        value = " cleared"
    back = f" (takes back {edit.undoes})" if edit.undoes else ""
    return f"{edit.kind}{value}: {', '.join(edit.entries[:limit])}{more}{back}"
