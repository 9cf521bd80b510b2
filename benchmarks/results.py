"""Put the reports of finished experiments into docs/results.md: ``python -m benchmarks.results [--runs runs] [--commands | --readme]``

Runs nothing and computes nothing: every table was written by `stir sweep`, `stir eval` or `stir causal` beside its data. Text outside the
marks is written by hand and stays. ``--readme`` copies the most important rows into README.md.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from tabulate import tabulate

from stir_core.errors import StirError
from stir_core.store.causal import CausalFolder
from stir_core.store.evaluations import evaluations
from stir_core.store.runs import Run

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
START, END = "<!-- results: {} -->", "<!-- /results: {} -->"
README_START, README_END = "<!-- table: written by python -m benchmarks.results --readme -->", "<!-- /table -->"
WORDS = {
    "": "STIR",
    "noise=matched,variant=random_vector": "random directions of its size",
    "library=shuffled": "actions from shuffled labels",
}
"""What of STIR the README shows: the method itself, and the two controls that stand nearest to it."""


def section(experiment: dict[str, Any], runs: Path) -> str:
    """The reports of one experiment, with headings two levels lower."""
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
    if causal.reported:
        parts.append(_lowered((causal.path / "report.md").read_text(encoding="utf-8")))
    return _portable("\n".join(parts), run.name)


def commands(experiment: dict[str, Any], runs: Path) -> list[str]:
    """Every command of an experiment, in order: those of the file, then those of its reports."""
    lines = list(experiment["commands"])
    run = Run.open(runs / experiment["run"]) if (runs / experiment["run"] / "run.json").is_file() else None
    if run is not None:
        lines += [spec.command for folder in evaluations(run) if (spec := folder.spec()).command]
        causal = CausalFolder(run)
        lines += [command] if causal.reported and (command := causal.report().spec.command) else []
    return list(dict.fromkeys(line for command in lines for line in _portable(command, experiment["run"]).splitlines()))


def _portable(text: str, run: str) -> str:
    """Text without folders of this machine: the run's place becomes ``runs/``, and a model file keeps its name only."""
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


def readme_table(page: str) -> str:
    """The README's table: vanilla, STIR, its two nearest controls and the static vector, row by row from the page of results."""
    heads = ("experiment", "method", "right", "accuracy [95 %]", "against vanilla [95 %]", "p (Holm)")
    rows = []
    for title, body in re.findall(r"<!-- results: (.*?) -->\n(.*?)<!-- /results: \1 -->", page, re.S):
        shown = title
        for row in re.findall(r"^\| `(.+?)` +\| (\d+/\d+) +" + r"\| (.*?) +" * 5 + r"\|", body, re.M):
            method, right, accuracy, _, difference, _, p = row
            if (words := _in_words(method)) is not None:
                rows.append((shown, words, right, accuracy, difference, p))
                shown = ""
    return tabulate(rows, heads, "github", disable_numparse=True)


def with_table(readme: str, page: str) -> str:
    """The README with the table of the results page."""
    before, rest = readme.split(README_START, 1)
    return f"{before}{README_START}\n\n{readme_table(page)}\n\n{README_END}{rest.split(README_END, 1)[1]}"


def _in_words(method: str) -> str | None:
    """A method described for new readers; ``None``: the README omits it."""
    name, _, rest = method.partition(":")
    if name in ("vanilla", "static"):
        return None if rest else {"vanilla": "vanilla", "static": "the mean action at every step, kept in the cache"}[name]
    strength = [part for part in rest.split(",") if part.startswith("k_scale=")]
    words = WORDS.get(",".join(part for part in rest.split(",") if part not in strength)) if name == "stir" else None
    return words and ", ".join([words, *(part.replace("=", " ") for part in strength)])


def main(argv: list[str] | None = None) -> int:
    """Write the page, or print the commands; exit code 2 when a run is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--file", type=Path, default=ROOT / "configs" / "results.toml")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--commands", action="store_true", help="only print how the results are made")
    parser.add_argument("--readme", action="store_true", help="only copy the README's table from the page")
    arguments = parser.parse_args(argv)
    if arguments.readme:
        README.write_text(with_table(README.read_text(encoding="utf-8"), arguments.page.read_text(encoding="utf-8")), encoding="utf-8")
        print(README)
        return 0
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
