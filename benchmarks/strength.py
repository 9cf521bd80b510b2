"""The largest strength of actions before text degenerates: ``python -m benchmarks.strength RUN --strengths 0.05 0.1 ... [--n N] [--json]``

Decodes validation problems (neither mined nor used for evaluation) vanilla and at each strength, side by side in one batch, and reports
accuracy with a Wilson interval, length, two degeneration measures, and the text's likelihood under the unsteered model. The rule for an
embedded run: the largest strength whose text is at most ``--slack`` nats per token less likely under the unsteered model than its own, with
repetition and compression within 0.03 of vanilla's. Accuracy is reported, not optimised, since a few dozen problems cannot resolve it.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean

from stir_core.config import with_changes
from stir_core.evaluate.degeneration import compressed, repeated
from stir_core.evaluate.statistics import wilson
from stir_core.intervene.controller import run_all
from stir_core.intervene.jobs import Job, Settings
from stir_core.intervene.session import open_session
from stir_core.models.generation import score
from stir_core.models.loading import load_model
from stir_core.models.threads import settle_threads
from stir_core.records import Trace
from stir_core.store.runs import Run
from stir_core.tasks import Grader, load_problems

STRENGTHS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def measure(run: Run, strengths: tuple[float, ...], n: int, batch: int) -> tuple[dict[str, list[Trace]], dict[str, float]]:
    """Graded traces by arm, ``"vanilla"`` first, and the mean log-probability per token of each arm's texts under the unsteered model."""
    config = run.config
    model = load_model(config.model.name, dtype=config.model.dtype, device=config.model.device)
    session = open_session(run, model)
    problems = load_problems(config.task.name, "validation", n=n, seed=config.seed, levels=config.task.levels)
    arms: dict[str, list[Trace]] = {"vanilla": [], **{f"{strength:g}": [] for strength in strengths}}
    with Grader() as grader:
        for start in range(0, len(problems), batch):
            jobs: list[Job] = []
            for problem in problems[start : start + batch]:
                ids = session.prompt_ids(problem, config.decode)
                jobs.append(Job(problem.id, ids, config.gate))
                jobs += [Job(problem.id, ids, with_changes(config.gate, k_scale=s), session.memory) for s in strengths]
            traces = run_all(model, jobs, Settings.of(config))
            for i, trace in enumerate(traces):
                problem = problems[start + i // len(arms)]
                verdict = grader.judge(problem, trace.text)
                list(arms.values())[i % len(arms)].append(trace.replaced(verdict=verdict))
            print(f"{start + len(jobs) // len(arms)}/{len(problems)} problems", file=sys.stderr)
    clean = {}
    for name, traces in arms.items():
        scored = score(model, [(list(trace.prompt_ids), list(trace.token_ids)) for trace in traces])
        clean[name] = mean(mean(logprobs) for logprobs in scored)
    return arms, clean


def row_of(name: str, traces: list[Trace], vanilla: list[Trace], clean_logprob: float) -> dict[str, object]:
    """The figures of one arm."""
    right = sum(trace.verdict is not None and trace.verdict.correct for trace in traces)
    interval = wilson(right, len(traces))
    steps = [step for trace in traces for step in trace.steps if step.evidence.not_retrieved is None]
    alphas = [step.decision.alpha for step in steps if step.decision.chosen]
    pairs = list(zip(traces, vanilla, strict=True))
    return {
        "strength": name,
        "n": len(traces),
        "correct": right,
        "accuracy_95": [round(end, 3) for end in interval.bounds],
        "won": sum(bool(a.verdict and a.verdict.correct) and not (b.verdict and b.verdict.correct) for a, b in pairs),
        "lost": sum(bool(b.verdict and b.verdict.correct) and not (a.verdict and a.verdict.correct) for a, b in pairs),
        "unfinished": sum(trace.verdict is not None and not trace.verdict.finished for trace in traces),
        "tokens": round(mean(trace.tokens_used for trace in traces), 1),
        "probe_tokens": round(mean(trace.probe_tokens for trace in traces), 1),
        "changed": sum(a.token_ids != b.token_ids for a, b in pairs),
        "commits": len(alphas),
        "decisions": len(steps),
        "mean_alpha": round(mean(alphas), 3) if alphas else 0.0,
        "repeated_3grams": round(mean(repeated(trace.token_ids) for trace in traces), 4),
        "clean_logprob": round(clean_logprob, 4),
        "zlib_ratio": round(mean(compressed(trace.text) for trace in traces), 4),
    }


def chosen(rows: list[dict[str, object]], slack: float) -> str | None:
    """The largest strength that stays within ``slack`` of vanilla's likelihood, and within 0.03 on both degeneration measures."""
    base = rows[0]
    fits = [
        row
        for row in rows[1:]
        if float(str(row["repeated_3grams"])) <= float(str(base["repeated_3grams"])) + 0.03
        and float(str(row["zlib_ratio"])) >= float(str(base["zlib_ratio"])) - 0.03
        and float(str(row["clean_logprob"])) >= float(str(base["clean_logprob"])) - slack
    ]
    return str(fits[-1]["strength"]) if fits else None


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table or JSON, and name the strength that the rule chooses."""
    settle_threads()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strength", description=__doc__)
    parser.add_argument("run", help="run folder with a finished basis, or the name of an embedded run")
    parser.add_argument("--strengths", type=float, nargs="+", default=list(STRENGTHS))
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4, help="problems side by side (each takes 1 + strengths rows)")
    parser.add_argument("--slack", type=float, default=0.1, help="nats per token")
    parser.add_argument("--out", type=Path, help="also write the report here")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    run = Run.open(arguments.run)
    arms, clean = measure(run, tuple(sorted(arguments.strengths)), arguments.n, arguments.batch)
    rows = [row_of(name, traces, arms["vanilla"], clean[name]) for name, traces in arms.items()]
    report = {"run": run.name, "split": "validation", "slack": arguments.slack, "chosen": chosen(rows, arguments.slack), "rows": rows}
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print("  ".join(rows[0]))
        for row in rows:
            print("  ".join(str(value) for value in row.values()))
        print(f"chosen: {report['chosen']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
