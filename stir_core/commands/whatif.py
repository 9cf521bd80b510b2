"""``stir whatif``: a recorded answer with a decision or a token changed, decoded from there. Changes may follow each other."""

import argparse
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from stir_core.commands.console import Command, asked_prompt, ending, print_json, say, table
from stir_core.commands.flags import add_answering, answering
from stir_core.config import section_from, with_changes
from stir_core.errors import DataError

if TYPE_CHECKING:
    from stir_core.models.loading import LoadedModel
    from stir_core.records import Trace
    from stir_core.requests import Change

MOST_ROLLS = 10_000
"""Rerolls of one change."""


class _Link(argparse.Action):
    """``--at`` or ``--at-token`` begins a change; the flags after it complete it."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        chain: list[dict[str, Any]] = list(getattr(namespace, "chain", None) or [])
        if option_string == "--at":
            chain.append({"m": values})
        elif option_string == "--at-token":
            if values < 1:
                parser.error(f"--at-token {values}: tokens are counted from 1")
            chain.append({"position": values - 1})
        elif not chain:
            parser.error(f"{option_string} says what is changed at a place: write --at M or --at-token N before it")
        else:
            key, value = {"--deny": ("to", "null"), "--force": ("to", values)}.get(option_string, (self.dest, values))
            if key in chain[-1]:
                parser.error(f"{option_string}: this change is complete already: begin another one with --at")
            chain[-1] |= {key: value}
        namespace.chain = chain


def add(command: Command) -> None:
    """Add ``stir whatif`` and its arguments."""
    description = "Continue a recorded answer from a control point or token with the decision or the token there changed."
    whatif = command("whatif", _whatif, description, "run", "--model", "--json")
    whatif.add_argument("problem", help="a held-out problem, whose recorded answer is continued, or a question, answered first")
    add_link = whatif.add_argument
    at = "control point: the number of steps before it; another --at continues from the changed answer"
    add_link("--at", type=int, action=_Link, metavar="M", help=at)
    at = "token of the answer, counted from 1: what lies before it is kept, and its step's decision, unless --force or --deny change it"
    add_link("--at-token", type=int, action=_Link, metavar="N", help=at)
    put = "put this token there, as text (\"--put=' 12'\") or by its id (id:345); without it the model decodes it"
    add_link("--put", action=_Link, metavar="TOKEN", help=put)
    add_link("--force", action=_Link, metavar="ENTRY", help="inject this entry's action; without it and --deny the decision is kept")
    add_link("--deny", action=_Link, nargs=0, help="choose null: no impulse")
    alpha = "multiple of the action vector; below 0 it pushes the opposite way (default: the multiple that the gate would inject)"
    add_link("--alpha", type=float, action=_Link, help=alpha)
    add_link("--then", choices=("gate", "null"), action=_Link, help="what decides after the change (default: the gate)")
    seed = "sample from there on as rollouts are sampled, from random streams of this number (default: decoded as the answer was)"
    add_link("--seed", type=int, action=_Link, metavar="K", help=seed)
    rolls = "decode the last change N times, with seeds 0 to N - 1: a tree of rerolls; --seed K decodes one of them alone"
    whatif.add_argument("--rolls", type=int, metavar="N", help=rolls)
    whatif.add_argument("--of", choices=("steered", "vanilla"), default="steered", help="which of the two answers (default: steered)")
    whatif.add_argument("--raw", action="store_true", help="send a question as typed, without the task's template")
    add_answering(whatif)


def _whatif(arguments: argparse.Namespace) -> None:
    from stir_core.intervene.changes import decode_after
    from stir_core.intervene.session import open_session
    from stir_core.models.loading import model_of
    from stir_core.records import TraceEvent
    from stir_core.store.runs import Run

    run = Run.open(arguments.run)
    chain = _checked(arguments)
    changed = answering(arguments, run.config)
    gate = with_changes(changed.gate, previews="all")  # any candidate may be forced, at the strength that its preview gives
    prompt, problem = asked_prompt(run, arguments.problem)
    run.folder("basis")
    session = open_session(run, model_of(run.config.model, arguments.model))
    if problem and changed is run.config:
        origin = next(trace for trace in run.traces(arguments.of) if trace.id == problem.id)
    else:
        origin = getattr(session.answer(prompt, gate, changed.decode, raw=arguments.raw), arguments.of)
    changes: list[Change] = []
    rolls: list[Trace] = []
    answers = [origin]
    for number, link in enumerate(chain, start=1):
        change = _change(link, answers[-1], session.model)
        again = arguments.rolls if number == len(chain) else None
        asked = [change] if again is None else [with_changes(change, seed=seed) for seed in range(again)]
        events = session.branch(answers[-1], asked, gate, decode_after(changes, changed.decode, run.config), problem=problem)
        found = {event.row: event.trace for event in events if isinstance(event, TraceEvent)}
        if again is not None:
            rolls = [found[row] for row in range(again)]
            break
        changes.append(change)
        answers.append(found[0])
    if arguments.json:
        branches = [{"change": change, "trace": trace} for change, trace in zip(changes, answers[1:], strict=True)]
        print_json({"origin": origin, "branches": branches} | ({"change": change, "rolls": rolls} if rolls else {}))
        return
    if len(answers) > 1 or not rolls:
        _print(answers)
    if rolls:
        _print_rolls(rolls, change)


def _checked(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The changes as they were asked for, checked as far as they can be without the answer.

    Raises:
        DataError, ConfigError: in one line that names the flag.
    """
    from stir_core.requests import Change

    chain: list[dict[str, Any]] | None = getattr(arguments, "chain", None)
    if not chain:
        raise DataError("say where the answer is taken up: --at M, a control point, or --at-token N, a token")
    flags = {"m": "--at", "alpha": "--alpha", "position": "--at-token", "seed": "--seed"}
    for link in chain:
        change = section_from(Change, {"m": 0, **{key: value for key, value in link.items() if key != "put"}}, flags)
        if change.alpha is not None and not change.forces:
            raise DataError(f"--alpha {change.alpha:g} is the strength of an action: name one with --force")
        if "put" in link and change.position is None:
            raise DataError(f"--put {link['put']!r} needs the place of a token: begin the change with --at-token N instead of --at")
    if arguments.rolls is not None and not 1 <= arguments.rolls <= MOST_ROLLS:
        raise DataError(f"--rolls {arguments.rolls}: give 1 to {MOST_ROLLS:,}, all of which are decoded side by side")
    if arguments.rolls is not None and "seed" in chain[-1]:
        raise DataError(f"--rolls {arguments.rolls} takes the seeds 0 to {arguments.rolls - 1}: leave --seed out")
    return chain


