"""Hyper-parameter sweeps on a validation split. Recorded evidence is decided again under each gate, and decoded on only where it must be.

Between two points that differ in the gate alone, an answer is the same up to the first step at which the gate decides otherwise: decoding
starts there. Points that differ in the library (mining, basis) share their rollouts. The chosen point is the best of many, so its
validation figures flatter it; the test split is used once, afterwards.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field
from tabulate import tabulate

from stir_core.config import GateConfig, RunConfig, Section, config_from, digest_of, with_changes
from stir_core.errors import ConfigError
from stir_core.evaluate.statistics import wilson
from stir_core.findings import Estimate
from stir_core.intervene.controller import steer
from stir_core.intervene.jobs import Job, Settings
from stir_core.intervene.memory import memory_of
from stir_core.intervene.replay import ANSWERABLE, decide_again
from stir_core.models.loading import LoadedModel
from stir_core.models.prompting import prompt_ids
from stir_core.policies import Policies
from stir_core.records import OnProgress, Problem, Progress, Record, StepTrace, Trace, finished_traces
from stir_core.store.jsonl import append_records, read_appended
from stir_core.store.runs import Run
from stir_core.tasks import Grader
from stir_core.tasks.thinking import graded_part

SWEPT = ("mining", "basis", "gate")
"""Sections whose keys can be swept; a change in another section is another experiment, with its own rollouts."""


class SweepConfig(Section):
    """One sweep: a base experiment, and the values to try."""

    noun: ClassVar[str] = "sweep key"

    base: str
    """Experiment file (TOML) that the grid changes, relative to the sweep's own."""
    n: int = Field(default=24, ge=1)
    """Validation problems."""
    objective: Literal["accuracy", "tokens"] = "accuracy"
    """Choose by most right answers (ties: fewest decoded tokens), or by fewest decoded tokens where no fewer are right than vanilla."""
    grid: dict[str, Annotated[tuple[Any, ...], Field(strict=False)]]
    """Config key, e.g. ``"gate.k_scale"``, -> the values to try; every combination is a point."""


class SweepPoint(Record):
    """One combination of the grid, and its results on the validation problems."""

    changes: dict[str, Any]
    problems: int
    right: int
    accuracy: Estimate
    committed: float
    probe: float
    commits: float
    unfinished: int
    reused: int
    """Answers that follow from recorded evidence alone, without the model."""
    decoded: int
    """Tokens that the last call decoded for this point; fewer where it found answers of an interrupted one."""
    chosen: bool = False


class SweepReport(Record):
    """All points, vanilla first."""

    base: str
    split: str
    n: int
    objective: str
    points: tuple[SweepPoint, ...]


class Replay(NamedTuple):
    """The part of a recorded answer that stays the same under another gate."""

    steps: tuple[StepTrace, ...]
    """The steps that stay the same, with the other gate's decisions."""
    given: tuple[int, ...]
    """Their tokens."""
    whole: bool
    """Whether the whole answer stays the same."""


def replay(trace: Trace, recorded: GateConfig, gate: GateConfig, *, seed: int, policies: Policies | None = None) -> Replay | None:
    """Decide a recorded answer again under another gate, without a model.

    Returns:
        The part that stays the same; ``None`` when the gates differ in more than the decision, so that the evidence cannot be used.
    """
    free = ("decision", "strength") if gate.preview_scale == recorded.preview_scale == "unit" else ("decision",)
    if any(getattr(gate, key) != getattr(recorded, key) and reach not in free for key, reach in ANSWERABLE.items()):
        return None
    kept: list[StepTrace] = []
    for step in trace.steps:
        again = decide_again(step, recorded, gate, seed=seed, name=trace.id, policies=policies)
        decision = again.decision
        if decision is None or (decision.chosen, decision.alpha) != (step.decision.chosen, step.decision.alpha):
            break
        # where the other gate retrieves nothing, it previews nothing either
        previewed = {} if again.evidence.retrieved else {"probe_tokens": 0, "reused_tokens": 0}
        kept.append(step.replaced(evidence=again.evidence, decision=decision, **previewed))
    given = tuple(token for step in kept for token in step.token_ids)
    return Replay(tuple(kept), given, len(kept) == len(trace.steps))


