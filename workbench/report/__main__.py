"""What ``stir report`` starts: writes the report of a run, or its figures; its one argument is that command's arguments as JSON."""

import json
import os
import sys
from pathlib import Path

from stir_core.commands.console import say
from stir_core.commands.report import SECTIONS
from stir_core.errors import FAULTS, DataError, StoreError, line_of
from stir_core.store.files import write_whole
from stir_core.store.runs import Run
from stir_core.store.saved import SavedFolder
from workbench.report.document import Selected, report_html
from workbench.report.figures import run_figures, write_figures
from workbench.shared.facts import RunFacts


def write_report(words: str) -> int:
    """Write what is asked for, and print the files; a refusal is one line on stderr and exit code 2."""
    asked = json.loads(words)
    try:
        facts = RunFacts(Run.open(asked["run"]))
        selected = Selected(tuple(asked["only"] or SECTIONS), tuple(asked["action"] or ()), tuple(asked["saved"] or ()))
        for name, section in (("action", "actions"), ("saved", "saved")):
            if asked[name] and section not in selected.sections:
                raise DataError(f"--{name} chooses what the section {section} holds: name it with --only, too, or leave it out")
        out = Path(asked["out"] or f"{facts.name}-report.html")
        whole = bool(asked["out"] or not asked["figures"])
        if whole and out.exists():
            raise StoreError(f"{out} exists: choose another --out, nothing is overwritten")
        if asked["figures"]:
            wanted = [figure for figure in run_figures(facts, selected.actions) if figure.section in selected.sections]
            for file in write_figures(wanted, Path(asked["figures"])):
                say(file)
        if whole:
            folder = SavedFolder(asked["runs"] or os.environ.get("STIR_RUNS") or "runs")
            write_whole(out, report_html(facts, selected, folder).encode("utf-8"))
            say(f"{out} ({out.stat().st_size / 1000:,.0f} kB)")
    except FAULTS as error:
        say(f"stir: {line_of(error)}", error=True)
        return 2
    except KeyboardInterrupt:
        say("stir: interrupted; no part of a report is kept, of the figures those named above", error=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(write_report(sys.argv[1]))
