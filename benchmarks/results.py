"""Put the reports of finished experiments into docs/results.md: ``python -m benchmarks.results [--runs runs | --shipped]``

Every table was written by `stir sweep`, `stir eval` or `stir causal` beside its data, or by `benchmarks.protocol` from these reports. Text
outside the marks is written by hand and stays. ``--shipped`` leaves out runs that the package does not hold, ``--readme`` copies the most
important rows into README.md, and ``--check`` computes the shipped reports again from their answers and continuations and compares the page
and README.md with them, and every figure with an interval in hand-written text with the reports; below a run's name, with that run's alone.
"""

import argparse
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.protocol import FILE, Protocol, markdown
from stir_core.config import GateConfig
from stir_core.errors import StirError
from stir_core.evaluate.causal import causal_report, logged_states
from stir_core.evaluate.causal_text import causal_markdown
from stir_core.evaluate.effects import NULL_ARM
from stir_core.evaluate.own import mixed, own_report
from stir_core.evaluate.report import evaluation_markdown
from stir_core.evaluate.runner import summarise
from stir_core.findings import CausalReport, EvaluationReport
from stir_core.requests import CausalStudyName
from stir_core.store.causal import CausalFolder
from stir_core.store.evaluations import EvaluationFolder, evaluations
from stir_core.store.runs import RECORDS, Run

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
START, END = "<!-- results: {} -->", "<!-- /results: {} -->"
README_START, README_END = "<!-- table: written by python -m benchmarks.results --readme -->", "<!-- /table -->"
LINKS_START, LINKS_END = "<!-- links: written by python -m benchmarks.results -->", "<!-- /links -->"
WRITTEN = re.compile(r"<!-- (results: .+?|links)(?:: written by [^>]*?)? -->.*?<!-- /\1 -->", re.S)
"""The parts of the page that reports write."""
TRANSFER = "### transfer: "
"""Heading of an evaluation on another task's problems, which the README leaves out."""
FIGURE = re.compile(r"([+-]?\d[\d.]*)[^\d\[\]]{0,60}?(?:95 %[^\d\[\]]{0,16})?(\[[+-]?\d[^\[\]]{0,20}[ ,][+-]?\d[\d.]*\])")
"""A figure with its interval: the last number before it, whatever unit, bracket or cell stands between them."""
WORDS = {
    "": "STIR",
    "noise=matched,variant=random_vector": "random directions of its size",
    "library=shuffled": "actions from shuffled labels",
    "rule=calibrated": "STIR with the calibrated gate",
}
"""What of STIR the README shows: the method itself with two gates, and the two controls that stand nearest to it."""


def section(experiment: dict[str, Any], runs: Path) -> str:
    """The reports of one experiment, with headings two levels lower."""
    parts = ["Made with:", "", *(f"    {command}" for command in commands(experiment, runs)), ""]
    sweep = runs / experiment.get("sweep", "") / "sweep.md"
    if sweep.is_file():
        parts.append(_lowered(sweep.read_text(encoding="utf-8")))
    run = Run.open(runs / experiment["run"])
    facts = ", ".join(
        f"{n} {name.replace('_', ' ')}" for stage in ("rollouts", "actions", "basis") for name, n in run.counts(stage).items()
    )
    parts.insert(0, f"Run `{run.name}`: {facts}.\n")
    whole_first = sorted(evaluations(run), key=lambda each: each.final.name != "whole")  # README shows the first
    for folder in (*whole_first, CausalFolder(run, "own"), CausalFolder(run)):
        if folder.reported:
            parts.append(_lowered((folder.path / "report.md").read_text(encoding="utf-8")))
    return portable("\n".join(parts), run.name)


def commands(experiment: dict[str, Any], runs: Path) -> list[str]:
    """Every command of an experiment, in order: those of the file, then those of its reports."""
    lines = list(experiment["commands"])
    run = Run.open(runs / experiment["run"]) if (runs / experiment["run"] / "run.json").is_file() else None
    if run is not None:
        lines += [spec.command for folder in evaluations(run) if (spec := folder.spec()).command]
        studies = [folder for folder in (CausalFolder(run, "own"), CausalFolder(run)) if folder.reported]
        lines += [command for folder in studies if (command := folder.report().spec.command)]
    return list(dict.fromkeys(line for command in lines for line in portable(command, experiment["run"]).splitlines()))