def grid_points(sweep: SweepConfig) -> list[dict[str, Any]]:
    """Every combination of the grid, in the order of its keys and values."""
    return [dict(zip(sweep.grid, values, strict=True)) for values in itertools.product(*sweep.grid.values())]


def changed(base: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """The base config with one point's values.

    Raises:
        ConfigError: a key that the config does not have, or a value that it cannot take.
    """
    data = base.model_dump(mode="json")
    for path, value in changes.items():
        *sections, key = path.split(".")
        if not sections or sections[0] not in SWEPT:
            raise ConfigError(f"sweep key {path} cannot be swept: take keys of {', '.join(SWEPT)}; for others make a run each")
        place = data
        for section in sections:
            if not isinstance(place.get(section), dict):
                raise ConfigError(f"sweep key {path}: {section} is not a section of the config, take keys of {', '.join(SWEPT)}")
            place = place[section]
        place[key] = value
    return config_from(data)


class GridPoint(NamedTuple):
    """One point of the grid before it is measured: its values, the config with them, and a run with its basis."""

    changes: dict[str, Any]
    config: RunConfig
    run: Run


def sweep_points(
    model: LoadedModel,
    points: list[GridPoint],
    problems: list[Problem],
    out: Path,
    *,
    rows: int = 16,
    report: OnProgress = lambda progress: None,
) -> list[tuple[SweepPoint, list[Trace]]]:
    """Answer the validation problems at every point, vanilla first; answers on disk are not decoded again.

    Args:
        points: with finished bases.
        out: folder of the points' answers.
        rows: answers decoded side by side.
    """
    out.mkdir(parents=True, exist_ok=True)
    first = points[0].config
    vanilla = GridPoint({"method": "vanilla"}, with_changes(first, gate={"variant": "no_memory"}), points[0].run)
    recorded: dict[str, list[tuple[GateConfig, dict[str, Trace]]]] = {}
    results: list[tuple[SweepPoint, list[Trace]]] = []
    by_id = {problem.id: problem for problem in problems}
    total, done, tokens = (len(points) + 1) * len(problems), 0, 0
    with Grader() as grader:
        for point in (vanilla, *points):
            library = "vanilla" if point is vanilla else point.run.digest("basis")
            file = out / f"{digest_of(point.config.gate, point.config.decode, library)}.jsonl"
            known = {trace.id: trace for trace in read_appended(file, Trace)}
            reused = decoded = 0
            for trace, own in _answers(model, point, problems, known, recorded.get(library, []), rows, vanilla=point is vanilla):
                reused, decoded = reused + (own == 0), decoded + own
                verdict = grader.judge(by_id[trace.id], graded_part(trace.text, trace.thinking))
                known[trace.id] = trace.replaced(verdict=verdict)
                append_records(file, [known[trace.id]])
                report(Progress("sweep", done + len(known), total, "answers", tokens + decoded))
            traces = [known[problem.id] for problem in problems]
            recorded.setdefault(library, []).append((point.config.gate, known))
            done, tokens = done + len(problems), tokens + decoded
            results.append((_summed(point, traces, reused, decoded), traces))
    return results


def _answers(
    model: LoadedModel,
    point: GridPoint,
    problems: list[Problem],
    known: dict[str, Trace],
    recorded: list[tuple[GateConfig, dict[str, Trace]]],
    rows: int,
    *,
    vanilla: bool,
) -> Iterator[tuple[Trace, int]]:
    """The missing answers of a point, each with the number of tokens decoded for it."""
    config = point.config
    library = point.run.library()
    memory = None if vanilla else memory_of(point.run, library)
    settings = Settings.of(config, with_changes(config.decode, temperature=0.0), rows)
    jobs: list[Job] = []
    begun: list[tuple[Trace, Replay] | None] = []
    for problem in (problem for problem in problems if problem.id not in known):
        longest = _longest(problem.id, recorded, config.gate, config.seed, memory.policies if memory is not None else None)
        if longest is not None and longest[1].whole:
            trace, held = longest
            yield _with_steps(trace, held.steps), 0
            continue
        prompt = prompt_ids(model, problem, config.task, room=config.decode.max_new_tokens)
        recording = with_changes(config.gate, previews="all")  # later points decide it again
        jobs.append(Job(problem.id, prompt, recording, memory, longest[1].given if longest else ()))
        begun.append(longest)
    for row, trace in finished_traces(steer(model, jobs, settings)):
        start = begun[row]
        steps = (*(start[1].steps if start else ()), *trace.steps)
        yield _with_steps(trace, steps).replaced(given=0), trace.tokens_used - trace.given + trace.probe_tokens


def _with_steps(trace: Trace, steps: tuple[StepTrace, ...]) -> Trace:
    probe, reused = (sum(getattr(step, name) for step in steps) for name in ("probe_tokens", "reused_tokens"))
    return trace.replaced(steps=steps, probe_tokens=probe, reused_tokens=reused)


def _longest(
    problem_id: str, recorded: list[tuple[GateConfig, dict[str, Trace]]], gate: GateConfig, seed: int, policies: Policies | None
) -> tuple[Trace, Replay] | None:
    """The recorded answer with the longest part that stays the same under this gate, if there is one with a step."""
    usable: list[tuple[Trace, Replay]] = []
    for other, traces in recorded:
        if (trace := traces.get(problem_id)) and (held := replay(trace, other, gate, seed=seed, policies=policies)) and held.steps:
            usable.append((trace, held))
    return max(usable, key=lambda pair: (pair[1].whole, len(pair[1].given)), default=None)


def _summed(point: GridPoint, traces: list[Trace], reused: int, decoded: int) -> SweepPoint:
    right = sum(trace.verdict is not None and trace.verdict.correct for trace in traces)
    return SweepPoint(
        changes=point.changes,
        problems=len(traces),
        right=right,
        accuracy=wilson(right, len(traces)),
        committed=mean(trace.tokens_used for trace in traces),
        probe=mean(trace.probe_tokens for trace in traces),
        commits=mean(sum(step.decision.chosen is not None for step in trace.steps) for trace in traces),
        unfinished=sum(trace.verdict is not None and not trace.verdict.finished for trace in traces),
        reused=reused,
        decoded=decoded,
    )


def choose(points: list[SweepPoint], objective: str) -> list[SweepPoint]:
    """The points with the chosen one marked; the first is vanilla and is never chosen."""
    vanilla, *others = points
    if objective == "tokens":
        good = [point for point in others if point.right >= vanilla.right] or others
        best = min(good, key=lambda point: (point.committed + point.probe, -point.right))
    else:
        best = max(others, key=lambda point: (point.right, -(point.committed + point.probe)))
    return [vanilla, *(point.replaced(chosen=point is best) for point in others)]


def sweep_markdown(report: SweepReport) -> str:
    """The points as a table."""
    keys = list(dict.fromkeys(key for point in report.points for key in point.changes))
    heads = [*keys, "right", "accuracy [95 %]", "committed", "probe", "commits", "unfinished", "reused", ""]
    rows = []
    for point in report.points:
        cells = [*(point.changes.get(key, "") for key in keys), f"{point.right}/{point.problems}", f"{point.accuracy:.1%}"]
        cells += [f"{point.committed:.1f}", f"{point.probe:.1f}", f"{point.commits:.2f}"]
        rows.append([*cells, point.unfinished, point.reused, "**chosen**" if point.chosen else ""])
    lines = [
        f"# Sweep of {report.base} on {report.split} ({report.n} problems)",
        "",
        tabulate(rows, heads, "github", disable_numparse=True),
        "",
        f"Chosen by {report.objective}. The chosen point is the best of {len(report.points) - 1}: its validation figure flatters it.",
    ]
    return "\n".join(lines) + "\n"
