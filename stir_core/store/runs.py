"""A run on disk: one folder for each stage. A stage's final folder name exists exactly when the stage has finished.

    run = Run.open("runs/mine")                       # or an embedded one: Run.open("two_habits"), Run.open("smollm2")
    with run.writing("actions", manifest) as folder:  # writes to actions.part, renamed when the block ends well
        ...

A stage that appends as it goes keeps its ``.part`` folder between attempts, so a resumed run computes nothing twice.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from stir_core.config import ON_REQUEST, STAGES, RunConfig, config_from, digest_of
from stir_core.errors import FAULTS, ConfigError, MismatchError, StoreError, line_of
from stir_core.findings import Advantage, CodebookReport
from stir_core.keyspace import KeySpace, fit_space
from stir_core.policies import Policies
from stir_core.records import (
    Control,
    Entry,
    Lens,
    Manifest,
    MarginThreshold,
    ModelIdentity,
    Pair,
    Pick,
    PolicyWeights,
    Problem,
    Record,
    Rollout,
    StateRow,
    StepState,
    Trace,
)
from stir_core.store.files import OURS, file_sha256, first_stranger, flush_files, name_folder, remove_folder, write_whole
from stir_core.store.jsonl import KeyedRecords, read_appended, read_record, read_records, write_record
from stir_core.store.locks import one_writer
from stir_core.store.seals import DIGESTS, as_sealed, check_file
from stir_core.store.tensors import MappedRows, read_tensors

ASSETS = Path(__file__).resolve().parents[1] / "assets"
RECORDS = ASSETS / "records"
"""Runs that ship as their results only: evaluations and causal studies, without rollouts, actions or basis."""
EMBEDDED_RUNS = {name: ASSETS / "runs" / name for name in ("two_habits", "smollm2")} | {
    file.parent.name: file.parent for file in sorted(RECORDS.glob("*/run.json"))
}
"""Run folders that ship inside the package, by name. The first, which the workbench opens with, is a calibration object: an organism with
planted habits. The second is of a real model, on which no gain is seen. The others are :data:`RECORDS`."""

ALIASES = {"demo": "two_habits"}
"""Other names of embedded runs."""

CHECKED = ("weights_sha256", "tokenizer_sha256", "processing", "dtype", "hook", "n_layers", "d_model", "template_args", "think_tags")
"""Fields of a model's identity that an artefact must share with the model at hand; the name may differ."""


SCRATCH = ("marker", "captured")
"""Beginnings of the names of files that a stage needs only while it is unfinished."""
WRITTEN = (".json", ".jsonl", ".safetensors")
"""Ends of the names of files that stages write: what else lies in a folder without a manifest is somebody's."""

SCHEMAS = (1, 2)
"""Versions of a run's files that this program reads."""


class Library(NamedTuple):
    """The entries that retrieval may use, with their tensors."""

    entries: tuple[Entry, ...]
    keys: Float[np.ndarray, "n_entries d_model"]
    """Raw residual states, row i belongs to ``entries[i]``."""
    actions: Float[np.ndarray, "n_entries d_model"]
    """Raw action vectors, row i belongs to ``entries[i]``; zero for null entries."""


class StageTook(Record):
    """One line of ``log.jsonl``: time and tokens that a stage took."""

    stage: str
    seconds: float
    tokens: int
    """Tokens of the process that finished the stage; those of interrupted processes before it are not counted."""
    tokens_per_second: float | None


class StageStatus(NamedTuple):
    """The state of one stage of a run."""

    stage: str
    state: Literal["finished", "unfinished", "not started", "does not ship"]
    digest: str | None
    counts: dict[str, int]
    notes: tuple[str, ...]


