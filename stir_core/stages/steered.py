"""Stage III on held-out problems: a vanilla and a steered answer to each, graded and appended as they end."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stir_core.config import RunConfig, with_changes
from stir_core.records import OnProgress, Problem, Progress, Trace, TraceEvent
from stir_core.stages.stage import Made, Stage
from stir_core.store.jsonl import append_records, read_appended, write_records
from stir_core.store.runs import Run
from stir_core.tasks import Grader, load_problems

if TYPE_CHECKING:
    from stir_core.intervene.jobs import Job
    from stir_core.intervene.memory import Memory
    from stir_core.models.loading import LoadedModel


def make_steered(run: Run, model: "LoadedModel", part: Path, report: OnProgress) -> Made:
    """Write problems.jsonl, vanilla.jsonl and steered.jsonl."""
    from stir_core.intervene.controller import steer
    from stir_core.intervene.jobs import Settings
    from stir_core.intervene.memory import Memory
    from stir_core.intervene.session import graded

    config = run.config
    n = config.task.n_eval
    problems = load_problems(config.task.name, config.task.held_out, n=n, seed=config.seed, levels=config.task.levels) if n else ()
    library = run.library()
    memory = Memory(*library, run.key_space()) if library.entries else None
    write_records(part / "problems.jsonl", problems)
    files = {"vanilla": part / "vanilla.jsonl", "steered": part / "steered.jsonl"}
    known = {kind: read_appended(file, Trace) for kind, file in files.items()}
    by_id = {problem.id: problem for problem in problems}
    jobs, kinds = _held_out_jobs(model, config, problems, memory, {kind: {trace.id for trace in traces} for kind, traces in known.items()})
    settings = Settings.of(config, rows=2 * config.decode.batch_problems)
    tokens, total = 0, 2 * len(problems)
    report(Progress("steered", total - len(jobs), total, "answers"))
    with Grader() as grader:
        for event in steer(model, jobs, settings):
            if isinstance(event, TraceEvent):
                settled = graded(event, by_id[event.trace.id], grader)
                trace = settled.trace if isinstance(settled, TraceEvent) else event.trace
                known[kinds[event.row]].append(trace)
                append_records(files[kinds[event.row]], [trace])
                tokens += trace.forward_tokens
                report(Progress("steered", sum(map(len, known.values())), total, "answers", tokens))
    order = {problem.id: i for i, problem in enumerate(problems)}
    counts = {"problems": len(problems)}
    for kind, traces in known.items():
        traces.sort(key=lambda trace: order[trace.id])
        write_records(files[kind], traces)
        counts[f"{kind}_correct"] = sum(trace.verdict is not None and trace.verdict.correct for trace in traces)
        counts[f"{kind}_tokens"] = sum(trace.tokens_used for trace in traces)
        counts[f"{kind}_probe_tokens"] = sum(trace.probe_tokens for trace in traces)
    counts["commits"] = sum(step.decision.chosen is not None for trace in known["steered"] for step in trace.steps)
    counts["decisions"] = sum(step.evidence.not_retrieved is None for trace in known["steered"] for step in trace.steps)
    return Made(counts, tokens, run.manifest("actions").layers)


def _held_out_jobs(
    model: "LoadedModel", config: RunConfig, problems: Sequence[Problem], memory: "Memory | None", done: dict[str, set[str]]
) -> "tuple[list[Job], list[str]]":
    """A vanilla and a steered answer to every problem, those that are there already left out; with their kinds."""
    from stir_core.intervene.jobs import Job
    from stir_core.models.prompting import prompt_ids

    gates = {"vanilla": with_changes(config.gate, variant="no_memory"), "steered": config.gate}
    jobs: list[Job] = []
    kinds: list[str] = []
    for problem in problems:
        for kind, gate in gates.items():
            if problem.id not in done[kind]:
                ids = prompt_ids(model, problem, config.task, room=config.decode.max_new_tokens)
                jobs.append(Job(problem.id, ids, gate, memory if kind == "steered" else None))
                kinds.append(kind)
    return jobs, kinds


def _settings(config: RunConfig) -> dict[str, Any]:
    return {
        "gate": config.gate.model_dump(mode="json"),
        "decode": config.decode.model_dump(mode="json", exclude={"batch_problems"}),
        "held_out": [config.task.held_out, config.task.n_eval],
    }


STAGE = Stage("steered", reads=("actions", "basis"), settings=_settings, make=make_steered)
