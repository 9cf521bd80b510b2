"""``stir saved``: what was decoded and measured in the workbench: listed, read, exported, added and deleted."""

import argparse
from pathlib import Path

from stir_core.commands.console import Command, print_json, say, table


def add(command: Command) -> None:
    """Add ``stir saved`` and its arguments."""
    saved = command("saved", _saved, "List the workbench's saved work, or read, export or delete a piece of it; or add one.", "--json")
    one = saved.add_mutually_exclusive_group()
    saved.add_argument("id", nargs="?", help="one piece: its facts, and with --json its content")
    one.add_argument("--to", type=Path, metavar="PLACE", help="export it to a new folder, or to a file that ends in .zip")
    one.add_argument("--delete", action="store_true", help="delete it")
    one.add_argument("--add", type=Path, metavar="PLACE", help="add a folder or zip file that was exported, once its digests are right")
    saved.add_argument("--runs", type=Path, help="folder of runs (default: STIR_RUNS, else ./runs)")


def _saved(arguments: argparse.Namespace) -> int | None:
    import os

    from stir_core.errors import DataError
    from stir_core.store.saved import SavedFolder

    folder = SavedFolder(arguments.runs or os.environ.get("STIR_RUNS") or "runs")
    if arguments.id is None and (arguments.to or arguments.delete):
        raise DataError(f"{'--delete' if arguments.delete else '--to'} needs the id of a piece: `stir saved` lists them")
    if arguments.add is not None:
        say(f"added {folder.add(arguments.add).id}")
    elif arguments.id is None:
        works, broken = folder.all()
        if arguments.json:
            print_json({"saved": works, "broken": broken})
        else:
            heads = ["id", "kind", "run", "title", "outcome"]
            table(heads, [[work.id, work.kind, work.run, work.title[:60], work.outcome[:60]] for work in works])
        for line in broken:
            say(line, error=True)
        return 1 if broken else 0
    elif arguments.to is not None:
        say(f"exported to {folder.export(arguments.id, arguments.to)}")
    elif arguments.delete:
        folder.delete(arguments.id)
        say(f"deleted {arguments.id}")
    else:
        work, content = folder.work(arguments.id), folder.content(arguments.id)
        if arguments.json:
            print_json({"work": work, "content": content})
        else:
            for name, value in work:
                say(f"{name}: {value}")
    return None