def portable(text: str, run: str, place: str = "runs/") -> str:
    """Text without folders of this machine: the run's place becomes ``place``, a config's ``configs/``, and a model file keeps its name."""
    text = re.sub(r'(?<=[ "=])/[^\s"]*/(?=configs/)', "", text)
    text = re.sub(r'(?<=[ "=])/[^\s"]*/(?=' + re.escape(run) + r"\b)|(?<=--base )/[^\s\"]*/", place, text)
    return re.sub(r'(?<=[ "=])/[^\s"]*/(?=[\w.-]+\.gguf\b)', "", text)


def recomputed(folder: EvaluationFolder) -> EvaluationReport:
    """An evaluation's report from its answers; repeated pairs and triples are the report's own, since most answers ship without tokens."""
    found, told = summarise(folder, folder.spec(), folder.problems()), {method.name: method for method in folder.report().methods}
    methods = [
        method.replaced(repeated_2=told[method.name].repeated_2, repeated_3=told[method.name].repeated_3)
        for method in found.methods
        if method.name in told
    ]
    return found.replaced(methods=tuple(methods))


def measured_again(folder: CausalFolder, study: CausalStudyName) -> CausalReport:
    """A causal study's report from its continuations; the study ``own`` keeps its layer, which the continuations do not tell."""
    told, rolls = folder.report(), folder.rolls()
    if study == "gate":
        problems, traces = folder.problems(), {trace.id: trace for trace in folder.traces()}
        answered = [traces[problem.id] for problem in problems if problem.id in traces]
        gate = GateConfig.model_validate(told.spec.gate)
        return causal_report(told.spec, logged_states(answered, problems, gate, seed=told.spec.seed, most=told.spec.states), rolls)
    continued = {roll.state for roll in rolls if roll.arm == NULL_ARM}
    undecided = sorted(mixed(rolls), key=lambda state: state not in continued)  # more may have been re-rolled than were asked for
    return own_report(told.spec, undecided[: told.spec.states], rolls, told.layer)


def check(page: str, experiments: list[dict[str, Any]], runs: Path, readme: str = "") -> list[str]:
    """What differs between the shipped answers and continuations, their reports, the page, and the README; one line each."""
    wrong, names = [], [each.name for each in sorted(runs.iterdir()) if (each / "run.json").is_file()] if runs.is_dir() else []
    for name in names:
        run = Run.open(runs / name)
        for folder in evaluations(run):
            told = (folder.path / "report.md").read_text(encoding="utf-8")
            if any(evaluation_markdown(each) != told for each in (recomputed(folder), folder.report())):
                wrong.append(f"{folder.path}: the answers give another report")
        for study in ("own", "gate"):
            causal = CausalFolder(run, study)
            told = (causal.path / "report.md").read_text(encoding="utf-8") if causal.reported else None
            if told is not None and any(causal_markdown(each) != told for each in (measured_again(causal, study), causal.report())):
                wrong.append(f"{causal.path}: the continuations give another report")
    for each in experiments:
        own = _between(page, START.format(each["title"]), END.format(each["title"]))
        if each.get("shipped") and own != section(each, runs).strip("\n"):
            wrong.append(f'docs/results.md: "{each["title"]}" is not what the shipped reports say')
    if names and _between(page, LINKS_START, LINKS_END) != markdown(Protocol(FILE, runs)):
        wrong.append("docs/results.md: its table of links is not what the shipped reports say")
    allowed = ["links", *(f"results: {each['title']}" for each in experiments)]
    for part, times in Counter(part[1] for part in WRITTEN.finditer(page)).items():
        if part not in allowed or times > 1:
            wrong.append(f'docs/results.md: the part "{part}" is there {times} times, or is of no experiment in configs/results.toml')
    if readme and (README_START not in readme or README_END not in readme or with_table(readme, page) != readme):
        wrong.append("README.md: its table is not that of docs/results.md: run `python -m benchmarks.results --readme`")
    return wrong + unknown_figures(page, experiments, runs, readme)


