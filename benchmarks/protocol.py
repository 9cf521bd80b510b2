"""Run docs/protocol.md step by step, and say what each link showed: ``python -m benchmarks.protocol [FILE] [--runs DIR] [--hours H]``

Every step is a `stir` command, which resumes; a step whose result is there is not run again. So the same command goes on after an
interruption, on a laptop and on a GPU alike. The figures are those of the commands; only the looks are decided here.
"""

import argparse
import contextlib
import io
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from benchmarks.all import main as benchmarks
from benchmarks.protocol_file import RunPlan, WholePlan, read_protocol
from stir_core.cli import main as stir
from stir_core.errors import ConfigError, StirError
from stir_core.evaluate.effects import ANOTHER, NULL_ARM, OWN, RANDOM_ARM, RETRIEVED, SHUFFLED, WORTH_HAVING, by_arm, effect
from stir_core.evaluate.probe import WORTH
from stir_core.evaluate.report import answered_right
from stir_core.evaluate.statistics import LEVEL, clustered_difference, looks, mcnemar, verdict_of
from stir_core.findings import Answer, ArmEffect, CausalReport, Estimate, ProbeReport
from stir_core.records import Record
from stir_core.requests import CausalStudyName
from stir_core.store.causal import CausalFolder
from stir_core.store.evaluations import EvaluationFolder
from stir_core.store.files import write_whole
from stir_core.store.jsonl import read_record
from stir_core.store.runs import Run

FILE = Path(__file__).resolve().parents[1] / "configs" / "protocol.toml"
KNOWS = 0.2
"""Upper limit of the rank correlation of the gate's margin with the measured advantage, below which the gate is said not to know."""
CUT_OFF = 0.05
"""Share of a run's rollouts without a finished answer, above which its links are read with that caveat."""
HARMS = "no, it harms"
"""Verdict where a loss of accuracy is seen: its p is at most the bound of the look."""
WORTH_WHOLE = 0.05
"""A gain of accuracy that is worth having; where it is excluded, the whole does not help, and a look stops."""


class Step(NamedTuple):
    """A command, and whether its result is there."""

    run: str
    """Empty: it measures the machine."""
    command: list[str]
    done: bool


def _line(command: Sequence[str]) -> str:
    """A step as one types it."""
    return " ".join(("python -m benchmarks.all", *command[1:]) if command[0] == "benchmarks" else ("stir", *command))


class Verdict(NamedTuple):
    """What a link of a run showed."""

    link: str
    run: str
    says: str
    """``yes``, ``no``, ``cannot tell``, or ``not measured``."""
    seen: str


class Pooled(Record):
    """A method against vanilla on the problems of several runs."""

    method: str
    problems: int
    won: int
    lost: int
    difference: Estimate
    p: float
    bound: float
    """p at most this stops at the look that was reached."""
    stops: str | None
    """Why no further problems are taken; ``None``: go on."""


