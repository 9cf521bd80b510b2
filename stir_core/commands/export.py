"""``stir export``, ``import``, ``push`` and ``pull``: writing a library for other programs, and reading it back."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from stir_core.commands.console import Command, place, print_json, say, table
from stir_core.deploy.targets import INDEX, target_names
from stir_core.errors import DeployError
from stir_core.store.libraries import LIBRARY_KINDS

if TYPE_CHECKING:
    from stir_core.deploy.bundle.reading import Bundle


def add(command: Command) -> None:
    """Add ``stir export``, ``import``, ``push`` and ``pull`` with their arguments."""
    description = "Write a run's library for another program: a bundle, llama.cpp, EasySteer, the published layout."
    export = command("export", _export, description, "source", "--json")
    export.add_argument("--to", choices=target_names(), default="bundle", help="what to write")
    export.add_argument("--out", type=place, required=True, metavar="DIR", help="folder to write")
    export.add_argument("--library", choices=LIBRARY_KINDS, help="which of the run's libraries (default: curated)")
    some = "these actions with their null entries; stars and tags are of the curated library"
    export.add_argument("--only", metavar="starred|tag:NAME|ids:A,B", help=some)

    imported = command("import", _import, "Check a bundle, or a folder in the published layout, and describe it.", "--json")
    imported.add_argument("folder", type=Path, metavar="DIR", help="folder to check")
    imported.add_argument("--like", metavar="RUN|BUNDLE", help="for the published layout: source of the model and settings")
    imported.add_argument("--out", type=place, metavar="DIR", help="for the published layout: write it as a bundle")

    push = command("push", _push, "Upload a bundle to a hub repository (HF_TOKEN, HF_ENDPOINT).")
    push.add_argument("folder", type=Path, metavar="DIR", help="bundle folder")
    push.add_argument("repo", help="NAME/REPO; created if it does not exist")
    push.add_argument("--public", action="store_true", help="make a new repository public (default: private)")

    pull = command("pull", _pull, "Fetch a bundle from a hub repository and check it.", "--json")
    pull.add_argument("repo", help="NAME/REPO")
    pull.add_argument("--out", type=place, required=True, metavar="DIR", help="folder to write")
    pull.add_argument("--revision", default="main", help="branch, tag or commit")


def _export(arguments: argparse.Namespace) -> None:
    from stir_core.deploy.bundle.reading import open_source
    from stir_core.deploy.export import export

    out = arguments.out
    bundle, files = export(open_source(arguments.source), out, to=arguments.to, library=arguments.library, only=arguments.only)
    if arguments.to == "bundle":
        _describe(bundle, arguments.json)
        return
    index = json.loads(files[INDEX])
    if arguments.json:
        print_json({"out": out, "files": sorted(files), **index})
        return
    size = sum(map(len, files.values()))
    say(f"{out}: {index['target']}, {bundle.manifest.n_actions} actions, {len(files)} files, {size / 1e6:.1f} MB")
    say(f"  use: {index['use']}")
    for lost in index["lost"]:
        say(f"  lost: {lost}")


def _import(arguments: argparse.Namespace) -> None:
    from stir_core.deploy.bundle.reading import Bundle, open_source, read_bundle
    from stir_core.deploy.bundle.writing import bundle_files, check_place, save_bundle
    from stir_core.deploy.export import make_bundle
    from stir_core.deploy.targets.published import bundled, is_published, read_published

    folder, out = arguments.folder, arguments.out
    if not is_published(folder):
        if out or arguments.like:
            raise DeployError(
                f"{folder} is not in the published layout, and --like and --out apply to that layout only: use a bundle as it is "
                f"(`stir trace {folder} PROMPT`); it cannot become a run, since it holds no problems, rollouts or states"
            )
        _describe(read_bundle(folder), arguments.json)
        return
    published = read_published(folder)
    if out is None:
        entries = published.library.entries
        facts = {"entries": len(entries), "actions": sum(entry.kind == "corrective" for entry in entries)}
        facts |= {"width": published.library.keys.shape[1], "layers": sorted({entry.layer for entry in entries}), "notes": published.notes}
        if arguments.json:
            print_json({"folder": folder, **facts})
        else:
            words = (f"{key} {_list(value) if isinstance(value, list | tuple) else value}" for key, value in facts.items())
            say(f"{folder}: published layout, whole; {', '.join(words)}")
        return
    if arguments.like is None:
        raise DeployError("the published layout does not name its model: add --like RUN or BUNDLE, made with the same model")
    check_place(out)
    like = open_source(arguments.like)
    like = like if isinstance(like, Bundle) else make_bundle(like, "basis")
    _describe(save_bundle(out, bundle_files(bundled(published, folder, like))), arguments.json)


def _push(arguments: argparse.Namespace) -> None:
    from stir_core.deploy.bundle.hub import push

    place = push(arguments.folder, arguments.repo, private=not arguments.public)
    say(f"{place.repo} at {place.commit}")


def _pull(arguments: argparse.Namespace) -> None:
    from stir_core.deploy.bundle.hub import pull

    bundle, place = pull(arguments.repo, arguments.out, revision=arguments.revision)
    if not arguments.json:
        say(f"{place.repo} at {place.commit}")
    _describe(bundle, arguments.json)


def _describe(bundle: "Bundle", as_json: bool) -> None:
    from stir_core.store.curated import choice_in_words

    manifest = bundle.manifest
    if as_json:
        evaluated = bundle.evaluation.evaluated
        print_json({"folder": bundle.folder, "digest": manifest.digest, "evaluated": evaluated, "manifest": manifest})
        return
    gate, task, origin = manifest.stage3.gate, manifest.stage3.task, manifest.provenance
    part = f" ({choice_in_words(origin.only)})" if origin.only else ""
    count, summary = len(bundle.evaluation.evaluations), bundle.evaluation
    rows = [
        ["model", f"{manifest.base_model or manifest.model.name}, weights {manifest.model.weights_sha256[:12]}, {manifest.model.dtype}"],
        ["library", f"{origin.library}{part} of {origin.run}: {manifest.n_actions} actions, {manifest.n_entries} entries"],
        ["block", _list(manifest.layers)],
        ["gate", f"{gate.variant}, k_scale {gate.k_scale:g}, {gate.persistence}, keys compared {manifest.stage3.similarity}"],
        ["prompt", f"task {task.name}, template {task.template}"],
        ["effect", f"in {count} evaluation{'s' * (count != 1)}" if summary.evaluated else f"not evaluated: {summary.reason}"],
        ["certificates", _list(sorted(name for name in manifest.files if name.startswith("certificate-"))) or "none"],
        *[["note", note] for note in manifest.notes],
    ]
    say(f"{bundle.folder}: bundle {manifest.digest}, whole")
    table(["what", ""], rows)


def _list(values: list | tuple) -> str:
    return ", ".join(str(value) for value in values)