def unknown_figures(page: str, experiments: list[dict[str, Any]], runs: Path, readme: str = "") -> list[str]:
    """Figures with an interval in hand-written text that no report holds, or not the run's that the text is about; one line each."""
    wrong, known = [], _figures(page, experiments, runs)
    for name, text in (("docs/results.md", WRITTEN.sub("", page)), ("README.md", readme)):
        for run, part in _about(text):
            where = f"the reports of {run}" if run else "any report"
            figures = [each for each in figures_in(part) if each not in known.get(run, ())]
            wrong += [f"{name}: {value} {interval} is not in {where}" for value, interval in figures]
    return wrong


def _figures(page: str, experiments: list[dict[str, Any]], runs: Path) -> dict[str, set[tuple[str, str]]]:
    """Every figure that reports write, by the shipped run that they are of; those of all under an empty name."""
    links = (_between(page, LINKS_START, LINKS_END) or "").splitlines()
    probes = {file.name.removesuffix(".probe.json"): file.read_text(encoding="utf-8") for file in runs.glob("*.probe.json")}
    texts = {"": "\n".join([*(part[0] for part in WRITTEN.finditer(page)), *probes.values()])}
    for each in experiments:
        if each.get("shipped"):
            name, title = each["run"], each["title"]
            named = re.compile(rf"{re.escape(name)}(?![\w-])")
            parts = [_between(page, START.format(title), END.format(title)) or "", probes.get(name, ""), *filter(named.search, links)]
            texts[name] = "\n".join(parts)
    return {name: set(figures_in(text)) for name, text in texts.items()}


def figures_in(text: str) -> list[tuple[str, str]]:
    """Figures and their intervals, without emphasis and line breaks."""
    return FIGURE.findall(" ".join(re.sub("[*`]", "", text).split()))


def _about(text: str) -> Iterator[tuple[str, str]]:
    """Hand-written text in parts, each with the run it is about: from a line that begins with its name to the next heading or bold lead."""
    run, part = "", []
    for line in text.splitlines():
        named = re.match(r"[#* ]*`([\w.-]+)`", line)
        if named or line.startswith(("#", "**")):
            yield run, "\n".join(part)
            run, part = named[1] if named else "", []
        part.append(line)
    yield run, "\n".join(part)


def _between(page: str, start: str, end: str) -> str | None:
    return page.split(start, 1)[1].split(end, 1)[0].strip("\n") if start in page and end in page else None


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
        shown, own = title, []
        own_task = body.split(TRANSFER, 1)[0]
        for row in re.findall(r"^\| `(.+?)` +\| (\d+/\d+) +" + r"\| (.*?) +" * 5 + r"\|", own_task, re.M):
            method, right, accuracy, _, difference, _, p = row
            if method == "vanilla" and not shown:  # the first evaluation alone
                break
            if (words := _in_words(method)) is not None:
                own.append((shown, words, right, accuracy, difference, p))
                shown = ""
        rows += own if len(own) > 1 else []  # vanilla alone says nothing
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
    parser.add_argument("--shipped", action="store_true", help="only the parts of runs whose results ship with the package")
    parser.add_argument("--check", action="store_true", help="only compute the shipped reports again, and compare them with the page")
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
        if arguments.check:
            wrong = check(page, experiments, RECORDS, README.read_text(encoding="utf-8"))
            print("\n".join(wrong) or "every figure that ships is what its answers and continuations give")
            return 1 if wrong else 0
        for experiment in experiments:
            if arguments.shipped and not experiment.get("shipped"):
                continue
            page = _put(page, experiment["title"], section(experiment, RECORDS if experiment.get("shipped") else arguments.runs))
        before, rest = page.split(LINKS_START, 1) if LINKS_START in page else ("", f"{LINKS_END}\n\n{page}")
        page = f"{before}{LINKS_START}\n\n{markdown(Protocol(FILE, RECORDS))}\n\n{LINKS_END}{rest.split(LINKS_END, 1)[1]}"
    except StirError as error:
        print(f"results: {error}", file=sys.stderr)
        return 2
    arguments.page.write_text(page, encoding="utf-8")
    print(arguments.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
