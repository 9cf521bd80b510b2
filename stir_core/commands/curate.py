"""``stir curate``: star, tag, note, exclude, rename and merge entries of a run's library, with who, when and why."""

import argparse
from typing import TYPE_CHECKING

from stir_core.commands.console import Command, print_json, say, table, with_common
from stir_core.errors import CurationError

if TYPE_CHECKING:
    from stir_core.curation import Judgement, Recorded
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
"""The help of every edit, by its name."""
WITH_VALUE = {"tag": "tag", "untag": "tag", "note": "text", "rename": "name"}
"""The name of an edit's value, for the edits that take one."""


def add(command: Command) -> None:
    """Add ``stir curate`` with one sub-command for each edit and each view."""
    description = "Judge a run's library entry by entry; every edit is kept with who, when and why (STIR_USER)."
    verbs = command("curate", _curate, description, "run").add_subparsers(dest="verb", required=True, metavar="WHAT")

    def verb(name: str, help: str, *common: str) -> argparse.ArgumentParser:
        return with_common(verbs.add_parser(name, help=help, description=help), *common)

    for name, help in VERBS.items():
        edit = verb(name, help)
        if name in WITH_VALUE:
            edit.add_argument("value", metavar=WITH_VALUE[name], help="the new value")
        edit.add_argument("entries", nargs="+", metavar="entry", help="id or display name")
        edit.add_argument("--why", default="", help="reason, kept in the history")
    listed = verb("list", "The edited entries with their present marks.", "--json")
    listed.add_argument("--tag", help="only entries with this tag")
    listed.add_argument("--starred", action="store_true", help="only starred entries")
    shown = verb("show", "The curated library: its entries with their origin, and its numbers.", "--json")
    shown.add_argument("--only", metavar="starred|tag:NAME|ids:A,B", help="these actions with the null entries of their pairs")
    undo = verb("undo", "Take an edit back with a further edit; nothing is deleted.")
    undo.add_argument("number", type=int, nargs="?", help="number of the edit (default: the last)")
    undo.add_argument("--why", default="", help="reason, kept in the history")
    verb("history", "Every edit: when, who, what, why.", "--json")
    diff = verb("diff", "The differences of two versions; version n is the state after n edits.", "--json")
    diff.add_argument("a", type=int, help="number of a version")
    diff.add_argument("b", type=int, nargs="?", help="number of the other version (default: now)")


def _curate(arguments: argparse.Namespace) -> None:
    from stir_core.store.curation import Curation
    from stir_core.store.runs import Run

    curation = Curation.open(Run.open(arguments.run))
    if curation.strangers and arguments.verb != "history":
        say(f"{len(curation.strangers)} edits were made on other entries than the run has now and do not apply")
    views = {"list": _list, "show": _show, "history": _history, "diff": _diff, "undo": _undo}
    views.get(arguments.verb, _edit)(curation, arguments)


def _edit(curation: "Curation", arguments: argparse.Namespace) -> None:
    value = arguments.value if arguments.verb in WITH_VALUE else None
    names: dict[str, str] = {judged.name: id_ for id_, judged in curation.state.entries.items() if judged.name}
    ids = [names.get(str(entry), str(entry)) for entry in arguments.entries]
    after = curation.edit(arguments.verb, ids, value, why=arguments.why)
    say(f"edit {len(after)}: {edit_line(after.lines[-1])}")


def _undo(curation: "Curation", arguments: argparse.Namespace) -> None:
    from stir_core.store.curation import signature

    if not len(curation):
        raise CurationError("there is nothing to take back: the history is empty")
    who, when = signature()
    after = curation.undo(len(curation) if arguments.number is None else arguments.number, who=who, when=when, why=arguments.why)
    for line in after.lines[len(curation) :]:
        say(f"edit {line.number}: {edit_line(line)}")