class Run:
    """One run folder. Reading never needs a model or torch."""

    def __init__(self, path: Path, facts: dict[str, Any]):
        self.path = path
        self.facts = facts
        self.config: RunConfig = config_from(facts["config"])

    @property
    def name(self) -> str:
        """Folder name."""
        return self.path.name

    @property
    def embedded(self) -> bool:
        """True for a run that ships inside the package, which is never written to."""
        return self.path in EMBEDDED_RUNS.values()

    @property
    def is_organism(self) -> bool:
        """True for a run of an organism: only organisms read the task ``chain``."""
        return self.config.task.name == "chain"

    @property
    def on_latents(self) -> bool:
        """True for a run whose control points are latents: only reasoners with latents read the task ``modular``."""
        return self.config.task.name == "modular"

    @property
    def results_only(self) -> bool:
        """True for a run that ships as its results, and for a copy of it: the stages that they were made from are not in the package."""
        return "counts" in self.facts

    @property
    def standing(self) -> str | None:
        """What the run's results can show, in one sentence, where that is known beforehand."""
        if self.results_only:
            return "Results of an experiment in docs/results.md, with the answers; its rollouts, actions and basis are not in the package."
        if self.is_organism:
            return "A calibration object: its habits are planted, and nothing seen on it is evidence that STIR helps a real model."
        return "A real model, on which no gain is seen." if self.embedded else None

    @classmethod
    def open(cls, where: str | Path) -> "Run":
        """Open a run by its folder, or an embedded one by its name or alias, e.g. ``"demo"`` (a folder of that name here comes first).

        Raises:
            StoreError: no such run, or its run.json is malformed or of an unknown schema version.
        """
        if not isinstance(where, str | Path):
            raise StoreError(f"{where!r:.80} is not the place of a run: give its folder, or {' or '.join(EMBEDDED_RUNS)}")
        path = Path(where)
        if not (path / "run.json").is_file():
            path = EMBEDDED_RUNS.get(ALIASES.get(str(where), str(where)), path)
        file = path / "run.json"
        if not file.is_file() and (path / "library.safetensors").exists():
            raise StoreError(f"{path} is a bundle, not a run: open it with `stir trace`, `stir serve` or stir.open_session")
        if not file.is_file():
            raise StoreError(
                f"no run at {path}: {file.name} is missing; make one with `stir run configs/demo.toml --out {path}`, or name one that "
                f"ships: {', '.join(EMBEDDED_RUNS)}"
            )
        try:
            facts = dict(json.loads(file.read_text(encoding="utf-8")))
            if (version := facts.get("schema_version", SCHEMAS[-1])) not in SCHEMAS:
                raise StoreError(f"{file} has schema version {version!r:.20}, this program reads 1 and 2: update stir-workbench")
            for name, kind in (("config", dict), ("versions", dict | None), ("command", str | None), ("device", str | None)):
                if name in facts and not isinstance(facts[name], kind):
                    raise TypeError(f"{name} is {facts[name]!r:.40}")
            digest_of(facts)  # pages digest and show it, so what is nested too deeply, or is not UTF-8, is refused here
            json.dumps(facts, ensure_ascii=False).encode("utf-8")
            return cls(path, facts)
        except KeyError as error:
            raise StoreError(f"{file} is not a run description (it has no {error}): copy the run again") from None
        except (ConfigError, OSError, ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"{file} is not a run description ({error}): copy the run again, or update stir-workbench") from None

    @classmethod
    def at(cls, path: Path, config: RunConfig, environment: dict[str, Any]) -> "Run":
        """The run of ``config`` at ``path``, new or resumed; nothing is written before :meth:`save`."""
        return cls(path, {"config": config.model_dump(mode="json"), "config_digest": digest_of(config), **environment})

    def save(self) -> None:
        """Write run.json, whole or not at all.

        Raises:
            StoreError: the folder cannot be made or written, or holds another program's run.json.
        """
        if (file := self.path / "run.json").exists() and not self._is_ours(file):
            raise StoreError(f"{file} is not a run's: choose another --out, nothing there is overwritten")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / "run.json", (json.dumps(self.facts, indent=2) + "\n").encode("utf-8"))
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written ({error.strerror}): choose another --out, or free the disk") from None

    @property
    def work(self) -> Path:
        """Where evaluations and measurements of this run are written: its folder, or ``runs/embedded/<name>`` for an embedded run."""
        return Path(os.environ.get("STIR_RUNS") or "runs") / "embedded" / self.name if self.embedded else self.path

    def derived(self, *parts: str) -> Path:
        """A file or folder that was made from this run later: in :attr:`work` if it exists there, else in the run's own folder."""
        return place if (place := self.work.joinpath(*parts)).exists() else self.path.joinpath(*parts)

    def finished(self, stage: str) -> bool:
        """True when the stage has finished."""
        return (self.path / stage / "manifest.json").is_file()

    def stages(self) -> tuple[str, ...]:
        """The finished stages, in order."""
        return tuple(stage for stage in (*STAGES, *ON_REQUEST) if self.finished(stage))

    def folder(self, stage: str) -> Path:
        """Folder of a finished stage.

        Raises:
            StoreError: the stage has not finished.
        """
        if not self.finished(stage):
            if self.results_only:
                raise StoreError(
                    f'run {self.path} ships as its results and has no stage "{stage}": read them on the pages Evaluate, Causal and '
                    "Compare, or make the run anew as docs/results.md says"
                )
            if stage in ON_REQUEST:
                raise StoreError(f"run {self.path} has no codebook: make one with `stir codebook {self.path}`")
            makes = f"latent harvest REASONER --out {self.path}" if self.on_latents else f"run CONFIG --out {self.path} --until {stage}"
            raise StoreError(f'run {self.path} has no finished stage "{stage}": make it with `stir {makes}`')
        return self.path / stage

    def file(self, stage: str, name: str) -> Path:
        """A file of a finished stage, with the digest that its manifest names: compared when it is first read, see ``store.seals``.

        Raises:
            StoreError: the stage has not finished, or the file is missing or another one.
        """
        digest, remedy = self.manifest(stage).files.get(name), f"copy the run again, or {self.remade(stage)}"
        if digest is None:
            raise StoreError(f"{self.folder(stage) / name} does not exist, says its manifest: {remedy}")
        return check_file(self.folder(stage) / name, digest, remedy)

    def remade(self, stage: str) -> str:
        """How a stage is made again, for a refusal."""
        if stage in ON_REQUEST:
            return f"make it again with `stir codebook {self.path} --redo`"
        return f"make it again with `stir run CONFIG --out {self.path} --redo {stage}`"

    def has(self, stage: str, name: str) -> bool:
        """True when a finished stage has a file of this name, which stages of earlier versions may lack."""
        return name in self.manifest(stage).files

    def part(self, stage: str) -> Path:
        """Folder that an unfinished stage writes to."""
        return self.path / f"{stage}.part"

    def manifest(self, stage: str) -> Manifest:
        """Manifest of a finished stage.

        Raises:
            StoreError: missing or malformed.
        """
        return read_record(self.folder(stage) / "manifest.json", Manifest, self.remade(stage))

    def counts(self, stage: str) -> dict[str, int]:
        """What a stage counted, also where the run ships as its results only; empty if it is not finished."""
        if self.results_only:
            return self.facts["counts"].get(stage, {})
        return self.manifest(stage).counts if self.finished(stage) else {}

    def digest(self, stage: str) -> str:
        """Digest of a finished stage's files: equal digests mean equal files."""
        return digest_of(self.manifest(stage).files)

    @contextmanager
    def writing(self, stage: str, describe: Callable[[], Manifest]) -> Iterator[Path]:
        """Write a stage: yields its ``.part`` folder, then seals it with a manifest and gives it its final name.

        An exception leaves the ``.part`` folder for the next attempt and no final folder.
        """
        part = self.part(stage)
        part.mkdir(parents=True, exist_ok=True)
        yield part
        flush_files(part)
        own = [
            file for file in sorted(part.iterdir()) if file.is_file() and file.name != "manifest.json" and not file.name.startswith(SCRATCH)
        ]
        # from here on the stage is whole: what follows is done again if it is interrupted
        write_record(part / "manifest.json", describe().replaced(files={file.name: file_sha256(file) for file in own}))
        self.give_name(stage)

    def give_name(self, stage: str) -> None:
        """Give a stage's ``.part`` folder, which has its manifest, the final name.

        Raises:
            StoreError: a folder of another program has the name.
        """
        self.check_place(stage)
        for file in self.part(stage).iterdir():
            if file.name.startswith(SCRATCH):
                file.unlink()
        name_folder(self.part(stage), self.path / stage)

    def check_place(self, stage: str) -> None:
        """Refuse files at a stage's place that were not written by one.

        Raises:
            StoreError: naming the folder.
        """
        for place, marks in ((self.path / stage, ("manifest.json",)), (self.part(stage), ("manifest.json", "marker"))):
            ours = place.is_dir() and (
                any((place / mark).is_file() for mark in marks) or all(file.name.endswith(OURS) for file in place.iterdir())
            )
            if place.exists() and not ours:
                raise StoreError(f"{place} was not written by a stage: move it away, or choose another --out")

    def discard(self, stage: str) -> None:
        """Remove a stage and every later one, the last first, so that an interruption leaves no stage without its sources.

        Raises:
            StoreError: a folder in a stage's place, or a file in it, was not written by one.
        """
        later = ON_REQUEST if stage == STAGES[0] else ON_REQUEST[ON_REQUEST.index(stage) :] if stage in ON_REQUEST else ()
        names = [*([] if stage in ON_REQUEST else STAGES[STAGES.index(stage) :]), *later]
        for name in names:
            self.check_place(name)
            self.check_unlisted(self.part(name))
            try:
                known = {"manifest.json", *self.manifest(name).files}
            except StoreError:  # not finished, or damaged and to be made again: nothing says what is the stage's
                self.check_unlisted(self.path / name)
                continue
            if (stranger := first_stranger(self.path / name, known)) is not None:
                raise StoreError(f"{stranger} was not written by the stage: move it away, it would be deleted")
        for name in reversed(names):
            remove_folder(self.path / name)
            remove_folder(self.part(name))

    @staticmethod
    def check_unlisted(folder: Path) -> None:
        """Refuse to lose files that no stage writes, in a folder of a stage that no manifest describes.

        Raises:
            StoreError: naming the first.
        """
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not (file.is_file() and file.name.endswith((*WRITTEN, OURS))) and not file.name.startswith(SCRATCH):
                raise StoreError(f"{file} was not written by the stage: move it away, it would be deleted")

    def writer(self) -> AbstractContextManager[None]:
        """Hold the lock of the run's stages; see :func:`~stir_core.store.locks.one_writer`."""
        places = [place for stage in (*STAGES, *ON_REQUEST) for place in (self.path / stage, self.part(stage))]
        return one_writer(self.path / "run", of=self.path, owns=(self.path / "run.json", *places))

    def check_model(self, model: ModelIdentity, stages: Sequence[str] | None = None) -> None:
        """Refuse a model that this run's artefacts (those of ``stages``, or all) were not made with.

        Raises:
            MismatchError: naming the field, both values and the remedy.
            StoreError: no stages are named, so the run itself is meant, and its answers are not text.
        """
        if stages is None:
            self.check_text()
        for stage in self.stages() if stages is None else stages:
            remedy = "load the model it was made with, or harvest a run with this one"
            check_identity(f"{self.path}/{stage}", self.manifest(stage).model, model, remedy)

    def check_text(self) -> None:
        """Refuse a run at latents where tokens are read, continued or steered: its rollouts hold no token that a latent stands for.

        Raises:
            StoreError: it is one.
        """
        if self.on_latents:
            raise StoreError(f"the control points of {self.path} are latents, not text: `stir latent steer {self.path}` steers there")

    def check_files(self, stage: str) -> None:
        """Refuse a stage with a missing or changed file.

        Raises:
            StoreError: naming the file.
        """
        for name in self.manifest(stage).files:
            self.file(stage, name)

    def model_identity(self) -> ModelIdentity | None:
        """The model that the run's artefacts were made with; ``None`` for an empty run."""
        stages = self.stages()
        return self.manifest(stages[0]).model if stages else None

    def problems(self, stage: str = "rollouts") -> list[Problem]:
        """The mined problems, or with ``stage="steered"`` the held-out ones."""
        return read_records(self.file(stage, "problems.jsonl"), Problem)

    def rollouts(self) -> list[Rollout]:
        """All rollouts, problem by problem."""
        return read_records(self.file("rollouts", "rollouts.jsonl"), Rollout)

    def pairs(self) -> list[Pair] | None:
        """The pairs of right and wrong rollouts that were mined, best first; ``None`` for a run made before they were kept."""
        return read_records(self.file("states", "pairs.jsonl"), Pair) if self.has("states", "pairs.jsonl") else None

    def states(self, layers: Sequence[int] | None = None) -> tuple[list[StateRow], dict[int, Float[np.ndarray, "n_rows d_model"]]]:
        """Where each recorded state comes from, and the states by layer (all harvested layers, or some)."""
        tensors = self._tensors("states", "states.safetensors")
        wanted = self.manifest("states").layers if layers is None else layers
        return read_records(self.file("states", "rows.jsonl"), StateRow), {layer: tensors[f"layer_{layer}"] for layer in wanted}

    def steps(self) -> tuple[list[StepState], dict[str, Float[np.ndarray, "n d_model"]]]:
        """Every step of every rollout and the states at their ends, ``layer_17: [n, d_model]`` (see ``stages.steps``)."""
        return self.step_rows(), self._tensors("steps", "steps.safetensors")

    def step_rows(self) -> list[StepState]:
        """Every step of every rollout, without the states."""
        return read_records(self.file("steps", "steps.jsonl"), StepState)

    def codebook(self) -> CodebookReport:
        """The report of the codebook of steps."""
        return read_record(self.file("codes", "report.json"), CodebookReport, self.remade("codes"))

    def step_codes(self) -> dict[str, np.ndarray]:
        """The codebook's arrays: ``codes_17: [n]``, the code of every row of :meth:`steps`, and others (see ``stages.codes``)."""
        return read_tensors(self.file("codes", "codebook.safetensors"))

    def codes_library(self) -> Library:
        """The entries that the codes of steps make, with their tensors."""
        tensors = self._tensors("codes", "actions.safetensors")
        entries = tuple(read_records(self.file("codes", "entries.jsonl"), Entry))
        actions = np.zeros_like(tensors["keys"])
        for i, entry in enumerate(entries):
            if entry.action_row is not None:
                actions[i] = tensors["actions"][entry.action_row]
        return Library(entries, tensors["keys"], actions)

    def entries(self) -> list[Entry]:
        """All mined entries, best pair first, corrective before null."""
        return read_records(self.file("actions", "entries.jsonl"), Entry)

    def lenses(self) -> Mapping[str, Lens]:
        """The tokens that each action promotes and suppresses through the unembedding, by entry id; each read when it is asked for."""
        return KeyedRecords(self.file("actions", "lens.jsonl"), Lens, "entry_id")

    def controls(self) -> Mapping[str, Control]:
        """The controls of each action, by entry id, likewise; empty for a run made before they were measured."""
        if not self.has("actions", "controls.jsonl"):
            return {}
        return KeyedRecords(self.file("actions", "controls.jsonl"), Control, "entry_id")

    def rollouts_by_name(self) -> Mapping[tuple[str, int], Rollout]:
        """The rollouts by problem and k, likewise."""
        return KeyedRecords(self.file("rollouts", "rollouts.jsonl"), Rollout, "problem_id", "k")

    def advantages(self) -> dict[str, Advantage]:
        """Measured causal value of actions, by entry id; empty where none was measured."""
        file = self._advantages()
        return {advantage.entry_id: advantage for advantage in read_records(file, Advantage)} if file.is_file() else {}

    def advantages_digest(self) -> str | None:
        """SHA-256 of the measured advantages; ``None`` where none were measured."""
        file = self._advantages()
        return file_sha256(file) if file.is_file() else None

    def picks(self) -> list[Pick]:
        """The control basis, in the order it was picked."""
        return read_records(self.file("basis", "picks.jsonl"), Pick)

    def traces(self, kind: str = "steered") -> list[Trace]:
        """Held-out answers: ``"steered"`` or ``"vanilla"``."""
        return read_records(self.file("steered", f"{kind}.jsonl"), Trace)

    def key_rows(self) -> Float[np.ndarray, "n_keys d_model"]:
        """Raw keys of all entries; ``Entry.key_row`` indexes it."""
        return self._tensors("actions", "actions.safetensors")["keys"]

    def status(self) -> list[StageStatus]:
        """Every stage in order, with the counts and notes of the finished ones."""
        rows: list[StageStatus] = []
        for stage in (*STAGES, *(stage for stage in ON_REQUEST if self.finished(stage) or self.part(stage).is_dir())):
            if self.finished(stage):
                manifest = self.manifest(stage)
                rows.append(StageStatus(stage, "finished", self.digest(stage), manifest.counts, manifest.notes))
            else:
                state = "does not ship" if self.results_only else "unfinished" if self.part(stage).is_dir() else "not started"
                rows.append(StageStatus(stage, state, None, {}, ()))
        return rows

    def log(self) -> list[StageTook]:
        """Time and tokens of each stage, in the order they were made; empty when no log was kept (embedded runs)."""
        return read_appended(self.path / "log.jsonl", StageTook)

    def key_space(self) -> KeySpace:
        """The space that keys and states are compared in: ``basis.similarity``, fitted to all mined keys."""
        if self.config.basis.similarity == "cosine":
            return KeySpace("cosine", {}, {})
        places = [(entry.m, entry.layer) for entry in sorted(self.entries(), key=lambda entry: entry.key_row)]
        return fit_space(self.config.basis.similarity, self.key_rows(), places)

    def margins(self) -> list[MarginThreshold]:
        """What the key margins were worth on mined problems, by control point and layer; empty in runs from before they were measured."""
        return read_records(self.file("basis", "margins.jsonl"), MarginThreshold) if self.has("basis", "margins.jsonl") else []

    def policies(self) -> Policies | None:
        """The learned gates; ``None`` where none were learned for the present basis (`stir policy` does it)."""
        file = self._policies()
        if not (file.is_file() and self.finished("basis")):
            return None
        weights = read_records(file, PolicyWeights)
        if not weights or weights[0].basis != (basis := self.digest("basis")):
            return None
        view = self._policies("view.safetensors")
        tensors = read_tensors(view, columns=self.manifest("states").model.d_model)
        by_name = {each.policy: each for each in weights}
        return Policies(basis, weights[0].layer, tensors["means"], tensors["axes"], by_name)

    def policies_digest(self) -> str | None:
        """SHA-256 of the learned gates' weights; ``None`` where none were learned."""
        file = self._policies()
        return file_sha256(file) if file.is_file() else None

    def action_rows(self) -> Float[np.ndarray, "n_actions d_model"]:
        """Raw action vectors; ``Entry.action_row`` indexes it."""
        return self._tensors("actions", "actions.safetensors")["actions"]

    def control_rows(self, name: Literal["length_matched", "shuffled"]) -> Float[np.ndarray, "n_actions d_model"]:
        """Actions re-estimated under a control, indexed by ``Entry.action_row``; a row of zeros where there is no estimate.

        Raises:
            StoreError: the run was made before controls were measured.
        """
        return self._tensors("actions", "controls.safetensors")[name]

    def map_coordinates(self) -> dict[str, Float[np.ndarray, "n_entries 2"]]:
        """Two-dimensional coordinates of all entries by projection name (``umap``, ``pca``)."""
        return read_tensors(self.file("basis", "map.safetensors"), columns=2)

    def library(self, *, selected: bool = True) -> Library:
        """Entries with their tensors: the control basis in pick order, or every mined entry."""
        return self.library_of(self.picks() if selected else None)

    def library_of(self, picks: Sequence[Pick] | None) -> Library:
        """The entries of these picks with their tensors, in pick order; ``None``: every mined entry."""
        entries = {entry.id: entry for entry in self.entries()}
        order = list(entries) if picks is None else [pick.entry_id for pick in picks]
        for pick in picks or ():
            if pick.quality is not None:
                entries[pick.entry_id] = entries[pick.entry_id].replaced(quality=pick.quality)
        chosen = tuple(entries[id_] for id_ in order)
        keys, actions = self.mapped_rows(chosen)
        return Library(chosen, keys[:], actions[:])

    def mapped_rows(self, entries: Sequence[Entry]) -> tuple[MappedRows, MappedRows]:
        """Raw keys and actions of mined entries, left in their file until rows are asked for; the actions of null entries are zero."""
        file, columns = self.file("actions", "actions.safetensors"), self.manifest("actions").model.d_model
        rows = {"keys": [entry.key_row for entry in entries], "actions": [entry.action_row for entry in entries]}
        keys, actions = (MappedRows(file, name, own, columns=columns) for name, own in rows.items())
        return keys, actions

    def _advantages(self) -> Path:
        file = self.derived("causal", "advantages.jsonl")
        return as_sealed(file.with_name(DIGESTS), file, "copy the study again, or make it again with `stir causal --fresh`")

    def _policies(self, name: str = "weights.jsonl") -> Path:
        file = self.derived("policy", name)
        return as_sealed(file.with_name(DIGESTS), file, "copy the run again, or learn the gates again with `stir policy --fresh`")

    def _is_ours(self, file: Path) -> bool:
        """True for a run.json that a run wrote, or beside which a stage was written."""
        if any(
            (folder / mark).is_file()
            for stage in STAGES
            for folder, mark in ((self.path / stage, "manifest.json"), (self.part(stage), "marker"))
        ):
            return True
        try:
            return "config" in json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, RecursionError):
            return False

    def _tensors(self, stage: str, name: str) -> dict[str, np.ndarray]:
        return read_tensors(self.file(stage, name), columns=self.manifest(stage).model.d_model)


