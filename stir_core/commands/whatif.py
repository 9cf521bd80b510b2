"""``stir whatif``: a recorded answer with one decision changed, decoded on from there. Changes may follow each other."""

import argparse
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stir_core.commands.console import Command, table
from stir_core.commands.flags import add_answering, answering
from stir_core.errors import DataError, PromptError

if TYPE_CHECKING:
    from stir_core.intervene.session import Session
    from stir_core.records import Problem, Trace


class _Link(argparse.Action):
    """``--at`` begins a change; the flags behind it say what it is."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        chain: list[dict[str, Any]] = list(getattr(namespace, "chain", None) or [])
        if option_string == "--at":
            chain.append({"m": values})
        elif not chain:
            parser.error(f"{option_string} says what is changed at a control point: write --at M before it")
        else:
            key, value = {"--deny": ("to", "null"), "--force": ("to", values)}.get(option_string, (self.dest, values))
            if key in chain[-1]:
                parser.error(f"{option_string}: this change says already what is done: begin another one with --at")
            chain[-1] |= {key: value}
        namespace.chain = chain


def add(command: Command) -> None:
    """Make the parser."""
    whatif = command("whatif", _whatif, "Take a recorded answer up again at a control point with the decision changed, and decode on.")
    whatif.add_argument("run", help='run folder, or "demo"')
    whatif.add_argument("problem", help="a held-out problem, whose recorded steered answer is taken up, or a question, answered first")
    add_link = whatif.add_argument
    add_link(
        "--at",
        type=_count,
        action=_Link,
        required=True,
        metavar="M",
        help="control point: the number of steps before it; another --at goes on from there",
    )
    add_link("--force", action=_Link, metavar="ENTRY", help="inject this entry's action; without it and --deny the decision is kept")
    add_link("--deny", action=_Link, nargs=0, help="choose null: no impulse")
    add_link("--alpha", type=_finite, action=_Link, help="multiple of the action vector; default: what the gate would inject")
    add_link("--then", choices=("gate", "null"), action=_Link, help="who decides behind the change (default: the gate)")
    whatif.add_argument("--raw", action="store_true", help="send a question as typed, without the task's template")
    add_answering(whatif)
    whatif.add_argument("--model", help="another place where the run's own model lies")
    whatif.add_argument("--json", action="store_true", help="print JSON")


def _whatif(arguments: argparse.Namespace) -> int:
    from stir_core.intervene.changes import Change
    from stir_core.intervene.session import open_session
    from stir_core.models.loading import model_of
    from stir_core.records import TraceEvent
    from stir_core.store.runs import Run

    run = Run.open(arguments.run)
    changes = [Change(**link) for link in arguments.chain]
    for change in changes:
        if change.alpha is not None and not change.forces:
            raise DataError(f"--alpha {change.alpha:g} is the strength of an action: name one with --force")
    changed = answering(arguments, run.config)
    held_out = {problem.id: problem for problem in run.problems("steered")} if run.finished("steered") else {}
    problem = held_out.get(arguments.problem)
    prompt = problem or str(arguments.problem)
    if isinstance(prompt, str) and not prompt.strip():
        raise PromptError("the prompt is empty: write a question")
    run.folder("basis")
    model = model_of(run.config.model, arguments.model)
    session = open_session(run, model)
    recorded = {trace.id: trace for trace in run.traces("steered")} if problem and changed is run.config else {}
    origin = recorded[problem.id] if problem and recorded else _answered(session, prompt, changed, raw=arguments.raw)
    answers = [origin]
    for change in changes:
        events = session.branch(answers[-1], [change], changed.gate, changed.decode, problem=problem)
        answers += [event.trace for event in events if isinstance(event, TraceEvent)]
    if arguments.json:
        told = {"origin": origin.model_dump(mode="json")}
        branches = [
            {"change": change.model_dump(mode="json"), "trace": trace.model_dump(mode="json")}
            for change, trace in zip(changes, answers[1:], strict=True)
        ]
        print(json.dumps(told | {"branches": branches}, ensure_ascii=False))
        return 0
    _print(answers)
    return 0


def _answered(session: "Session", prompt: "str | Problem", config: Any, *, raw: bool) -> "Trace":
    from stir_core.intervene.session import STEERED
    from stir_core.records import TraceEvent

    events = session.compare(prompt, config.gate, config.decode, raw=raw)
    return next(event.trace for event in events if isinstance(event, TraceEvent) and event.row == STEERED)


def _print(answers: "Sequence[Trace]") -> None:
    first, last = answers[0], answers[-1]
    rows = []
    for place in range(max(len(first.steps), len(last.steps))):
        cells = [trace.steps[place] if place < len(trace.steps) else None for trace in (first, last)]
        told = [f"[{step.decision.chosen} x {step.decision.alpha:.3f}] " if step and step.decision.chosen else "" for step in cells]
        same = cells[0] is not None and cells[1] is not None and cells[0].token_ids == cells[1].token_ids
        texts = [mark + (repr(step.text) if step else "-") for mark, step in zip(told, cells, strict=True)]
        rows.append([str(place + 1), "=" if same else "", *texts])
    table(["m", "", "recorded", "branch"], rows)
    for name, trace in zip(["recorded", *(f"branch {n}" for n in range(1, len(answers)))], answers, strict=True):
        verdict = f", {'right' if trace.verdict.correct else 'wrong'} ({trace.verdict.reason})" if trace.verdict else ""
        print(f"{name}: {trace.tokens_used} tokens, {trace.forward_tokens} run through the model; {trace.finish}{verdict}")
    pairs = zip(first.token_ids, last.token_ids, strict=False)
    at = next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(first.token_ids), len(last.token_ids)))
    equal = first.token_ids == last.token_ids
    print("the branch equals the recorded answer, token for token" if equal else f"the branch differs from token {at + 1} on")


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return number
