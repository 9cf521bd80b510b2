"""``stir compare``: the actions that two libraries of one model share."""

import argparse

from stir_core.commands.console import Command, print_json, say, table
from stir_core.errors import ConfigError
from stir_core.store.libraries import LIBRARY_KINDS


def add(command: Command) -> None:
    """Add ``stir compare`` and its arguments."""
    description = "Actions that two libraries of one model share, by cosine at the same control point and layer."
    compare = command("compare", _compare, description, "run", "--json")
    compare.add_argument("other", help="another run of the same model, or the same one")
    compare.add_argument("--library", choices=LIBRARY_KINDS, default="basis", help="which of the run's libraries")
    compare.add_argument("--other-library", choices=LIBRARY_KINDS, default="basis", help="which of the other run's libraries")
    compare.add_argument("--by", choices=("actions", "keys"), default="actions", help="compare actions, or the keys of all entries")
    compare.add_argument("--assign", action="store_true", help="pair by the largest sum of cosines, not by mutual nearest neighbours")
    compare.add_argument("--min-cosine", type=float, default=0.7, help="least cosine of two actions that count as the same")


def _compare(arguments: argparse.Namespace) -> None:
    import numpy as np

    from stir_core.basis.alignment import matches, spans
    from stir_core.store.libraries import library_named
    from stir_core.store.runs import Run

    runs = Run.open(arguments.run), Run.open(arguments.other)
    if not 0.0 <= arguments.min_cosine <= 1.0:
        raise ConfigError(f"--min-cosine {arguments.min_cosine:g} is not a cosine to match by: give one from 0 to 1")
    for run in runs:
        run.folder("actions")
    runs[1].check_model(runs[0].manifest("actions").model)
    by_key, sides = arguments.by == "keys", []
    for run, version in zip(runs, (arguments.library, arguments.other_library), strict=True):
        library = library_named(run, version)
        vectors = library.keys if by_key else library.actions
        keep = [i for i, entry in enumerate(library.entries) if by_key or entry.kind == "corrective"]
        entries = [library.entries[i] for i in keep]
        sides.append((entries, vectors[keep], [(entry.m, entry.layer) for entry in entries]))
    (one, rows, places), (other, other_rows, other_places) = sides
    matched = matches(rows, places, other_rows, other_places, at_least=arguments.min_cosine, assign=arguments.assign)
    overlap = spans(np.asarray(rows), np.asarray(other_rows))
    shared = [{"entry": one[m.one].id, "other": other[m.other].id, "cosine": m.cosine, "m": one[m.one].m} for m in matched]
    lost, gained = len(one) - len(matched), len(other) - len(matched)
    if arguments.json:
        print_json({"shared": shared, "lost": lost, "gained": gained, "spans": overlap._asdict() if overlap else None})
        return
    table(["entry", "other", "m", "cosine"], [[str(p["entry"]), str(p["other"]), str(p["m"]), f"{p['cosine']:.3f}"] for p in shared])
    what = "entries" if by_key else "actions"
    say(f"{len(matched)} shared of {len(one)} and {len(other)} {what}; {lost} lost, {gained} gained")
    if overlap is not None:
        a, b = overlap.dimensions
        say(f"spans of {a} and {b} directions overlap {overlap.overlap:.2f} (by chance {overlap.by_chance:.2f})")
