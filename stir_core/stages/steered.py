"""Stage III on held-out problems: decode a vanilla and a steered answer to each, graded and appended as they end."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stir_core.config import RunConfig, with_changes
from stir_core.records import OnProgress, Progress, Trace, TraceEvent
from stir_core.stages.stage import Made, Stage
from stir_core.store.jsonl import append_records, read_appended, write_records
from stir_core.store.runs import Run
from stir_core.tasks import Grader
from stir_core.tasks.registry import held_out_problems
from stir_core.tasks.thinking import graded_part

if TYPE_CHECKING:
    from stir_core.models.loading import LoadedModel


def make_steered(run: Run, model: "LoadedModel", part: Path, report: OnProgress) -> Made:
    """Write problems.jsonl, vanilla.jsonl and steered.jsonl."""
    from stir_core.intervene.controller import steer
    from stir_core.intervene.jobs import Job, Settings
    from stir_core.intervene.memory import memory_of
    from stir_core.models.prompting import fitting_prompts

    config = run.config
    room = config.decode.max_new_tokens
    fitting, notes = fitting_prompts(model, held_out_problems(config), config.task, room=room)
    problems, prompts = [problem for problem, _ in fitting], {problem.id: ids for problem, ids in fitting}
    library = run.library()
    setups = {
        "vanilla": (with_changes(config.gate, variant="no_memory"), None),
        "steered": (with_changes(config.gate, previews="all"), memory_of(run, library)),  # to be decided again under other gates
    }
    write_records(part / "problems.jsonl", problems)
    files = {kind: part / f"{kind}.jsonl" for kind in setups}
    known = {kind: read_appended(file, Trace) for kind, file in files.items()}
    finished = {(kind, trace.id) for kind, traces in known.items() for trace in traces}
    waiting = [(problem, kind) for problem in problems for kind in setups if (kind, problem.id) not in finished]
    jobs = [Job(problem.id, prompts[problem.id], *setups[kind]) for problem, kind in waiting]
    settings = Settings.of(config, rows=2 * config.decode.batch_problems)
    tokens, total = 0, 2 * len(problems)
    report(Progress("steered", total - len(jobs), total, "answers"))
    with Grader() as grader:
        for event in steer(model, jobs, settings):
            if isinstance(event, TraceEvent):
                problem, kind = waiting[event.row]
                verdict = grader.judge(problem, graded_part(event.trace.text, event.trace.thinking))
                trace = event.trace.replaced(verdict=verdict)
                known[kind].append(trace)
                append_records(files[kind], [trace])
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
    return Made(counts, tokens, run.manifest("actions").layers, notes)


def _check(run: Run) -> None:
    held_out_problems(run.config)
    if run.config.gate.search == "approximate":  # a package that is missing is told before the harvest, not after it
        from stir_core.intervene.nearest import check_installed

        check_installed()


def _settings(config: RunConfig) -> dict[str, Any]:
    return {
        "gate": config.gate.model_dump(mode="json"),
        "decode": config.decode.model_dump(mode="json", exclude={"batch_problems"}),
        "held_out": [config.task.held_out, config.task.n_eval],
    }


STAGE = Stage("steered", reads=("actions", "basis"), settings=_settings, make=make_steered, check=_check)
