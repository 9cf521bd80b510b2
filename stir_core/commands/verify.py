"""``stir verify``: every file of a run compared with the digests that were kept when it was written."""

import argparse

from stir_core.commands.console import Command, print_json, say, table


def add(command: Command) -> None:
    """Add ``stir verify`` and its arguments."""
    command("verify", _verify, "Compare every file of a run with its digest; exit code 1 if anything is damaged.", "run", "--json")


def _verify(arguments: argparse.Namespace) -> int:
    from stir_core.errors import escaped
    from stir_core.store.runs import Run
    from stir_core.store.verify import verify_run

    run = Run.open(arguments.run)
    files, found, unsealed = verify_run(run)
    if arguments.json:
        print_json({"run": run.path, "files": files, "found": [each._asdict() for each in found], "unsealed": unsealed})
    else:
        if found:
            table(["state", "file", "why", "remedy"], [[each.state, escaped(str(each.path)), each.why, each.remedy] for each in found])
        for folder in unsealed:
            say(f"{folder}: no digests are kept yet, its records can be read")
        say(f"{run.path}: {files} files compared, {len(found) or 'none'} damaged, missing or foreign")
    return 1 if found else 0
