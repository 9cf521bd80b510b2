"""Paired evaluation: every method answers the same problems with the same budget. Each answer is graded and kept as soon as it ends."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stir_core.config import TaskConfig, digest_of, with_changes
from stir_core.errors import DataError, StoreError
from stir_core.evaluate.decoders.base import Bench, Question
from stir_core.evaluate.decoders.registry import DECODERS, method, methods
from stir_core.evaluate.libraries import libraries_of
from stir_core.evaluate.report import evaluation_markdown, evaluation_report
from stir_core.findings import Answer, EvaluationReport, EvaluationSpec
from stir_core.intervene.jobs import Settings
from stir_core.models.loading import LoadedModel
from stir_core.models.prompting import fitting_prompts
from stir_core.records import ModelIdentity, OnProgress, Problem, Progress, Verdict
from stir_core.requests import EvaluationRequest
from stir_core.store.curated import curated_library, library_digest
from stir_core.store.curation import Curation
from stir_core.store.evaluations import EvaluationFolder
from stir_core.store.runs import Run
from stir_core.tasks import Grader, asks_for_box, load_problems, task_spec
from stir_core.tasks.grading import graded_alongside
from stir_core.tasks.overlap import find_overlaps
from stir_core.tasks.thinking import graded_part

CHUNK = 4
"""Batches (of each worker, if there are some) that one method answers before it is the next one's turn, so that an interrupted
evaluation is still paired."""


def settle(
    run: Run,
    identity: ModelIdentity,
    request: EvaluationRequest,
    *,
    command: str | None,
    environment: dict[str, str],
    leaks: bool = True,
) -> tuple[EvaluationSpec, list[Problem]]:
    """Resolve a request against a run: everything that the evaluation depends on, and its problems.

    Args:
        leaks: whether who asks can allow problems that were mined, so that a refusal may name that remedy.

    Raises:
        ConfigError: an unknown method.
        DataError: an unknown task or split, too few problems, or problems that were mined (without ``allow_leak``).
        StoreError: the run has no finished basis.
        MismatchError: the run was made with another model.
    """
    config, own = run.config, request.task in (None, run.config.task.name)
    run.check_model(identity)
    task = task_spec(request.task or config.task.name)
    levels = request.levels if request.levels is not None else config.task.levels if own else ()
    problems = list(load_problems(task.name, request.split, n=request.n, seed=config.seed, levels=levels))
    names = [each.name for each in methods([request.baseline, *request.methods])]
    leakage = find_overlaps(run.problems(), problems)
    if leakage.overlaps and not request.allow_leak:
        first = leakage.overlaps[0]
        raise DataError(
            f"{len(leakage.overlaps)} of {len(problems)} evaluation problems were mined (e.g. {first.problem_id} is {first.mined_id}): "
            f"choose another split{', or add --allow-leak to go on with a marked report' if leaks else ''}"
        )
    settled: dict[str, Any] = dict(request) | {
        "label": f"{task.name}-{request.split}" if request.label is None else request.label,
        "task": task.name,
        "levels": levels,
        "n": len(problems),
        "methods": tuple(names),
        "baseline": method(request.baseline).name,
        "template": request.template or (config.task.template if own or _kinds(problems) == _kinds(run.problems()) else "auto"),
        "max_new_tokens": config.decode.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens,
    }
    spec = EvaluationSpec(
        **settled,
        system=config.task.system,
        gate=config.gate.model_dump(mode="json"),
        run=run.name,
        config_digest=digest_of(config),
        basis=run.digest("basis"),
        advantages=run.advantages_digest() if any("library=measured" in name for name in names) else None,
        curated=library_digest(curated_library(run, Curation.open(run))) if any("library=curated" in name for name in names) else None,
        policies=run.policies_digest() if config.gate.policy != "value" or any("policy=" in name for name in names) else None,
        codes=run.digest("codes") if any("library=codes" in name for name in names) else None,
        model=identity,
        seed=config.seed,
        leaks=leakage.overlaps,
        same_words=leakage.same_words,
        command=command,
        environment=environment,
    )
    return spec, problems


def evaluate(
    run: Run,
    model: LoadedModel,
    spec: EvaluationSpec,
    problems: list[Problem],
    *,
    report: OnProgress = lambda progress: None,
) -> tuple[EvaluationReport, Path]:
    """Decode, grade and keep the answers that are missing, and write the report.

    Methods that were evaluated under this label before stay in the report. A problem whose prompt does not fit the context is left out for
    all methods, and named in the report.

    Returns:
        The report and its folder.

    Raises:
        StoreError: the label holds an evaluation with other settings.
        PromptError: no problem's prompt fits the context.
    """
    folder = EvaluationFolder(run, spec.label)
    config = run.config
    decode = with_changes(config.decode, max_new_tokens=spec.max_new_tokens, temperature=0.0, top_p=1.0)
    sampling = config.rollouts.temperature, config.rollouts.top_p
    bench = Bench(model, Settings.of(config, decode, spec.rows), config.gate, libraries_of(run), sampling, spec.engine)
    for each in methods(list(spec.methods)):
        each.decoder.check(bench, each.parameters)
    with folder.writer():
        return _evaluated(folder, bench, spec, problems, report), folder.path


def _evaluated(
    folder: EvaluationFolder, bench: Bench, spec: EvaluationSpec, problems: list[Problem], report: OnProgress
) -> EvaluationReport:
    model = bench.model
    if not spec.fresh and folder.begun:
        known = folder.spec()
        if (before := known.n + len(known.left_out)) > len(problems):
            raise StoreError(
                f"{folder.path} has {before} problems, not {len(problems)}: ask for --n {before}, choose another --label, "
                "or add --fresh to start over"
            )
        spec = _joined(known, spec)
    task, boxed = TaskConfig(name=spec.task, template=spec.template, system=spec.system), asks_for_box(spec.template)
    fitting, left_out = fitting_prompts(model, problems, task, room=spec.max_new_tokens)
    problems, prompts = [problem for problem, _ in fitting], {problem.id: ids for problem, ids in fitting}
    spec = spec.replaced(n=len(problems), left_out=left_out)
    folder.begin(spec, problems)
    by_id = {problem.id: problem for problem in problems}
    missing: dict[str, list[Question]] = {}
    total = 0
    for name in spec.methods:
        known = {(answer.problem_id, answer.seed) for answer in folder.answers(name)}
        pairs = [(problem, seed) for problem in problems for seed in range(_seeds(name, spec))]
        missing[name] = [Question(p, prompts[p.id], seed, boxed) for p, seed in pairs if (p.id, seed) not in known]
        total += len(pairs)
    done, tokens = total - sum(map(len, missing.values())), 0
    try:
        with Grader() as grader:

            def judge(answer: Answer) -> Verdict:
                return grader.judge(by_id[answer.problem_id], graded_part(answer.text, answer.thinking))

            size = spec.rows * CHUNK * (1 if model.workers is None else model.workers.pool.size)
            for name, questions in _turns(missing, size):
                unit = f"answers ({name.partition(':')[0]})"
                report(Progress("eval", done, total, unit, tokens))
                for answer, verdict in graded_alongside(_timed(method(name).answer(bench, questions)), judge):
                    folder.append(answer.replaced(verdict=verdict))
                    done, tokens = done + 1, tokens + answer.tokens_used + answer.probe_tokens
                    report(Progress("eval", done, total, unit, tokens))
    finally:  # an interrupted evaluation leaves a report of the problems that every method has answered
        summary = summarise(folder, spec, problems)
        folder.write_report(summary, evaluation_markdown(summary), complete=summary.complete)
    return summary


def _joined(known: EvaluationSpec, spec: EvaluationSpec) -> EvaluationSpec:
    """The spec of an evaluation that is continued: its methods and commands, then the new ones."""
    commands = dict.fromkeys([*(known.command or "").splitlines(), *(spec.command or "").splitlines()])
    return spec.replaced(
        methods=tuple(dict.fromkeys((*known.methods, *spec.methods))),
        command="\n".join(commands) or None,
        engine=spec.engine if spec.sampled else known.engine,
        advantages=spec.advantages or known.advantages,  # the methods asked for now need not be the ones that used them
        curated=spec.curated or known.curated,
        policies=spec.policies or known.policies,
        codes=spec.codes or known.codes,
    )


def _kinds(problems: Sequence[Problem]) -> set[str]:
    """Kinds of answers: a template asks for one."""
    return {problem.kind for problem in problems}


def summarise(folder: EvaluationFolder, spec: EvaluationSpec, problems: list[Problem]) -> EvaluationReport:
    """The report over the problems answered so far; a problem counts for a method when all its repetitions are there."""
    answers: dict[str, list[Answer]] = {}
    wanted = {problem.id for problem in problems}
    for name in spec.methods:
        seeds = _seeds(name, spec)
        own = [answer for answer in folder.answers(name) if answer.problem_id in wanted and answer.seed < seeds]
        counts = Counter(answer.problem_id for answer in own)
        answers[name] = [answer for answer in own if counts[answer.problem_id] == seeds]
    return evaluation_report(spec, [problem.id for problem in problems], answers, describe)


def describe(name: str) -> tuple[str, str]:
    """A method's decoder in one line, and its source."""
    decoder = DECODERS[name.partition(":")[0]]
    return decoder.about, decoder.source


def _seeds(name: str, spec: EvaluationSpec) -> int:
    """Repetitions of a method: one where it is deterministic."""
    return spec.seeds if method(name).decoder.by_chance else 1


def _turns(missing: dict[str, list[Question]], size: int) -> Iterator[tuple[str, list[Question]]]:
    """The unanswered questions in pieces of ``size``, one piece of each method in turn."""
    for start in range(0, max(map(len, missing.values()), default=0), size):
        for name, questions in missing.items():
            if piece := questions[start : start + size]:
                yield name, piece


def _timed(answers: Iterator[Answer]) -> Iterator[Answer]:
    """Divide the wall-clock time among the answers, so that it adds up; grading and writing are not counted."""
    started = time.monotonic()
    for answer in answers:
        yield answer.replaced(seconds=time.monotonic() - started)
        started = time.monotonic()
