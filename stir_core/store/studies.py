"""A study of a run on disk: a folder that is made from a finished basis, grows as answers arrive, and can be continued.

It is written to ``<name>.part`` below ``Run.work`` and renamed when it is complete. A study that came with the run is read in place, and
copied before it is extended.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from stir_core.config import digest_of
from stir_core.errors import StoreError
from stir_core.findings import CausalReport, CausalSpec, EvaluationReport, EvaluationSpec, PolicyReport, PolicySpec, Roll
from stir_core.records import Problem, Trace
from stir_core.store.files import OURS, copy_folder, first_stranger, flush_folder, name_folder, remove_folder, write_whole
from stir_core.store.jsonl import append_records, read_appended, read_record, read_records, write_record, write_records
from stir_core.store.locks import one_writer
from stir_core.store.runs import Run
from stir_core.store.seals import DIGESTS, as_sealed, read_seal, write_seal

SpecT = TypeVar("SpecT", EvaluationSpec, CausalSpec, PolicySpec)
ReportT = TypeVar("ReportT", EvaluationReport, CausalReport, PolicyReport)


class StudyFolder(ABC, Generic[SpecT, ReportT]):
    """The folder of an evaluation, a causal study or learned gates: a spec, problems, a report, and a final name.

    Args:
        place: path of the folder below the run's, e.g. ``"evaluation/arithmetic-eval"``.
        spec_file: name of the file that holds the spec.
        kinds: record types of the spec and of the report.
        remedy: what to do when a file is missing or malformed, for the message.
    """

    results: ClassVar[tuple[str, ...]]
    """Patterns of the files of results, and the folders that hold them, below the study's folder."""

    def __init__(self, run: Run, place: str, spec_file: str, kinds: tuple[type[SpecT], type[ReportT]], remedy: str):
        self.part, self.final = run.work / f"{place}.part", run.work / place
        self._shipped, self._spec_file, self._remedy = run.path / place, spec_file, remedy
        self._spec_kind, self._report_kind = kinds

    @property
    def path(self) -> Path:
        """The folder as it is now."""
        written = self.part if self.part.is_dir() else self.final
        return written if written.is_dir() else self._shipped

    @property
    def finished(self) -> bool:
        """True when the study is complete."""
        return self.path.is_dir() and self.path != self.part

    @property
    def begun(self) -> bool:
        """True when the folder holds a spec."""
        return (self.path / self._spec_file).is_file()

    @property
    def reported(self) -> bool:
        """True when a report was written."""
        return (self.path / "report.json").is_file()

    def file(self, name: str) -> Path:
        """A file of the study, compared with the study's seal if it is complete; see ``store.seals``.

        Raises:
            StoreError: it is missing, or not the file that was written.
        """
        path, remedy = self.path, "copy the study again, or make it again with --fresh"
        return path / name if path == self.part else as_sealed(path / DIGESTS, path / name, remedy)

    def writer(self) -> AbstractContextManager[None]:
        """Hold the study's lock; see :func:`~stir_core.store.locks.one_writer`."""
        return one_writer(self.final, owns=(self.part, self.final))

    def begin(self, spec: SpecT, problems: Sequence[Problem]) -> None:
        """Make the folder, or continue the study in it.

        Raises:
            StoreError: the folder holds a study with other settings, or files that no study wrote; or there are two folders.
        """
        for folder in (self.part, self.final):
            self._check_place(folder)
            if spec.fresh and (stranger := first_stranger(folder, self._written_in(folder))) is not None:
                raise StoreError(f"{stranger} was not written by the study: move it away, it would be deleted")
        if spec.fresh:
            for folder in (self.part, self.final):
                remove_folder(folder)
        elif self.part.exists() and self.final.exists():
            raise StoreError(f"{self.part} and {self.final} are both there: move one of them away, or add --fresh to delete both")
        elif self.begun:
            self.check(self.spec(), spec)
            for name in read_seal(self.path / DIGESTS) if self.path != self.part else ():
                self.file(name)
            if self.path == self.final:
                self.final.rename(self.part)
                flush_folder(self.part.parent)
            elif self.path != self.part:  # it came with the run, which is never written to
                self.part.parent.mkdir(parents=True, exist_ok=True)
                copy_folder(self.path, self.part)
        self.part.mkdir(parents=True, exist_ok=True)
        (self.part / DIGESTS).unlink(missing_ok=True)  # it is sealed again when it is complete
        write_record(self.part / self._spec_file, spec)
        write_records(self.part / "problems.jsonl", problems)

    def _check_place(self, folder: Path) -> None:
        """Refuse a file, or a folder with files of another program, at one of the study's two places."""
        strange = any(not file.name.endswith(OURS) for file in folder.iterdir()) if folder.is_dir() else folder.exists()
        if strange and not (folder / self._spec_file).is_file():
            raise StoreError(f"{folder} holds other files than a study's: move it away, nothing there is overwritten")

    def written(self) -> set[str]:
        """The files that the study wrote, by path within its folder."""
        return self._written_in(self.path)

    def _written_in(self, folder: Path) -> set[str]:
        """The files below a folder that the study wrote, by path within it."""
        patterns = (self._spec_file, "problems.jsonl", "report.json", "report.md", DIGESTS, *self.results)
        return {file.relative_to(folder).as_posix() for pattern in patterns for file in folder.glob(pattern)}

    @abstractmethod
    def check(self, known: SpecT, spec: SpecT) -> None:
        """Refuse to continue the study on disk (``known``) with the settings of ``spec``.

        Raises:
            StoreError: naming the setting and both values.
        """

    def spec(self) -> SpecT:
        """The settings of the study.

        Raises:
            StoreError: missing or malformed.
        """
        return read_record(self.file(self._spec_file), self._spec_kind, self._remedy)

    def problems(self) -> list[Problem]:
        """The study's problems, in order."""
        return read_records(self.file("problems.jsonl"), Problem)

    def write_report(self, report: ReportT, text: str, *, complete: bool) -> None:
        """Write the report and its text; a complete study gets its final name."""
        write_record(self.path / "report.json", report)
        write_whole(self.path / "report.md", text.encode("utf-8"))
        if complete and self.part.is_dir():
            files = (self.part / name for name in self._written_in(self.part))
            write_seal(self.part / DIGESTS, (file for file in files if file.is_file()))
            name_folder(self.part, self.final)

    def report(self) -> ReportT:
        """The last report.

        Raises:
            StoreError: none was written yet, or it is malformed.
        """
        return read_record(self.file("report.json"), self._report_kind, self._remedy)


