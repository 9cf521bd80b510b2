"""What every instrument has to show on a rung, beside what it shows. Pure: a rung's report in, marks out. A missing figure fails."""

from collections.abc import Iterator
from math import nan
from typing import get_args

from stir_core.evaluate.statistics import LEVEL, wilson
from stir_core.findings import EstimatorCheck, Mark, RungMethod, RungReport
from stir_core.organisms.rungs import RUNGS, Habit, is_right
from stir_core.tasks.chain import KINDS

FEW = 200
"""Below so many held-out problems, marks ask for what so few can show."""
FEW_CLUSTERS = 20
"""Likewise for the problems of a causal study."""
HELPED = ("one_habit", "two_habits")
"""Rungs on which a sound method helps; on all others it abstains."""


def marks_of(rung: RungReport) -> list[Mark]:
    """All marks of a rung."""
    return [*_steering(rung), *_mining(rung), *_gate(rung), *_controls(rung), *_estimator(rung)]


def _mark(rung: RungReport, instrument: str, expected: str, seen: str, passed: bool, why: str = "") -> Mark:
    return Mark(rung=rung.rung, instrument=instrument, expected=expected, seen=seen, passed=passed, why=why)


def _steering(rung: RungReport) -> Iterator[Mark]:
    """Accuracy of methods against vanilla."""
    few, stir, default, noise, oracle = rung.vanilla.of < FEW, rung.stir, rung.default, rung.noise, rung.oracle
    if rung.rung in HELPED:
        level = 1e-3 if few else 1e-6
        enough = _points(stir) >= 20 and stir.p is not None and stir.p < level
        yield _mark(rung, "published gate", f"at least +20 points, p < {level:g}", f"{_shown(stir)}, p {_p(stir)}", enough)
        yield _mark(rung, "abstaining gate", "at least +25 points", _shown(default), _points(default) >= 25)
    else:
        bound = default.difference.bounds[0] if default.difference else nan
        expected = "harms by less than 3 points" + ("" if few else " (lower end of the interval)")
        yield _mark(rung, "abstaining gate", expected, _shown(default), (_points(default) if few else 100 * bound) > -3)
    if RUNGS[rung.rung].right is not None:
        seen = f"{oracle.accuracy.value:.1%} of {oracle.of}"
        yield _mark(rung, "oracle", "at least 97 % right", seen, oracle.accuracy.value >= 0.97)
    else:
        why = "No habit decides, so nothing needs correcting."
        yield _mark(rung, "oracle", "changes nothing", _shown(oracle), oracle.won == oracle.lost == 0, why)
    expected, null = ("no effect (p >= 0.05)", (noise.p or 0) >= LEVEL) if few else ("within 3 points of vanilla", abs(_points(noise)) <= 3)
    yield _mark(rung, "noise of the actions' norm", expected, f"{_shown(noise)}, p {_p(noise)}", null)
    if rung.rung == "two_habits":
        why = "Mined actions of both signs need not cancel in their mean, so that it stays below vanilla is not certain."
        static = _points(stir) - _points(rung.static) >= 20
        yield _mark(rung, "static vector", "at least 20 points below the published gate", _shown(rung.static), static, why)
        why = "It keeps the true keys, so it is no null of the whole method; noise of the same norm is."
        yield _mark(rung, "shuffled labels", "below the published gate", _shown(rung.shuffled), _points(rung.shuffled) < _points(stir), why)


def _mining(rung: RungReport) -> Iterator[Mark]:
    """Harvested actions and the basis against the planted direction."""
    planted = RUNGS[rung.rung]
    if planted.right is None:
        return
    seen = f"{_number(rung.planted_cosine)} ({rung.controls.actions} actions)"
    yield _mark(rung, "actions", "median cosine with the planted direction at least 0.8", seen, (rung.planted_cosine or 0) >= 0.8)
    if is_right(planted, "P", "add") == is_right(planted, "P", "sub"):
        return  # one sign is right everywhere
    picks, total = {(each.kind, each.towards): each.picks for each in rung.picks}, sum(each.picks for each in rung.picks)
    rights = {(kind, habit): 0 for kind in KINDS for habit in get_args(Habit) if is_right(planted, habit, kind)}
    own = rights | {place: count for place, count in picks.items() if place in rights}
    seen = f"{', '.join(f'{count} for {kind} towards {habit}' for (kind, habit), count in own.items())}, of {total}"
    covered = total > 0 and min(own.values()) >= total / 4
    yield _mark(rung, "basis", "both kinds, each with its own sign, a quarter of the picks each", seen, covered)


