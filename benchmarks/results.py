"""Put the reports of finished experiments into docs/results.md: ``python -m benchmarks.results [--runs runs] [--commands]``

Runs nothing and computes nothing: every table is the one that `stir sweep`, `stir eval` or `stir causal` wrote beside its data. What stands
outside the marks is written by hand and left alone.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from stir_core.errors import StirError
from stir_core.store.causal import CausalFolder
from stir_core.store.evaluations import evaluations
from stir_core.store.runs import Run

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
START, END = "<!-- results: {} -->", "<!-- /results: {} -->"


def section(experiment: dict[str, Any], runs: Path) -> str:
    """The reports of one experiment, their headings two levels down."""
    parts = ["Made with:", "", *(f"    {command}" for command in commands(experiment, runs)), ""]
    sweep = runs / experiment.get("sweep", "") / "sweep.md"
    if sweep.is_file():
        parts.append(_lowered(sweep.read_text(encoding="utf-8")))
    run = Run.open(runs / experiment["run"])
    facts = ", ".join(
        f"{n} {name.replace('_', ' ')}" for stage in ("rollouts", "actions", "basis") for name, n in run.manifest(stage).counts.items()
    )
    parts.insert(0, f"Run `{run.name}`: {facts}.\n")
    for folder in evaluations(run):
        parts.append(_lowered((folder.path / "report.md").read_text(encoding="utf-8")))
    causal = CausalFolder(run)
    if causal.report() is not None:
        parts.append(_lowered((causal.path / "report.md").read_text(encoding="utf-8")))
    return _portable("\n".join(parts), run.name)


def commands(experiment: dict[str, Any], runs: Path) -> list[str]:
    """Every command of an experiment, in order: those of the file, then those that its reports name."""
    found = list(experiment["commands"])
    run = Run.open(runs / experiment["run"]) if (runs / experiment["run"] / "run.json").is_file() else None
    if run is not None:
        found += [spec.command for folder in evaluations(run) if (spec := folder.spec()).command]
        report = CausalFolder(run).report()
        found += [report.spec.command] if report is not None and report.spec.command else []
    return list(dict.fromkeys(line for command in found for line in _portable(command, experiment["run"]).splitlines()))


def _portable(text: str, run: str) -> str:
    """No folder of the machine that it was made on: where the run lay becomes ``runs/``, and of a model file only its name is left."""
    text = re.sub(r"(?<= )/\S*/(?=" + re.escape(run) + r"\b)", "runs/", text)
    return re.sub(r"(?<= )/\S*/(?=[\w.-]+\.gguf\b)", "", text)


def _lowered(text: str) -> str:
    return re.sub(r"^#", "###", text, flags=re.M)


def _put(page: str, name: str, text: str) -> str:
    start, end = START.format(name), END.format(name)
    if start not in page or end not in page:
        return f"{page.rstrip()}\n\n## {name}\n\n{start}\n{text}\n{end}\n"
    before, rest = page.split(start, 1)
    return f"{before}{start}\n{text}\n{end}{rest.split(end, 1)[1]}"


def main(argv: list[str] | None = None) -> int:
    """Write the page, or print the commands; exit code 2 when a run is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--file", type=Path, default=ROOT / "configs" / "results.toml")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--commands", action="store_true", help="only print how the results are made")
    arguments = parser.parse_args(argv)
    experiments = tomllib.loads(arguments.file.read_text(encoding="utf-8"))["experiment"]
    if arguments.commands:
        print("\n".join(line for experiment in experiments for line in (f"# {experiment['title']}", *commands(experiment, arguments.runs))))
        return 0
    page = arguments.page.read_text(encoding="utf-8") if arguments.page.is_file() else "# Results\n"
    try:
        for experiment in experiments:
            page = _put(page, experiment["title"], section(experiment, arguments.runs))
    except StirError as error:
        print(f"results: {error}", file=sys.stderr)
        return 2
    arguments.page.write_text(page, encoding="utf-8")
    print(arguments.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
