"""What is damaged, missing or foreign in a run's folder: every file is read again and compared with the digests beside it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from stir_core.config import ON_REQUEST, STAGES
from stir_core.errors import FAULTS, StoreError, line_of
from stir_core.requests import CausalStudyName
from stir_core.store.causal import CausalFolder
from stir_core.store.curation import Curation
from stir_core.store.evaluations import EvaluationFolder, is_label
from stir_core.store.files import OURS, file_sha256
from stir_core.store.policies import PolicyFolder
from stir_core.store.runs import Run
from stir_core.store.seals import DIGESTS, read_seal
from stir_core.store.studies import StudyFolder

STUDIES = ("evaluation", "causal", "causal-codes", "causal-own", "policy", "critical", "curation")
"""Folders of a run that are not stages."""


class Damage(NamedTuple):
    """One file or folder that is not as it was written."""

    state: Literal["damaged", "missing", "foreign"]
    path: Path
    why: str
    remedy: str


class Verified(NamedTuple):
    """The outcome for one run."""

    files: int
    """Files whose SHA-256 was compared."""
    found: list[Damage]
    unsealed: list[Path]
    """Studies without digests: unfinished ones, and those of versions that kept none. Their records were read."""


def verify_run(run: Run) -> Verified:
    """Read every file of a run again. The run's own folder is looked at, and for an embedded run what was made from it later."""
    verified = Verified(0, [], [])
    for stage in (*STAGES, *ON_REQUEST):
        if (run.path / stage).is_dir():
            verified = _stage(run, stage, verified)
    for root in {run.path: None, run.work: None}:
        if root.is_dir():
            verified.found.extend(_strangers(root))
            verified = _critical(root, verified)
    for study in _studies(run):
        verified = _study(study, verified)
    if run.finished("actions"):
        verified.found.extend(_history(run))
    return verified


_COPY = "copy it again"
_STUDY_REMEDY = "copy it again, or make the study again: its command with --fresh"
_FOREIGN = "move it elsewhere, or delete it"


def _compared(root: Path, digests: dict[str, str], verified: Verified, remedy: str) -> Verified:
    for name, digest in digests.items():
        file = root / name
        try:
            if not file.is_file():
                verified.found.append(Damage("missing", file, "its digest is kept, and it is not there", remedy))
            elif file_sha256(file) != digest:
                verified.found.append(Damage("damaged", file, "its SHA-256 is not the one that was kept when it was written", remedy))
        except OSError as error:
            verified.found.append(Damage("damaged", file, line_of(error), remedy))
    return verified._replace(files=verified.files + len(digests))


def _beyond(root: Path, known: set[str]) -> Iterator[Damage]:
    """Files below a sealed folder that its digests do not name."""
    for file in sorted(root.rglob("*")):
        if file.is_file() and file.relative_to(root).as_posix() not in known and not _is_ours(file):
            yield Damage("foreign", file, "no digest names it", _FOREIGN)


def _is_ours(path: Path) -> bool:
    """True for locks and temporary files of this program."""
    return path.name == "lock" or path.name.endswith((".lock", ".writer.json", ".part", OURS))


def _stage(run: Run, stage: str, verified: Verified) -> Verified:
    root, remedy = run.path / stage, f"copy the run again, or {run.remade(stage)}"
    try:
        manifest = run.manifest(stage)
    except FAULTS as error:
        verified.found.append(Damage("damaged", root / "manifest.json", line_of(error), remedy))
        return verified
    if manifest.stage != stage:
        verified.found.append(Damage("foreign", root / "manifest.json", f'it is of the stage "{manifest.stage}"', remedy))
    for source, digest in manifest.inputs.items():
        if source in (*STAGES, *ON_REQUEST) and run.finished(source):
            try:
                same = run.digest(source) == digest
            except FAULTS:
                continue  # that stage's own manifest is damaged, and reported
            if not same:
                verified.found.append(Damage("foreign", root, f'it was made from another "{source}" than the one here', remedy))
    verified.found.extend(_beyond(root, {"manifest.json", *manifest.files}))
    return _compared(root, manifest.files, verified, remedy)


def _studies(run: Run) -> Iterator[StudyFolder]:
    for root in {run.path: None, run.work: None}:
        folder = root / "evaluation"
        for label in sorted({each.name.removesuffix(".part") for each in folder.iterdir() if each.is_dir()}) if folder.is_dir() else ():
            if is_label(label):
                yield EvaluationFolder(run, label)
    yield from (CausalFolder(run, study) for study in get_args(CausalStudyName))
    yield PolicyFolder(run)


def _study(study: StudyFolder, verified: Verified) -> Verified:
    if not study.path.is_dir():
        return verified
    seal = study.path / DIGESTS
    try:
        if study.finished and seal.is_file():
            digests = read_seal(seal)
            verified.found.extend(_beyond(study.path, {DIGESTS, *digests}))
            return _compared(study.path, digests, verified, _STUDY_REMEDY)
        verified.unsealed.append(study.path)
        study.spec()
        study.problems()
        if study.reported:
            study.report()
    except FAULTS as error:
        verified.found.append(Damage("damaged", study.path, line_of(error), _STUDY_REMEDY))
    return verified


def _critical(root: Path, verified: Verified) -> Verified:
    for seal in sorted((root / "critical").glob(f"*.{DIGESTS}")):
        try:
            verified = _compared(seal.parent, read_seal(seal), verified, _STUDY_REMEDY)
        except FAULTS as error:
            verified.found.append(Damage("damaged", seal, line_of(error), _STUDY_REMEDY))
    return verified


def _history(run: Run) -> Iterator[Damage]:
    try:
        Curation.open(run)
    except StoreError:
        return  # the manifest of the actions is damaged, and reported
    except FAULTS as error:
        yield Damage("damaged", run.derived("curation"), line_of(error), _COPY)


def _strangers(root: Path) -> Iterator[Damage]:
    """Files and folders at the top and among the evaluations that no stage and no study of this program writes."""
    known = {"run.json", "log.jsonl", *STAGES, *ON_REQUEST, *STUDIES}
    for path in sorted(root.iterdir()):
        if path.name not in known and not _is_ours(path):
            yield Damage("foreign", path, "this program writes nothing of that name", _FOREIGN)
    for path in sorted((root / "evaluation").iterdir()) if (root / "evaluation").is_dir() else ():
        if not (path.is_dir() and is_label(path.name)) and not _is_ours(path):
            yield Damage("foreign", path, "this program writes no evaluation of that name", _FOREIGN)
