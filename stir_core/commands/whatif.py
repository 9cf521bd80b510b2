"""``stir whatif``: a recorded answer with one decision changed, decoded from there. Changes may follow each other."""

import argparse
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from stir_core.commands.console import Command, asked_prompt, ending, print_json, say, table
from stir_core.commands.flags import add_answering, answering
from stir_core.config import section_from, with_changes
from stir_core.errors import DataError

if TYPE_CHECKING:
    from stir_core.records import Trace


class _Link(argparse.Action):
    """``--at`` begins a change; the flags after it complete it."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        chain: list[dict[str, Any]] = list(getattr(namespace, "chain", None) or [])
        if option_string == "--at":
            chain.append({"m": values})
        elif not chain:
            parser.error(f"{option_string} changes the decision at a control point: write --at M before it")
        else:
            key, value = {"--deny": ("to", "null"), "--force": ("to", values)}.get(option_string, (self.dest, values))
            if key in chain[-1]:
                parser.error(f"{option_string}: this change is complete already: begin another one with --at")
            chain[-1] |= {key: value}
        namespace.chain = chain


def add(command: Command) -> None:
    """Add ``stir whatif`` and its arguments."""
    description = "Continue a recorded answer from a control point with the decision there changed."
    whatif = command("whatif", _whatif, description, "run", "--model", "--json")
    whatif.add_argument("problem", help="a held-out problem, whose recorded steered answer is continued, or a question, answered first")
    add_link = whatif.add_argument
    at = "control point: the number of steps before it; another --at continues from the changed answer"
    add_link("--at", type=int, action=_Link, required=True, metavar="M", help=at)
    add_link("--force", action=_Link, metavar="ENTRY", help="inject this entry's action; without it and --deny the decision is kept")
    add_link("--deny", action=_Link, nargs=0, help="choose null: no impulse")
    alpha = "multiple of the action vector; below 0 it pushes the opposite way (default: the multiple that the gate would inject)"
    add_link("--alpha", type=float, action=_Link, help=alpha)
    add_link("--then", choices=("gate", "null"), action=_Link, help="what decides after the change (default: the gate)")
    whatif.add_argument("--raw", action="store_true", help="send a question as typed, without the task's template")
    add_answering(whatif)


def _whatif(arguments: argparse.Namespace) -> None:
    from stir_core.intervene.session import open_session
    from stir_core.models.loading import model_of
    from stir_core.records import TraceEvent
    from stir_core.requests import Change
    from stir_core.store.runs import Run

    run = Run.open(arguments.run)
    changes = [section_from(Change, link, {"m": "--at", "alpha": "--alpha"}) for link in arguments.chain]
    for change in changes:
        if change.alpha is not None and not change.forces:
            raise DataError(f"--alpha {change.alpha:g} is the strength of an action: name one with --force")
    changed = answering(arguments, run.config)
    gate = with_changes(changed.gate, previews="all")  # any candidate may be forced, at the strength that its preview gives
    prompt, problem = asked_prompt(run, arguments.problem)
    run.folder("basis")
    session = open_session(run, model_of(run.config.model, arguments.model))
    if problem and changed is run.config:
        origin = next(trace for trace in run.traces("steered") if trace.id == problem.id)
    else:
        origin = session.answer(prompt, gate, changed.decode, raw=arguments.raw).steered
    answers = [origin]
    for change in changes:
        events = session.branch(answers[-1], [change], gate, changed.decode, problem=problem)
        answers += [event.trace for event in events if isinstance(event, TraceEvent)]
    if arguments.json:
        branches = [{"change": change, "trace": trace} for change, trace in zip(changes, answers[1:], strict=True)]
        print_json({"origin": origin, "branches": branches})
    else:
        _print(answers)


def _print(answers: "Sequence[Trace]") -> None:
    first, last = answers[0], answers[-1]
    rows = []
    for m, steps in enumerate(zip_longest(first.steps, last.steps)):
        impulses = [f"[{step.decision.chosen} x {step.decision.alpha:.3f}] " if step and step.decision.chosen else "" for step in steps]
        same = all(steps) and steps[0].token_ids == steps[1].token_ids
        texts = [impulse + (repr(step.text) if step else "-") for impulse, step in zip(impulses, steps, strict=True)]
        rows.append([str(m), "=" if same else "", *texts])
    table(["m", "", "recorded", "branch"], rows)
    for name, trace in zip(["recorded", *(f"branch {n}" for n in range(1, len(answers)))], answers, strict=True):
        say(f"{name}: {trace.tokens_used} tokens, {trace.forward_tokens} run through the model; {ending(trace)}")
    pairs = zip(first.token_ids, last.token_ids, strict=False)
    at = next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(first.token_ids), len(last.token_ids)))
    equal = first.token_ids == last.token_ids
    say("the branch equals the recorded answer, token for token" if equal else f"the branch differs from token {at + 1} on")