def list_runs(root: Path) -> tuple[list[Run], dict[Path, str]]:
    """The embedded runs, then every run folder below ``root``, by name; and one line for every folder that cannot be opened."""
    runs: list[Run] = []
    broken: dict[Path, str] = {}
    for path in [*EMBEDDED_RUNS.values(), *sorted(file.parent for file in root.glob("*/run.json"))]:
        try:
            if not path.name.isprintable():
                raise StoreError(f"{path} has a name that cannot be shown: rename the folder")
            runs.append(Run.open(path))
        except FAULTS as error:
            broken[path] = line_of(error)
    return runs, broken


def check_identity(artefact: str, made_with: ModelIdentity, model: ModelIdentity, remedy: str, fields: Sequence[str] = CHECKED) -> None:
    """Refuse a model that differs in one of ``fields`` from the model that an artefact was made with.

    Raises:
        MismatchError: naming the artefact, the field, both values and the remedy.
    """
    for field in fields:
        theirs, ours = getattr(made_with, field), getattr(model, field)
        if field == "template_args":
            if not theirs and ours.keys() <= {"date"}:  # made by a version that let a template write the day of the run
                continue
            remedy = f"load it with template_args={theirs}"
        if theirs != ours:
            was, given = f"{made_with.name} ({field} {_short(theirs)})", f"{model.name} ({field} {_short(ours)})"
            raise MismatchError(f"{artefact} was made with {was}, not with {given}: {remedy}")


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
