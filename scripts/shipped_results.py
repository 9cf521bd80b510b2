"""Put the results of finished runs into the package: ``python -m scripts.shipped_results RUN ... [--traces N]``

Evaluations, causal studies and the probe's report of each run go to ``stir_core/assets/records``, where the pages Evaluate, Causal and
Compare open them and `python -m benchmarks.results --check` recomputes their figures. Every answer keeps its text, verdict and costs; the
first N problems keep tokens, steps and decisions, too. Rollouts, actions and basis stay behind.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from benchmarks.results import portable
from stir_core.config import STAGES
from stir_core.errors import StirError
from stir_core.findings import Answer
from stir_core.store.causal import CausalFolder
from stir_core.store.evaluations import evaluations
from stir_core.store.jsonl import read_records, write_records
from stir_core.store.runs import RECORDS, Run
from stir_core.store.seals import DIGESTS, write_seal

TRACES = 12
PLACE = "runs/protocol/"
"""Where `python -m benchmarks.protocol` makes them: what the shipped commands name."""


def ship(run: Run, target: Path, traces: int = TRACES) -> None:
    """Copy a run's finished studies to ``target``, which is made anew; its probe's report lies beside the run and comes beside it.

    Args:
        traces: number of problems of each evaluation that keep tokens, steps and decisions.

    Raises:
        StirError: the run has no finished study.
    """
    studies = [each for each in (*evaluations(run), CausalFolder(run, "own"), CausalFolder(run)) if each.finished and each.reported]
    if not studies:
        raise StirError(f"{run.path} has no finished evaluation or causal study: nothing to ship")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    facts = json.dumps({**run.facts, "counts": {stage: run.counts(stage) for stage in STAGES}}, indent=2) + "\n"
    (target / "run.json").write_text(portable(facts, run.name, PLACE), encoding="utf-8")
    for study in studies:
        folder = target / study.final.relative_to(run.work)
        for name in study.written():  # folders are among them
            if not study.file(name).is_file():
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(study.file(name), folder / name)
        shown = {problem.id for problem in study.problems()[:traces]}
        for file in folder.glob("answers/*.jsonl"):
            answers = read_records(file, Answer)
            write_records(file, [each if each.problem_id in shown else each.replaced(trace=None, token_ids=()) for each in answers])
        for file in [*folder.glob("*.json"), *folder.glob("*.md")]:
            file.write_text(portable(file.read_text(encoding="utf-8"), run.name, PLACE), encoding="utf-8")
        write_seal(folder / DIGESTS, (file for file in folder.rglob("*") if file.is_file() and file.name != DIGESTS))
    probe = run.path.with_name(f"{run.name}.probe.json")
    if probe.is_file():
        text = portable(probe.read_text(encoding="utf-8"), run.name, PLACE)
        target.with_name(probe.name).write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Ship each run; exit code 2 where there is nothing to ship."""
    parser = argparse.ArgumentParser(prog="python -m scripts.shipped_results", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--traces", type=int, default=TRACES, help=f"problems that keep tokens, steps and decisions (default: {TRACES})")
    arguments = parser.parse_args(argv)
    try:
        for place in arguments.runs:
            ship(Run.open(place), RECORDS / place.name, arguments.traces)
            print(RECORDS / place.name)
    except StirError as error:
        print(f"shipped_results: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