class Protocol:
    """A protocol file, and what of it stands in a folder of runs."""

    def __init__(self, file: Path, runs: Path):
        self.plan, self.runs, self.file = read_protocol(file), runs, file
        self.benchmarks = runs / "benchmarks.json"
        """Figures of `benchmarks.all` on this machine, where the file asks for them."""

    def settings(self, name: str) -> RunPlan:
        """What the file says of a run."""
        return next(each for each in self.plan.run if each.name == name)

    def run(self, name: str) -> Run | None:
        """A run that has its basis, or that ships as its results."""
        if not (self.runs / name / "run.json").is_file():
            return None
        run = Run.open(self.runs / name)
        return run if run.results_only or run.finished("basis") else None

    def probe(self, name: str) -> Path:
        """Where the output of `stir probe` is kept."""
        return self.runs / f"{name}.probe.json"

    def causal(self, name: str, study: CausalStudyName) -> CausalReport | None:
        """A finished causal study."""
        run = self.run(name)
        folder = CausalFolder(run, study) if run else None
        return folder.report() if folder and folder.finished and folder.reported else None

    def answers(self, name: str, label: str, method: str) -> dict[str, Answer]:
        """A method's answers by problem, as far as they are there."""
        run = self.run(name)
        return {each.problem_id: each for each in EvaluationFolder(run, label).answers(method)} if run else {}

    def problems(self, name: str) -> list[str]:
        """Ids of the problems of the whole, in the order in which the looks take them."""
        run = self.run(name)
        folder = EvaluationFolder(run, "whole") if run else None
        return [each.id for each in folder.problems()] if folder and folder.file("problems.jsonl").is_file() else []

    def steps(self) -> Iterator[Step]:
        """The steps in order: benchmarks, mining, links 1 to 5 of each run, the looks, the other methods, transfer. Read after each."""
        if self.plan.benchmarks is not None:
            yield Step("", ["benchmarks", *self.plan.benchmarks.split()], self.benchmarks.is_file())
        for each in self.plan.run:
            place, rows = str(self.runs / each.name), ["--rows", str(each.rows)]
            base = ["--base", str(self.runs / each.base)] if each.base is not None else []
            changes = [word for change in each.set for word in ("--set", change)]
            command = ["run", str(self.file.parent / each.config), "--until", "basis", "--out", place, *base, *changes]
            yield Step(each.name, command, self.run(each.name) is not None)
            if base:  # the links of its rollouts are those of the run that they were taken from
                continue
            yield Step(each.name, ["probe", place, "--json"], self.probe(each.name).is_file())
            studies: tuple[tuple[CausalStudyName, str | None], ...] = (("own", each.own), ("gate", each.gate))
            for study, flags in studies:
                command = ["causal", place, "--study", study, *(flags or "").split(), *rows]
                yield Step(each.name, command, self.causal(each.name, study) is not None)
            if each.policy is not None:
                run = self.run(each.name)
                yield Step(each.name, ["policy", place, *each.policy.split(), *rows], run is not None and run.policies() is not None)
        for whole in self.plan.whole:
            yield from self._evaluation(whole)

    def _evaluation(self, whole: WholePlan) -> Iterator[Step]:
        reached = self.look(whole)
        for name in whole.runs:
            yield self._answered(name, "whole", whole.primary, self.settings(name).looks[reached])
        if self.stopped(whole):
            for name in whole.runs:
                plan = self.settings(name)
                methods = [m for m in whole.methods if "policy=" not in m or plan.policy is not None]
                yield self._answered(name, "whole", methods, plan.looks[reached])
                if plan.transfer is not None and plan.transfer_n is not None:
                    yield self._answered(name, "transfer", whole.primary[:1], plan.transfer_n, "--task", plan.transfer)
                    yield self._answered(name, "layers", self.layers(name), plan.transfer_n)

    def layers(self, name: str) -> list[str]:
        """The published gate with the entries of each harvested layer alone, and with the middle one's at its two neighbours."""
        run = self.run(name)
        if run is None or run.results_only:  # its layers are in the stages that do not ship
            return []
        actions = run.manifest("actions")
        own = sorted(actions.layers)
        middle = own[len(own) // 2]
        moved = [at for at in (middle - 1, middle + 1) if 0 <= at < actions.model.n_layers]
        return [*(f"stir:layer={layer}" for layer in own), *(f"stir:at={at},layer={middle}" for at in moved)]

    def _answered(self, name: str, label: str, methods: Sequence[str], n: int, *more: str) -> Step:
        rows = str(self.settings(name).rows)
        command = ["eval", str(self.runs / name), "--methods", *methods, "--n", str(n), "--label", label, "--rows", rows, *more]
        run = self.run(name)
        folder = EvaluationFolder(run, label) if run else None
        done = False
        if folder and folder.begun and (spec := folder.spec()).n + len(spec.left_out) >= n:
            done = all(len(self.answers(name, label, m)) >= spec.n for m in (spec.baseline, *methods))
        return Step(name, command, done)

    def look(self, whole: WholePlan) -> int:
        """The look that the primary methods are at, from 0: the first that is not whole, or at which they have stopped, or the last."""
        count = len(self.settings(whole.runs[0]).looks)
        for look in range(count):
            wanted = {name: self.settings(name).looks[look] for name in whole.runs}
            if not all(self._answered(name, "whole", whole.primary, n).done for name, n in wanted.items()) or self._stop(whole, look):
                return look
        return count - 1

    def stopped(self, whole: WholePlan) -> bool:
        """Whether all primary methods have stopped."""
        return self._stop(whole, self.look(whole))

    def _stop(self, whole: WholePlan, look: int) -> bool:
        pooled, wanted = self.pooled(whole, whole.primary, look), self._wanted(whole, look)
        return bool(pooled) and all(each.stops and each.problems >= wanted for each in pooled)

    def _wanted(self, whole: WholePlan, look: int) -> float:
        """Problems at which a look is whole; a few may be left out, since they overlap with what was mined."""
        return 0.98 * sum(self.settings(name).looks[look] for name in whole.runs)

    def pooled(self, whole: WholePlan, methods: Sequence[str], look: int) -> list[Pooled]:
        """Methods against vanilla over the problems of a look that both have answered, of all runs.

        Only the problems of the look count: answers to later ones may be there, and would make looks that were not planned.
        """
        bounds = looks(len(self.settings(whole.runs[0]).looks), whole.level)
        found = []
        for method in methods:
            gaps = []
            for name in whole.runs:
                base, own = self.answers(name, "whole", "vanilla"), self.answers(name, "whole", method)
                asked = [each for each in self.problems(name)[: self.settings(name).looks[look]] if each in base and each in own]
                gaps += [float(answered_right(own[id_])) - float(answered_right(base[id_])) for id_ in asked]
            if not gaps:
                continue
            difference, _ = clustered_difference([[gap] for gap in gaps])
            won, lost = gaps.count(1.0), gaps.count(-1.0)
            p, stops = mcnemar(won, lost), None
            if p <= bounds[look]:
                stops = "the difference is seen"
            elif difference.high is not None and difference.high < WORTH_WHOLE:
                stops = "a gain of 5 points is excluded"
            elif look == len(bounds) - 1:
                stops = "all problems are answered"
            found.append(
                Pooled(method=method, problems=len(gaps), won=won, lost=lost, difference=difference, p=p, bound=bounds[look], stops=stops)
            )
        return found

    def verdicts(self) -> list[Verdict]:
        """Every link of every run."""
        found = []
        for each in self.plan.run:
            name = each.name
            if each.base is not None:
                continue
            own, gate = self.causal(name, "own"), self.causal(name, "gate")
            found += [
                Verdict("1. a shared direction", name, *_shared(self.probe(name))),
                Verdict("2. a problem's own action helps", name, *arm_verdict(own, OWN, RANDOM_ARM, SHUFFLED)),
                Verdict("3. another problem's action helps", name, *arm_verdict(own, ANOTHER)),
                Verdict("4. the retrieved action helps", name, *arm_verdict(own, RETRIEVED, RANDOM_ARM)),
                Verdict("5. the gate's choice helps", name, *arm_verdict(gate, "chosen action", RANDOM_ARM)),
                Verdict("5. the gate knows which action helps", name, *_knows(gate)),
            ]
        for whole in self.plan.whole:
            where = " and ".join(whole.runs)
            look = self.look(whole)
            pooled = {each.method: each for each in self.pooled(whole, whole.primary, look)}
            wanted = self._wanted(whole, look)
            found += [Verdict(f"6. the whole helps: `{method}`", where, *_whole(pooled.get(method), wanted)) for method in whole.primary]
        order = list(dict.fromkeys(each.link for each in found))
        return sorted(found, key=lambda each: order.index(each.link))


def _shared(file: Path) -> tuple[str, str]:
    if not file.is_file():
        return "not measured", ""
    report = read_record(file, ProbeReport, "delete it, and the protocol makes it again")
    tested = [each for each in report.pooled if each.p is not None and each.auc is not None]
    best = min(tested, key=lambda each: each.p or 0.0, default=None)
    if best is None:
        return "cannot tell", report.verdict
    seen = f"{best.readout}, layer {best.layer}: AUC {best.auc:.2f} [{best.low:.2f}, {best.high:.2f}], "
    seen += f"{best.problems} problems, {_p(best.p_holm)} (Holm); `stir probe`: {report.outcome}"
    if any((each.p_holm or 1.0) < LEVEL and (each.auc or 0.0) > 0.5 for each in tested):
        return "yes", seen
    return ("no" if all(each.high is not None and each.high < WORTH for each in tested) else "cannot tell"), seen


def arm_verdict(report: CausalReport | None, arm: str, *controls: str) -> tuple[str, str]:
    """The verdict on an arm, and what was seen: yes only where it is above null and all of these controls, each of them measured."""
    if report is None:
        return "not measured", ""
    found: dict[tuple[str, str], ArmEffect] = {(each.arm, each.against): each for each in report.effects}
    against = found.get((arm, NULL_ARM))
    p = None if against is None else against.p if against.p_holm is None else against.p_holm
    if against is None or p is None:
        return "cannot tell", f"{report.states} states"
    seen = f"{against.advantage:+.1%}, {against.states} states of {against.problems} problems, {_p(p)}"
    seen += "" if against.p_holm is None else " (Holm)"
    if verdict_of(against.advantage.value, p) == "helps":
        asked = [name for name in (RANDOM_ARM, SHUFFLED) if name in controls or (arm, name) in found]
        above = [name for name in asked if (each := found.get((arm, name))) and verdict_of(each.advantage.value, each.p) == "helps"]
        equal = [name for name in asked if name not in above]
        return ("cannot tell", f"{seen}; not told apart from {' and '.join(equal)}") if equal else ("yes", seen)
    return ("no" if against.advantage.high is not None and against.advantage.high < WORTH_HAVING else "cannot tell"), seen


def _p(value: float | None) -> str:
    return "" if value is None else "p < 0.001" if value < 0.0005 else f"p = {value:.3f}"


def _whole(pooled: Pooled | None, wanted: float) -> tuple[str, str]:
    if pooled is None:
        return "not measured", ""
    if pooled.problems < wanted:  # nothing is said between looks
        return "not measured", f"{pooled.problems} problems answered, before a look"
    seen = f"{pooled.difference:+.1%} of {pooled.problems}, {pooled.won} won, {pooled.lost} lost, "
    seen += ("p < 0.00001" if pooled.p < 0.000005 else f"p = {pooled.p:.5f}") + f" (bound {pooled.bound:.5f})"
    if pooled.p <= pooled.bound:
        return ("yes" if pooled.difference.value > 0 else HARMS), seen
    high = pooled.difference.high
    return ("no" if high is not None and high < WORTH_WHOLE else "cannot tell"), seen


def _knows(report: CausalReport | None) -> tuple[str, str]:
    if report is None:
        return "not measured", ""
    margin = next((each for each in report.predictors if each.name == "margin"), None)
    if margin is None or margin.spearman is None or margin.low is None or margin.high is None:
        return "cannot tell", f"{report.states} states"
    seen = f"rank correlation {margin.spearman:+.2f} [{margin.low:+.2f}, {margin.high:+.2f}], {margin.points} candidates"
    return ("yes" if margin.low > 0 else "no" if margin.high < KNOWS else "cannot tell"), seen


def _acting(run: Run) -> str:
    """Where retrieval takes an action, and what it does there: a nearest entry that is null draws link 4's difference to 0."""
    rolls = by_arm(CausalFolder(run, "own").rolls())
    states = [state for state, arm in rolls if arm == RETRIEVED]
    acting = [state for state in states if any(roll.alpha for roll in rolls[state, RETRIEVED].values())]
    found = effect(rolls, acting, lambda state: RETRIEVED, RETRIEVED, NULL_ARM)
    there = "" if found is None else f": {found.advantage:+.1%} against null there"
    return f" The nearest entry is an action, not null, at {len(acting)} of {len(states)} states of link 4{there}." if states else ""


def markdown(protocol: Protocol) -> str:
    """The table of links, and for each run where its chain breaks."""
    verdicts = protocol.verdicts()
    rows = [(each.link, each.run, each.says, each.seen) for each in verdicts]
    lines = [tabulate(rows, ("link", "run", "verdict", "seen"), "github", disable_numparse=True), ""]
    for each in protocol.plan.run:
        own = [verdict for verdict in verdicts if each.name in verdict.run.split(" and ")]
        broken = next((verdict for verdict in own if verdict.says in ("no", HARMS)), None)
        open_ = list(dict.fromkeys(verdict.link[:1] for verdict in own if verdict.says in ("cannot tell", "not measured")))
        if all(verdict.says == "not measured" for verdict in own):
            lines.append(f"- `{each.name}`: not measured yet.")
            continue
        if each.base is not None:
            found = "; ".join(f"{verdict.link.partition(': ')[2]}: {verdict.says}" for verdict in own)
            lines.append(f"- `{each.name}`: only the whole is asked of it, since its rollouts are those of another run ({found}).")
        else:
            said = 'breaks at link {} ("{}")'.format(*broken.link.split(". ")) if broken else "is not seen to break"
            lines.append(f"- `{each.name}`: the chain {said}" + (f". Not settled: {', '.join(open_)}." if open_ else "."))
        if run := protocol.run(each.name):
            counts = run.counts("rollouts")
            right, cut = (counts[name] / counts["rollouts"] for name in ("correct", "unfinished"))
            caveat = " Its links are read with that caveat." if cut > CUT_OFF else ""
            lines[-1] += f" Of its {counts['rollouts']:,} rollouts {right:.0%} are right and {cut:.0%} have no finished answer.{caveat}"
            lines[-1] += _acting(run) if protocol.causal(each.name, "own") else ""
    return "\n".join(lines)


def go_on(protocol: Protocol, hours: float, changes: Sequence[str], only: str | None) -> bool:
    """Run what is missing until time is over; whether nothing is missing any more.

    Raises:
        StirError: a command failed.
    """
    for each in protocol.plan.run:  # before hours are spent on another run
        if only in (None, each.name) and not (place := protocol.file.parent / each.config).is_file():
            raise ConfigError(f"{protocol.file}: run {each.name} has config = {each.config!r}, and there is no file {place}")
    end = time.monotonic() + 3600 * hours
    while True:
        step = next((each for each in protocol.steps() if not each.done and (only is None or each.run == only)), None)
        if step is None:
            return True
        left = end - time.monotonic()
        if left < 1:
            return False
        command, kept = [*step.command], None
        if command[0] == "run":
            command += [word for change in changes for word in ("--set", change)]
        if command[0] in ("probe", "benchmarks"):
            kept = protocol.probe(step.run) if command[0] == "probe" else protocol.benchmarks
        else:
            command += ["--max-time", f"{max(1, int(left))}s"]
        print(_line(command), file=sys.stderr, flush=True)
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = stir(command) if step.run else benchmarks(command[1:])
        if kept is not None and (code == 0 or not step.run):  # figures of the machine say themselves whether all was equal
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_whole(kept, said.getvalue().encode("utf-8"))
        if step.run and code == 1:
            raise StirError("interrupted, nothing is lost: the same command goes on")
        if step.run and code == 3:  # time is over
            return False
        if any(each.command == step.command and not each.done for each in protocol.steps()):
            raise StirError(f"`{_line(command)}` ended with exit code {code}, and its result is not there: see its output above")


def main(argv: list[str] | None = None) -> int:
    """Go on with the protocol, and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.protocol", description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("file", nargs="?", type=Path, default=FILE, help="protocol file (default: configs/protocol.toml)")
    parser.add_argument("--runs", type=Path, default=Path("runs/protocol"), help="folder of the runs (default: runs/protocol)")
    parser.add_argument("--hours", type=float, default=3.0, help="stop when a result is finished after this time (default: 3)")
    parser.add_argument("--only", metavar="RUN", help="only the steps of this run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="changes", help="with --only: change a key of this run's config"
    )
    parser.add_argument("--report", action="store_true", help="run nothing, print the table of what is there")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    arguments = parser.parse_args(argv)
    if arguments.changes and not arguments.only:
        parser.error(f"--set {arguments.changes[0]} would change the config of every run: add --only RUN")
    if not math.isfinite(arguments.hours):
        parser.error(f"--hours {arguments.hours} is no time: give a number of hours")
    try:
        protocol = Protocol(arguments.file, arguments.runs)
        if arguments.only is not None and arguments.only not in (names := [each.name for each in protocol.plan.run]):
            raise ConfigError(f"--only {arguments.only} is no [[run]] of {arguments.file}: {', '.join(names)}")
        if not arguments.report:
            whole = go_on(protocol, arguments.hours, arguments.changes, arguments.only)
            done = "The protocol is finished." if arguments.only is None else f"Nothing is left to do of {arguments.only} alone."
            print(done if whole else "Time is over; the same command goes on.", file=sys.stderr)
        print(json.dumps([each._asdict() for each in protocol.verdicts()], indent=1) if arguments.json else markdown(protocol))
    except StirError as error:
        print(f"protocol: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
