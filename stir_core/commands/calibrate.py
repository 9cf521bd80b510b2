"""``stir calibrate``: are the instruments right where the truth is known?"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stir_core.commands.console import Command, print_json, progress, table
from stir_core.config import section_from
from stir_core.requests import EvaluationRequest

if TYPE_CHECKING:
    from stir_core.findings import RungReport

SHIPPED = ("two_habits", "hidden_kind", "null")
"""The embedded organisms."""


def add(command: Command) -> None:
    """Add ``stir calibrate``."""
    description = "Judge the instruments on organisms, whose truth is known; exit code 1 if one fails. Resumes."
    calibrate = command("calibrate", _calibrate, description, "--json")
    default = " ".join(SHIPPED)
    calibrate.add_argument("rungs", nargs="*", metavar="RUNG", help=f"shipped rungs, or folders of organisms (default: {default})")
    calibrate.add_argument("--out", type=Path, default=Path("runs/calibration"), help="folder of the runs (default: runs/calibration)")
    calibrate.add_argument("--n", type=int, help="held-out problems (default: 500, with --quick 40)")
    calibrate.add_argument("--quick", action="store_true", help="a smaller harvest and fewer problems")


def _calibrate(arguments: argparse.Namespace) -> int:
    from stir_core.calibrate.ladder import calibrate

    names = [name if Path(name).is_dir() else f"organism:{name}" for name in arguments.rungs or SHIPPED]
    n = (40 if arguments.quick else 500) if arguments.n is None else arguments.n
    section_from(EvaluationRequest, {"n": n})  # refused before anything is harvested
    out = arguments.out / ("quick" if arguments.quick else "full")
    with progress() as report:
        found = calibrate(names, out, n=n, quick=arguments.quick, report=report)
    passed, failed = ([mark for mark in found.marks if mark.passed == side] for side in (True, False))
    if arguments.json:
        print_json({"rungs": {name: _plain(rung) for name, rung in found.rungs.items()}, "passed": passed, "failed": failed})
    else:
        rows = [[mark.rung, mark.instrument, mark.expected, mark.seen, "pass" if mark.passed else "FAIL"] for mark in found.marks]
        table(["rung", "instrument", "expected", f"seen ({n} problems)", ""], rows)
    return 1 if failed else 0


def _plain(rung: "RungReport") -> dict[str, Any]:
    """A rung's figures: right answers of every arm, and what the instruments said."""
    from stir_core.calibrate.ladder import ARMS, method_of

    arms = {arm: method_of(rung.published, name) for arm, name in ARMS.items()}
    arms["calibrated"] = method_of(rung.calibrated, "stir")
    counts = {name: {"right": arm.right, "of": arm.answers} for name, arm in arms.items()}
    return counts | {"gate_auc": rung.gate_auc, "planted_cosine": rung.planted_cosine, "gate": rung.gate, "margins": rung.margins}
