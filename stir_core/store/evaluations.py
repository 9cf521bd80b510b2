"""Evaluations of a run on disk: one folder each below ``evaluation/``, answers appended as they are graded.

    evaluation/<label>.part/            while answers are missing
    evaluation/<label>/                 when every method has answered every problem
        evaluation.json                 the settings (``EvaluationSpec``)
        problems.jsonl                  in order
        answers/<method>.jsonl          one line per answer
        report.json  report.md

An evaluation can be continued with more methods, problems or seeds; answers that are whole are not computed again.
"""

from collections.abc import Sequence
from pathlib import Path

from stir_core.config import LOCAL, digest_of
from stir_core.errors import StoreError
from stir_core.findings import Answer, EvaluationReport, EvaluationSpec
from stir_core.records import Problem
from stir_core.store.jsonl import append_records, read_appended
from stir_core.store.runs import Run
from stir_core.store.studies import StudyFolder

MAX_LABEL = 100
"""Bytes of an evaluation's label."""

FIXED = ("task", "split", "levels", "template", "system", "gate", "max_new_tokens", "basis", "seed")
"""Settings that must stay the same when an evaluation is continued."""


def is_label(name: str) -> bool:
    """True for a folder name that an evaluation may have: not one of those that stand beside an evaluation."""
    beside = name.startswith(".") or name.endswith((".part", ".lock", ".writer.json"))
    return bool(name) and name == Path(name).name and name.isprintable() and not beside and len(name.encode("utf-8")) <= MAX_LABEL


class EvaluationFolder(StudyFolder[EvaluationSpec, EvaluationReport]):
    """Where one evaluation of a run is kept."""

    results = ("answers", "answers/*-????????.jsonl")

    def __init__(self, run: Run, label: str):
        if not is_label(label):
            raise StoreError(f"label {label[:MAX_LABEL]!r} is not a folder name: use up to {MAX_LABEL} letters, digits and dashes")
        kinds = EvaluationSpec, EvaluationReport
        super().__init__(run, f"evaluation/{label}", "evaluation.json", kinds, "make it with `stir eval`")

    def begin(self, spec: EvaluationSpec, problems: Sequence[Problem]) -> None:
        """Make the folder, or continue the evaluation in it; see :meth:`StudyFolder.begin`."""
        super().begin(spec, problems)
        (self.part / "answers").mkdir(exist_ok=True)

    def check(self, known: EvaluationSpec, spec: EvaluationSpec) -> None:
        """Refuse other settings, model, advantages, curated library and learned gates than the answers on disk were made with.

        Raises:
            StoreError: naming the setting and both values.
        """
        remedy = "choose another --label, or add --fresh to start over"
        for field in FIXED:
            theirs, ours = getattr(known, field), getattr(spec, field)
            if digest_of(theirs) != digest_of(ours):
                raise StoreError(f"{self.path} was made with {field} = {theirs!r}, not {ours!r}: {remedy}")
        if (
            known.sampled and spec.sampled and (known.engine == LOCAL) != (spec.engine == LOCAL)
        ):  # which server does not matter: its address may change
            raise StoreError(f"{self.path} was made with engine = {known.engine!r}, not {spec.engine!r}: {remedy}")
        if None not in (known.advantages, spec.advantages) and known.advantages != spec.advantages:
            raise StoreError(f"{self.path} was made with other measured advantages: {remedy}")
        if None not in (known.policies, spec.policies) and known.policies != spec.policies:
            raise StoreError(f"{self.path} was made with other learned gates: {remedy}")
        if None not in (known.codes, spec.codes) and known.codes != spec.codes:
            raise StoreError(f"{self.path} was made with another codebook: {remedy}")
        if None not in (known.curated, spec.curated) and known.curated != spec.curated:
            raise StoreError(
                f"{self.path} was made with an earlier version of the curated library ({known.curated}), not with the present one "
                f"({spec.curated}): {remedy}"
            )
        if known.model.weights_sha256 != spec.model.weights_sha256 or known.model.dtype != spec.model.dtype:
            raise StoreError(f"{self.path} was made with {known.model.name} in {known.model.dtype}: choose another --label")

    def answers(self, method: str) -> list[Answer]:
        """A method's answers so far, the first to each question."""
        first: dict[tuple[str, int], Answer] = {}
        for answer in read_appended(self.file(str(self.file_of(method).relative_to(self.path))), Answer):
            first.setdefault((answer.problem_id, answer.seed), answer)
        return list(first.values())

    def append(self, answer: Answer) -> None:
        """Append one graded answer."""
        append_records(self.file_of(answer.method), [answer])

    def file_of(self, method: str) -> Path:
        """File of a method's answers."""
        return self.path / "answers" / f"{method.partition(':')[0]}-{digest_of(method)[:8]}.jsonl"


def evaluations(run: Run) -> list[EvaluationFolder]:
    """All evaluations of a run that have a report, by label; folders of other programs are passed over."""
    roots = [root for root in (run.work / "evaluation", run.path / "evaluation") if root.is_dir()]
    labels = sorted({folder.name.removesuffix(".part") for root in roots for folder in root.iterdir() if folder.is_dir()})
    return [folder for label in labels if is_label(label) and (folder := EvaluationFolder(run, label)).reported]