def _list(curation: "Curation", arguments: argparse.Namespace) -> None:
    state = curation.state
    chosen = {
        id_: judged
        for id_, judged in sorted(state.entries.items())
        if (not arguments.starred or judged.starred) and (arguments.tag is None or arguments.tag in judged.tags)
    }
    if arguments.json:
        rows = [{"entry": id_, **judged._asdict(), "members": state.merges.get(id_, ())} for id_, judged in chosen.items()]
        print_json({"version": len(curation), "digest": curation.digest, "entries": rows})
    else:
        table(["entry", "name", "", "tags", "library", "note"], [_row(id_, state) for id_ in chosen])


def _row(id_: str, state: "Judgement") -> list[str]:
    judged = state.of(id_)
    fate = f"merged into {judged.merged_into}" if judged.merged_into else {"in": "kept", "out": "excluded", None: ""}[judged.fate]
    if id_ in state.merges:
        fate = "; ".join(filter(None, [f"merge of {', '.join(state.merges[id_])}", fate]))
    return [id_, judged.name or "", "*" if judged.starred else "", ", ".join(judged.tags), fate, " ".join((judged.note or "").split())[:80]]


def _show(curation: "Curation", arguments: argparse.Namespace) -> None:
    from stir_core.basis.summary import summary
    from stir_core.store.curated import curated, library_digest

    library, origins = curated(curation.run, curation.state, arguments.only)
    numbers, digest = summary(library), library_digest(library)
    if arguments.json:
        facts = {"version": len(curation), "history": curation.digest, "library": digest, "summary": numbers._asdict()}
        rows = [entry.model_dump() | {"origin": origin} for entry, origin in zip(library.entries, origins, strict=True)]
        print_json({**facts, "entries": rows})
        return
    rows = []
    for entry, origin in zip(library.entries, origins, strict=True):
        parts = [f"{member} x {weight:.2f}" for member, weight in zip(origin.members, origin.weights, strict=True)]
        words = [entry.id, origin.name or "", entry.kind, str(entry.m), str(entry.layer), f"{entry.quality:.4f}"]
        rows.append([*words, "*" if origin.starred else "", ", ".join(origin.tags), " + ".join(parts)])
    table(["entry", "name", "kind", "m", "layer", "quality", "", "tags", "merged from"], rows)
    steps = ", ".join(f"m={m}: {corrective}+{null}" for m, (corrective, null) in numbers.by_step.items())
    known = [(name, rank) for name, rank in (("keys", numbers.key_rank), ("actions", numbers.action_rank)) if rank is not None]
    ranks = ", ".join(f"{name} {rank:.1f}" for name, rank in known)
    say(f"{numbers.entries} entries ({numbers.corrective} corrective, {numbers.null} null); {steps}")
    say(f"{numbers.orphaned} pairs with one entry only; effective rank: {ranks or '-'}; library {digest}")


def _history(curation: "Curation", arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(curation.lines)
        return
    rows = []
    for line in curation.lines:
        applies = "" if curation.applies(line) else "other entries"
        rows.append([str(line.number), line.edit.when, line.edit.who, edit_line(line), line.edit.why, applies])
    table(["edit", "when", "who", "what", "why", ""], rows)


def _diff(curation: "Curation", arguments: argparse.Namespace) -> None:
    b = len(curation) if arguments.b is None else arguments.b
    differences = curation.diff(arguments.a, b)
    if arguments.json:
        print_json([each._asdict() for each in differences])
    elif differences:
        rows = [[each.entry_id, each.field, each.before or "-", each.after or "-"] for each in differences]
        table(["entry", "what", f"version {arguments.a}", f"version {b}"], rows)
    else:
        say(f"versions {arguments.a} and {b} of the curation are the same: all entries have the same marks and names")


def edit_line(line: "Recorded", limit: int = 6) -> str:
    """An edit in one line, with at most ``limit`` entry ids."""
    edit = line.edit
    more = f" and {len(edit.entries) - limit} more" if len(edit.entries) > limit else ""
    if edit.value is None:
        value = " cleared" if edit.kind in ("note", "rename") else ""
    else:
        value = f" {' '.join(edit.value.split())[:60]!r}" if edit.kind == "note" else f" {edit.value}"
    back = f" (takes back {edit.undoes})" if edit.undoes else ""
    return f"{edit.kind}{value}: {', '.join(edit.entries[:limit])}{more}{back}"
