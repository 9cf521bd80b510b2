"""``stir report``: figures and numbers of a run as one HTML file that opens offline, and its figures as SVG and PDF files.

The workbench writes both, in a process of its own: this package knows no charts.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from stir_core.commands.console import Command
from stir_core.commands.workbench import workbench_folder

SECTIONS = ("evidence", "actions", "probe", "basis", "gate", "policies", "evaluations", "causal", "codebook", "answers", "saved", "run")
"""Sections of a report, in its order."""


def add(command: Command) -> None:
    """Add ``stir report`` and its arguments."""
    report = command(
        "report",
        _report,
        "Write figures and numbers of a run, whole or half made, as one HTML file that opens offline.",
        "run",
    )
    report.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=f"these sections: {', '.join(SECTIONS)}")
    report.add_argument(
        "--action", nargs="+", metavar="ID", help="these actions (default: five, the one committed most and the first of the basis)"
    )
    report.add_argument("--saved", nargs="+", metavar="ID", help="these pieces of saved work (default: all of the run, at most 20)")
    report.add_argument("--out", type=Path, metavar="FILE", help="the HTML file (default: RUN-report.html)")
    report.add_argument(
        "--figures", type=Path, metavar="FOLDER", help="write the figures here as SVG and PDF files (and HTML only with --out)"
    )
    report.add_argument("--runs", type=Path, help="folder of runs that holds the saved work (default: STIR_RUNS, else ./runs)")


def _report(arguments: argparse.Namespace) -> int:
    asked = {name: getattr(arguments, name) for name in ("run", "only", "action", "saved", "out", "figures", "runs")}
    root = str(workbench_folder().parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    words = [sys.executable, "-P", "-m", "workbench.report", json.dumps(asked, default=str)]
    with subprocess.Popen(words, env=environment) as writer:
        try:
            return writer.wait()
        except KeyboardInterrupt:  # Ctrl-C reaches both; the writer takes away what is half written, and says what is kept
            try:
                return writer.wait(timeout=10)
            except subprocess.TimeoutExpired:
                writer.kill()
                raise
