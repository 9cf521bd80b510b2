"""Evaluations of a run on disk: one folder each below ``evaluation/``, answers appended as they are settled.

    evaluation/<label>.part/            while answers are missing
    evaluation/<label>/                 when every method has answered every problem
        evaluation.json                 what is compared (``EvaluationSpec``)
        problems.jsonl                  in order
        answers/<method>.jsonl          one line an answer
        report.json  report.md

An evaluation that gets more methods, problems or seeds is taken up again: nothing that is whole is made twice.
"""

import shutil
from pathlib import Path

from stir_core.config import digest_of
from stir_core.errors import StoreError
from stir_core.findings import Answer, EvaluationReport, EvaluationSpec
from stir_core.records import Problem
from stir_core.store.jsonl import append_records, read_record, read_records, write_record, write_records
from stir_core.store.runs import Run

REMEDY = "make it with `stir eval`"
FIXED = ("task", "split", "levels", "template", "system", "gate", "max_new_tokens", "basis", "seed")
"""What an evaluation that is taken up again must share with what is there."""


class EvaluationFolder:
    """Where one evaluation of a run is kept."""

    def __init__(self, run: Run, label: str):
        if not label or label != Path(label).name or label.startswith("."):
            raise StoreError(f"label {label!r} is not a folder name: use letters, digits and dashes")
        self.part = run.work / "evaluation" / f"{label}.part"
        self.final = run.work / "evaluation" / label
        self._shipped = run.path / "evaluation" / label

    @property
    def path(self) -> Path:
        """The folder as it is now."""
        written = self.part if self.part.is_dir() else self.final
        return written if written.is_dir() else self._shipped

    @property
    def finished(self) -> bool:
        """Every method has answered every problem."""
        return self.path.is_dir() and self.path != self.part

    def begin(self, spec: EvaluationSpec, problems: list[Problem]) -> None:
        """Make the folder, or take it up again.

        Raises:
            StoreError: what is there was made with other settings.
        """
        if spec.fresh:
            for folder in (self.part, self.final):
                shutil.rmtree(folder, ignore_errors=True)
        if not spec.fresh and (self.path / "evaluation.json").is_file():
            known = self.spec()
            for field in FIXED:
                theirs, ours = getattr(known, field), getattr(spec, field)
                if theirs != ours:
                    raise StoreError(
                        f"{self.path} was made with {field} = {theirs!r}, not {ours!r}: choose another --label, "
                        "or add --fresh to start over"
                    )
            if None not in (known.advantages, spec.advantages) and known.advantages != spec.advantages:
                raise StoreError(
                    f"{self.path} was made with other measured advantages: choose another --label, or add --fresh to start over"
                )
            if None not in (known.curated, spec.curated) and known.curated != spec.curated:
                raise StoreError(
                    f"{self.path} was made with the library as it was curated then ({known.curated}), not as it is now ({spec.curated}): "
                    "choose another --label, or add --fresh to start over"
                )
            if known.model.weights_sha256 != spec.model.weights_sha256 or known.model.dtype != spec.model.dtype:
                raise StoreError(f"{self.path} was made with {known.model.name} in {known.model.dtype}: choose another --label")
            if self.path == self.final:
                self.final.rename(self.part)
            elif self.path != self.part:  # it came with the run, which is not written to
                shutil.copytree(self.path, self.part)
        (self.part / "answers").mkdir(parents=True, exist_ok=True)
        write_record(self.part / "evaluation.json", spec)
        write_records(self.part / "problems.jsonl", problems)

    def spec(self) -> EvaluationSpec:
        """What is compared.

        Raises:
            StoreError: missing or malformed.
        """
        return read_record(self.path / "evaluation.json", EvaluationSpec, REMEDY)

    def problems(self) -> list[Problem]:
        """The evaluation problems, in order."""
        return read_records(self.path / "problems.jsonl", Problem)

    def answers(self, method: str) -> list[Answer]:
        """Answers of a method so far; a torn last line is forgotten."""
        file = self.file_of(method)
        return read_records(file, Answer, torn="drop") if file.is_file() else []

    def append(self, answer: Answer) -> None:
        """Keep one settled answer."""
        append_records(self.file_of(answer.method), [answer])

    def file_of(self, method: str) -> Path:
        """File of a method's answers."""
        return self.path / "answers" / f"{method.partition(':')[0]}-{digest_of(method)[:8]}.jsonl"

    def write_report(self, report: EvaluationReport, text: str) -> None:
        """Write the report beside the answers; a complete one gives the folder its final name."""
        write_record(self.path / "report.json", report)
        (self.path / "report.md").write_text(text, encoding="utf-8")
        if report.complete and self.part.is_dir():
            shutil.rmtree(self.final, ignore_errors=True)
            self.part.rename(self.final)

    def report(self) -> EvaluationReport:
        """The last report.

        Raises:
            StoreError: none was written yet, or it is malformed.
        """
        return read_record(self.path / "report.json", EvaluationReport, REMEDY)


def evaluations(run: Run) -> list[EvaluationFolder]:
    """All evaluations of a run that have a report, by label."""
    roots = [root for root in (run.work / "evaluation", run.path / "evaluation") if root.is_dir()]
    labels = sorted({folder.name.removesuffix(".part") for root in roots for folder in root.iterdir() if folder.is_dir()})
    found = [EvaluationFolder(run, label) for label in labels]
    return [folder for folder in found if (folder.path / "report.json").is_file()]
