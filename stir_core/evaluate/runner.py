"""Paired evaluation: every method answers the same problems with the same budget, each answer kept as soon as it is settled."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stir_core.config import TaskConfig, digest_of, with_changes
from stir_core.errors import DataError
from stir_core.evaluate.decoders.base import Bench, Question
from stir_core.evaluate.decoders.registry import DECODERS, Method, method, methods
from stir_core.evaluate.libraries import libraries_of
from stir_core.evaluate.report import evaluation_report, markdown
from stir_core.findings import Answer, EvaluationReport, EvaluationSpec, Leak
from stir_core.intervene.jobs import Settings
from stir_core.models.loading import LoadedModel
from stir_core.models.prompting import prompt_ids
from stir_core.records import ModelIdentity, OnProgress, Problem, Progress
from stir_core.requests import EvaluationRequest
from stir_core.store.curated import curated_library, library_digest
from stir_core.store.curation import Curation
from stir_core.store.evaluations import EvaluationFolder
from stir_core.store.runs import Run
from stir_core.tasks import Grader, asks_for_box, load_problems, task_spec
from stir_core.tasks.overlap import find_overlaps

CHUNK = 4
"""Batches that one method answers before the next method has its turn, so that an interrupted evaluation is still paired."""


def settle(
    run: Run, identity: ModelIdentity, request: EvaluationRequest, *, command: str | None, environment: dict[str, str]
) -> tuple[EvaluationSpec, list[Problem]]:
    """Everything that an evaluation depends on, and its problems.

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
    names = [made.name for made in methods([request.baseline, *request.methods])]
    leakage = find_overlaps(run.problems(), problems)
    if leakage.overlaps and not request.allow_leak:
        first = leakage.overlaps[0]
        raise DataError(
            f"{len(leakage.overlaps)} of {len(problems)} evaluation problems were mined (e.g. {first.problem_id} is {first.mined_id}): "
            "choose another split, or add --allow-leak to go on with a marked report"
        )
    settled: dict[str, Any] = dict(request) | {
        "label": request.label or f"{task.name}-{request.split}",
        "task": task.name,
        "levels": levels,
        "n": len(problems),
        "methods": tuple(names),
        "baseline": method(request.baseline).name,
        "template": request.template or (config.task.template if own else "auto"),
    }
    if request.max_new_tokens is None:
        settled["max_new_tokens"] = config.decode.max_new_tokens
    spec = EvaluationSpec(
        **settled,
        system=config.task.system,
        gate=config.gate.model_dump(mode="json"),
        run=run.name,
        config_digest=digest_of(config),
        basis=run.digest("basis"),
        advantages=run.advantages_digest() if any("library=measured" in name for name in names) else None,
        curated=library_digest(curated_library(run, Curation.open(run))) if any("library=curated" in name for name in names) else None,
        model=identity,
        seed=config.seed,
        leaks=tuple(Leak(**overlap._asdict()) for overlap in leakage.overlaps),
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
    """Answer what is missing, settle and keep it, and write the report.

    Methods that were evaluated under this label before stay in the report.

    Returns:
        The report and the folder that it lies in.

    Raises:
        StoreError: the label holds an evaluation with other settings.
    """
    folder, bench = EvaluationFolder(run, spec.label), bench_for(run, model, spec)
    for made in methods(list(spec.methods)):
        made.decoder.check(bench, made.parameters)
    if not spec.fresh and folder.begun:
        spec = _joined(folder.spec(), spec)
    folder.begin(spec, problems)
    task = TaskConfig(name=spec.task, template=spec.template, system=spec.system)
    prompts = {problem.id: prompt_ids(model, problem, task, room=spec.max_new_tokens) for problem in problems}
    asked = {name: _questions(method(name), problems, prompts, spec.seeds, spec.template) for name in spec.methods}
    known = {name: {(answer.problem_id, answer.seed) for answer in folder.answers(name)} for name in spec.methods}
    total, tokens = sum(map(len, asked.values())), 0
    done = sum((q.problem.id, q.seed) in known[name] for name, questions in asked.items() for q in questions)
    by_id = {problem.id: problem for problem in problems}
    try:
        with Grader() as grader:
            for name, questions in _turns(asked, known, spec.rows * CHUNK):
                unit = f"answers ({name.partition(':')[0]})"
                report(Progress("eval", done, total, unit, tokens))
                for answer in _timed(method(name).answer(bench, questions)):
                    problem = by_id[answer.problem_id]
                    verdict = grader.judge(problem, answer.text)
                    folder.append(answer.replaced(verdict=verdict))
                    done, tokens = done + 1, tokens + answer.tokens_used + answer.probe_tokens
                    report(Progress("eval", done, total, unit, tokens))
    finally:  # an interrupted evaluation leaves a report of what is whole
        found = summarise(folder, spec, problems)
        folder.write_report(found, markdown(found), complete=found.complete)
    return found, folder.path


def _joined(known: EvaluationSpec, spec: EvaluationSpec) -> EvaluationSpec:
    """An evaluation that is taken up again: its methods and commands, then the new ones."""
    commands = dict.fromkeys([*(known.command or "").splitlines(), *(spec.command or "").splitlines()])
    return spec.replaced(
        methods=tuple(dict.fromkeys((*known.methods, *spec.methods))),
        command="\n".join(commands) or None,
        advantages=spec.advantages or known.advantages,  # methods that are asked for now need not be the ones that used them
        curated=spec.curated or known.curated,
    )


def summarise(folder: EvaluationFolder, spec: EvaluationSpec, problems: list[Problem]) -> EvaluationReport:
    """The report over what has been answered so far."""
    answers: dict[str, list[Answer]] = {}
    wanted = {problem.id for problem in problems}
    for name in spec.methods:
        seeds = spec.seeds if method(name).decoder.by_chance else 1
        answers[name] = [a for a in folder.answers(name) if a.problem_id in wanted and a.seed < seeds]
        counts = Counter(answer.problem_id for answer in answers[name])
        answers[name] = [answer for answer in answers[name] if counts[answer.problem_id] == seeds]
    return evaluation_report(spec, [problem.id for problem in problems], answers, describe)


def describe(name: str) -> tuple[str, str]:
    """What a method is, and its source."""
    decoder = DECODERS[name.partition(":")[0]]
    return decoder.about, decoder.source


def bench_for(run: Run, model: LoadedModel, spec: EvaluationSpec) -> Bench:
    """What the decoders of an evaluation share."""
    config = run.config
    decode = with_changes(config.decode, max_new_tokens=spec.max_new_tokens, temperature=0.0, top_p=1.0)
    settings = Settings.of(config, decode, spec.rows)
    return Bench(model, settings, config.gate, libraries_of(run), (config.rollouts.temperature, config.rollouts.top_p))


def _questions(asked: Method, problems: list[Problem], prompts: dict[str, list[int]], seeds: int, template: str) -> list[Question]:
    """A method without chance answers each problem once, however many seeds there are."""
    times = seeds if asked.decoder.by_chance else 1
    boxed = asks_for_box(template)
    return [Question(problem, prompts[problem.id], seed, boxed) for problem in problems for seed in range(times)]


def _turns(asked: dict[str, list[Question]], known: dict[str, set[tuple[str, int]]], size: int) -> Iterator[tuple[str, list[Question]]]:
    """What is missing, a piece of each method in turn."""
    missing = {name: [q for q in questions if (q.problem.id, q.seed) not in known[name]] for name, questions in asked.items()}
    for start in range(0, max(map(len, missing.values()), default=0), size):
        for name, questions in missing.items():
            if piece := questions[start : start + size]:
                yield name, piece


def _timed(answers: Iterator[Answer]) -> Iterator[Answer]:
    """Share the wall-clock time out among the answers, so that it adds up; grading and writing are left out."""
    started = time.monotonic()
    for answer in answers:
        yield answer.replaced(seconds=time.monotonic() - started)
        started = time.monotonic()