def _gate(rung: RungReport) -> Iterator[Mark]:
    """Retrieval and gates against the habit that the writer is in."""
    helped = rung.rung in HELPED
    if helped:
        told = rung.retrieval
        seen = _number(rung.retrieval_auc) + (f" ({told.pairs} pairs, {told.problems} problems)" if told else "")
        expected = "AUC of the key margin, by other problems' keys, at least 0.8"
        yield _mark(rung, "retrieval", expected, seen, (rung.retrieval_auc or 0) >= 0.8)
        points = sum(each.wrong + each.right for each in rung.gate)
        yield _mark(
            rung, "gate ROC", "area at least 0.8", f"{_number(rung.gate_auc)} ({points} control points)", (rung.gate_auc or 0) >= 0.8
        )
        seen, rises = "not measured", False
        if rung.gate_bins and points:
            last, everywhere = rung.gate_bins[-1], sum(each.wrong for each in rung.gate) / points
            seen = f"{last.measured.value:.0%} of {last.points} at the largest, {everywhere:.0%} of all {points}"
            rises = last.measured.value >= everywhere + 0.5
        why = "Where only null entries are near there is no margin, so that all margins may be of the wrong habit."
        expected = "wrong habit at least 50 points more often at the largest margins than at all control points"
        yield _mark(rung, "gate calibration", expected, seen, rises, why)
    for name, gate in (("published", rung.gate), ("abstaining", rung.default_gate)):
        if helped or name == "abstaining":
            commits, harmed = sum(each.fired_wrong + each.fired_right for each in gate), sum(each.harmed for each in gate)
            yield _mark(
                rung, f"commits, {name} gate", "at most 5 % harm an answer", f"{harmed} of {commits} commits", harmed <= 0.05 * commits
            )


def _controls(rung: RungReport) -> Iterator[Mark]:
    """The confound controls: length is flagged where it is all there is, and not where a habit decides."""
    counts, length = rung.controls, f"{rung.controls.length} of {rung.controls.actions} flagged as length"
    if rung.rung == "length":
        flagged = 2 * counts.length >= counts.actions > 0
        yield _mark(rung, "confound controls", "flag at least half of the actions as length", length, flagged)
    elif rung.rung == "null":
        few = 0 < counts.actions >= 10 * counts.passes
        yield _mark(rung, "confound controls", "pass at most one action in ten", f"{counts.passes} of {counts.actions} pass", few)
    elif RUNGS[rung.rung].right is not None:
        flagged = 2 * counts.length < counts.actions
        yield _mark(rung, "confound controls", "flag less than half of the actions as length", length, flagged)


def _estimator(rung: RungReport) -> Iterator[Mark]:
    """The causal estimator against the known effects, as far as so few studies can tell."""
    checks = {check.action: check for check in rung.estimator}
    for action in ("planted", "random direction"):
        if check := checks.get(action):
            why = f"So few studies exclude no more; the simulation has many. Known effect {check.effect:+.3f}."
            covers = wilson(check.covered, check.studies).bounds[1] >= 0.93
            seen = _studies(check.covered, check)
            yield _mark(rung, f"causal interval, {action}", "holds the known effect (0.93 is not excluded)", seen, covers, why)
    if check := checks.get("planted"):
        least = 0.8 if check.problems >= FEW_CLUSTERS else 0.2
        seen, why = _studies(check.seen, check), f"Known effect {check.effect:+.3f}."
        yield _mark(rung, "causal power", f"effect seen in at least {least:.0%}", seen, check.seen >= least * check.studies, why)
        seen, why = _studies(check.first, check), "Against its opposite, tone and noise."
        yield _mark(rung, "causal ranking", "planted action first in nine of ten", seen, check.first >= 0.9 * check.studies, why)
    if check := checks.get("random direction"):
        alarms = wilson(check.seen, check.studies).bounds[0] <= LEVEL
        yield _mark(rung, "causal false alarms", "at most 5 % (not excluded)", _studies(check.seen, check), alarms)


def _studies(count: int, check: EstimatorCheck) -> str:
    return f"{count} of {check.studies} studies of {check.problems} problems"


def _points(method: RungMethod) -> float:
    return 100 * method.difference.value if method.difference else 0.0


def _shown(method: RungMethod) -> str:
    return f"{_points(method):+.1f} points ({method.won} won, {method.lost} lost of {method.of})"


def _p(method: RungMethod) -> str:
    return "not measured" if method.p is None else f"{method.p:.1g}"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"