class ContinuationsFolder(StudyFolder[SpecT, ReportT]):
    """The folder of a study that decodes answers and continues them from states: a causal study, or learned gates."""

    may_change: ClassVar[set[str]]
    """Fields of the spec that may change when the study is continued."""

    def check(self, known: SpecT, spec: SpecT) -> None:
        """Refuse other settings than those in :attr:`may_change`.

        Raises:
            StoreError: naming the setting and both values.
        """
        theirs = known.model_dump(mode="json", exclude=self.may_change)
        for field, value in spec.model_dump(mode="json", exclude=self.may_change).items():
            if digest_of(theirs[field]) != digest_of(value):
                raise StoreError(f"{self.path} was made with {field} = {theirs[field]!r}, not {value!r}: add --fresh to start over")

    def traces(self) -> list[Trace]:
        """The answers so far whose control points are the states."""
        return read_appended(self.file("traces.jsonl"), Trace)

    def add_trace(self, trace: Trace) -> None:
        """Append one answer."""
        append_records(self.part / "traces.jsonl", [trace])

    def rolls(self) -> list[Roll]:
        """The continuations so far."""
        return read_appended(self.file("rolls.jsonl"), Roll)

    def add_rolls(self, rolls: Sequence[Roll]) -> None:
        """Append continuations."""
        append_records(self.part / "rolls.jsonl", rolls)
