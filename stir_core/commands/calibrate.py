"""``stir calibrate``: are the instruments right where the truth is known?"""

import argparse
from pathlib import Path

from stir_core.commands.console import Command, place, print_json, progress, say, table
from stir_core.commands.flags import add_fields, asked, executing
from stir_core.requests import CallBudget, ExecutorRequest


def add(command: Command) -> None:
    """Add ``stir calibrate``."""
    description = "Judge the instruments on organisms, whose truth is known; exit code 1 if one fails. Resumes."
    calibrate = command("calibrate", _calibrate, description, "--json")
    calibrate.add_argument("rungs", nargs="*", metavar="RUNG", help="embedded rungs, or folders of organisms (default: all embedded ones)")
    out = "folder of the runs and of the result, calibration.json (default: runs/calibration)"
    calibrate.add_argument("--out", type=place, default=Path("runs/calibration"), help=out)
    calibrate.add_argument("--n", type=int, help="held-out problems (default: 500, with --quick 40)")
    add_fields(calibrate, CallBudget)
    add_fields(calibrate, ExecutorRequest)
    calibrate.add_argument("--quick", action="store_true", help="a smaller harvest and fewer problems")


def _calibrate(arguments: argparse.Namespace) -> int:
    from stir_core.calibration.ladder import calibrate

    with progress(asked(arguments, CallBudget)) as report, executing(arguments) as pool:
        found = calibrate(arguments.rungs, arguments.out, n=arguments.n, quick=arguments.quick, report=report, pool=pool)
    if arguments.json:
        print_json(found)
    else:
        rows = [[mark.rung, mark.instrument, mark.expected, mark.seen, "pass" if mark.passed else "FAIL"] for mark in found.marks]
        table(["rung", "instrument", "expected", f"seen ({found.problems} problems)", ""], rows)
        say(f"{len(found.passed)} of {len(found.marks)} marks passed; the page Calibration shows the result")
    return 1 if found.failed else 0
