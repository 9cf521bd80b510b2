"""Every benchmark in turn: ``python -m benchmarks.all [--quick] [--json] [--write benchmarks/RESULTS.md]``.

With ``--quick`` it asserts equality (tokens, decisions, orders, states) on small sizes, never a time. ``--write`` puts the tables of a full
run between the marks of RESULTS.md, whose prose stays.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import decode, harvest, retrieve, select, steer
from benchmarks.harness import flat, parser, plain, show, table

BEGIN, END = "<!-- figures: written by python -m benchmarks.all --write -->", "<!-- end of figures -->"


def reports(name: str, only: list[str], *, quick: bool) -> dict[str, dict[str, Any]]:
    """All reports by title; each result is printed to stderr when it is ready."""
    parts = {
        "decode, float32": lambda: decode.measure(name, "float32", quick=quick),
        "decode, bfloat16": lambda: decode.measure(name, "bfloat16", quick=quick),
        "steer, float32": lambda: steer.measure(name, "float32", quick=quick),
        "steer, bfloat16": lambda: steer.measure(name, "bfloat16", quick=quick),
        "harvest, float32": lambda: harvest.measure(name, "float32", quick=quick),
        "select": lambda: select.measure(quick=quick),
        "retrieve": lambda: retrieve.measure(quick=quick),
    }
    found = {}
    for title, run in parts.items():
        if (only and not any(title.startswith(word) for word in only)) or (quick and title == "steer, bfloat16"):
            continue  # quick means equality, and bfloat16 has none to offer
        found[title] = run()
        print(f"{title}: {'equal' if found[title]['equal'] else 'DIFFERENT'}", file=sys.stderr)
    return found


def write(path: Path, found: dict[str, dict[str, Any]]) -> None:
    """Replace the text between the marks, section by section; sections that were not measured stay."""
    text = path.read_text(encoding="utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    held = text.split(BEGIN)[1].split(END)[0].split("### ")[1:]
    sections = {section.split("\n", 1)[0]: section.split("\n", 1)[1].strip() for section in held}
    for title, report in found.items():
        facts = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
        parts = [facts, table(report["figures"])]
        for name, rows in report.get("cost_model", {}).items():
            if rows:
                parts.append(f"{name}: " + ", ".join(f"{at}: {plain(value)}" for at, value in rows.items()))
        sections[title] = "\n\n".join(parts)
    body = "\n\n".join(f"### {title}\n\n{section}" for title, section in sections.items())
    path.write_text(head + BEGIN + "\n\n" + body + "\n\n" + END + tail, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Run everything; exit code 1 if an equality check fails."""
    options = parser("all", __doc__)
    options.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only reports whose title begins so, e.g. steer select")
    options.add_argument("--write", type=Path, help="file with marks to write the tables into")
    arguments = options.parse_args(argv)
    found = reports(arguments.model, arguments.only, quick=arguments.quick)
    if arguments.write:
        write(arguments.write, found)
    if arguments.json:
        print(json.dumps({title: flat(report) for title, report in found.items()}, indent=2))
    else:
        for title, report in found.items():
            print(f"\n## {title}")
            show(report, False)
    return 0 if all(report["equal"] for report in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
