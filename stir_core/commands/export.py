"""``stir export``, ``import``, ``push`` and ``pull``: a library leaves the workbench, and comes back."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from stir_core.commands.console import Command, table
from stir_core.deploy.targets import INDEX, target_names
from stir_core.errors import DeployError
from stir_core.store.libraries import LIBRARY_KINDS

if TYPE_CHECKING:
    from stir_core.deploy.bundle.reading import Bundle


def add(command: Command) -> None:
    """Make the parsers."""
    export = command("export", _export, "Write a run's library for somewhere else: a bundle, llama.cpp, EasySteer, the published layout.")
    export.add_argument("source", metavar="RUN", help='run folder, "demo", or the folder of a bundle')
    export.add_argument("--to", choices=target_names(), default="bundle", help="what to write")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    export.add_argument("--library", choices=LIBRARY_KINDS, help="which of the run's libraries (default: curated)")
    export.add_argument("--only", metavar="starred|tag:NAME|ids:A,B", help="of the curated library, these actions with their null entries")
    export.add_argument("--json", action="store_true", help="print JSON")

    imported = command("import", _import, "Check a bundle, or a folder in the published layout, and say what it is.")
    imported.add_argument("folder", type=Path, metavar="DIR", help="folder to check")
    imported.add_argument("--like", metavar="RUN|BUNDLE", help="for the published layout: where model and settings come from")
    imported.add_argument("--out", type=Path, metavar="DIR", help="for the published layout: write it as a bundle")
    imported.add_argument("--json", action="store_true", help="print JSON")

    push = command("push", _push, "Upload a bundle to a hub repository (HF_TOKEN, HF_ENDPOINT).")
    push.add_argument("folder", type=Path, metavar="DIR", help="bundle folder")
    push.add_argument("repo", help="NAME/REPO; made where there is none")
    push.add_argument("--public", action="store_true", help="make a new repository public (default: private)")

    pull = command("pull", _pull, "Fetch a bundle from a hub repository and check it.")
    pull.add_argument("repo", help="NAME/REPO")
    pull.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    pull.add_argument("--revision", default="main", help="branch, tag or commit")
    pull.add_argument("--json", action="store_true", help="print JSON")


def _export(arguments: argparse.Namespace) -> int:
    from stir_core.deploy.bundle.reading import is_bundle
    from stir_core.deploy.export import export
    from stir_core.store.runs import Run

    folder, out = Path(arguments.source), arguments.out
    source = _read(folder) if is_bundle(folder) else Run.open(arguments.source)
    bundle, files = export(source, out, to=arguments.to, library=arguments.library, only=arguments.only)
    if arguments.to == "bundle":
        return _tell(bundle, arguments.json)
    index = json.loads(files[INDEX])
    if arguments.json:
        print(json.dumps({"out": str(out), "files": sorted(files), **index}, indent=2))
        return 0
    size = sum(map(len, files.values()))
    print(f"{out}: {index['target']}, {bundle.manifest.n_actions} actions, {len(files)} files, {size / 1e6:.1f} MB")
    print(f"  use: {index['use']}")
    for lost in index["lost"]:
        print(f"  lost: {lost}")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from stir_core.deploy.bundle.writing import bundle_files, check_place, save_bundle
    from stir_core.deploy.targets.published import bundled, is_published, read_published

    folder, out = arguments.folder, arguments.out
    if not is_published(folder):
        if out or arguments.like:
            raise DeployError(
                f"{folder} is not in the published layout, which alone --like and --out are for: a bundle is used as it is "
                f"(`stir trace {folder} PROMPT`); it becomes no run, since it holds no problems, rollouts or states"
            )
        return _tell(_read(folder), arguments.json)
    found = read_published(folder)
    if out is None:
        n_actions = sum(entry.kind == "corrective" for entry in found.library.entries)
        facts = {"folder": str(folder), "entries": len(found.library.entries), "actions": n_actions, "width": found.library.keys.shape[1]}
        facts |= {"layers": sorted({entry.layer for entry in found.library.entries}), "notes": found.notes}
        print(json.dumps(facts, indent=2) if arguments.json else f"{folder}: published layout, whole; " + _facts(facts))
        return 0
    if arguments.like is None:
        raise DeployError("the published layout does not say which model it belongs to: add --like RUN or BUNDLE, made with the same one")
    check_place(out)
    return _tell(save_bundle(out, bundle_files(bundled(found, folder, _bundle_of(arguments.like)))), arguments.json)


def _push(arguments: argparse.Namespace) -> int:
    from stir_core.deploy.bundle.hub import push

    place = push(arguments.folder, arguments.repo, private=not arguments.public)
    print(f"{place.repo} at {place.commit}")
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from stir_core.deploy.bundle.hub import pull

    bundle, place = pull(arguments.repo, arguments.out, revision=arguments.revision)
    if not arguments.json:
        print(f"{place.repo} at {place.commit}")
    return _tell(bundle, arguments.json)


def _bundle_of(where: str) -> "Bundle":
    from stir_core.deploy.bundle.reading import is_bundle
    from stir_core.deploy.export import make_bundle
    from stir_core.store.runs import Run

    return _read(Path(where)) if is_bundle(Path(where)) else make_bundle(Run.open(where), "basis")


def _read(folder: Path) -> "Bundle":
    from stir_core.deploy.bundle.reading import read_bundle

    return read_bundle(folder)


def _tell(bundle: "Bundle", as_json: bool) -> int:
    from stir_core.store.curated import choice_in_words

    manifest = bundle.manifest
    if as_json:
        facts = {"folder": str(bundle.folder), "digest": manifest.digest, "evaluated": bundle.evaluation.evaluated}
        print(json.dumps(facts | {"manifest": manifest.model_dump(mode="json")}, indent=2))
        return 0
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
    print(f"{bundle.folder}: bundle {manifest.digest}, whole")
    table(["what", ""], rows)
    return 0


def _facts(facts: dict) -> str:
    return ", ".join(
        f"{key} {_list(value) if isinstance(value, list | tuple) else value}" for key, value in facts.items() if key != "folder"
    )


def _list(values: list | tuple) -> str:
    return ", ".join(str(value) for value in values)