def _change(link: "Mapping[str, Any]", answer: "Trace", model: "LoadedModel") -> "Change":
    """The change of one link, to this answer."""
    from stir_core.intervene.changes import change_at
    from stir_core.requests import Change

    fields = {key: value for key, value in link.items() if key not in ("put", "position")}
    if (put := link.get("put")) is not None:
        by_id = re.fullmatch("id:([0-9]{1,12})", put)
        ids = [int(by_id[1])] if by_id else model.tokens(put)
        if not ids:
            raise DataError(f"--put {put!r} is no token: give one, or its id (id:345)")
        if len(ids) > 1:
            raise DataError(f"--put {put!r} is {len(ids)} tokens ({', '.join(f'id:{each}' for each in ids)}): give one of them")
        if not by_id and model.token_text(ids[0]).strip() != put.strip():
            raise DataError(f"the model has no token {put!r}: give one that Trace lists, or its id (id:345)")
        fields |= {"token": ids[0], "text": model.token_text(ids[0]) if ids[0] < len(model.tokenizer) else None}
    return change_at(answer, link["position"], **fields) if "position" in link else Change(**fields)


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


def _print_rolls(rolls: "Sequence[Trace]", change: "Change") -> None:
    from stir_core.evaluate.rerolls import reroll_tree
    from stir_core.evaluate.statistics import wilson

    nodes, depths, rows = reroll_tree(rolls, change.m), list[int](), []
    for node in nodes:
        depths.append(0 if node.parent is None else depths[node.parent] + 1)
        graded, text = node.right + node.wrong, "".join(step.text for step in node.steps)
        verdict = rolls[node.rolls[0]].verdict if len(node.rolls) == 1 else None
        ends = f" -> {verdict.extracted}" if verdict else ""
        steps = [str(step.m) for step in dict.fromkeys((node.steps[0], node.steps[-1]))] if node.steps else []
        cells = ["  " * depths[-1] + str(len(node.rolls)), f"{node.right}/{graded}" if graded else "-", " to ".join(steps)]
        rows.append([*cells, " ".join(map(str, node.rolls)), repr(text if len(text) < 70 else f"{text[:67]}...") + ends])
    table(["rolls", "right", "m", "seeds", "the steps that they share"], rows)
    root = nodes[0]
    place = f"control point {change.m}" if change.position is None else f"token {change.position + 1}"
    share = f", {wilson(root.right, graded):.2f} right" if (graded := root.right + root.wrong) else "; a free prompt is not graded"
    say(f"{len(rolls)} sampled continuations from {place}{share}; --seed K in place of --rolls decodes one of them alone")
