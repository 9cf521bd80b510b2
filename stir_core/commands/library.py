"""``stir show``: a run's library as a table, or what one of its actions means."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stir_core.commands.console import Command, print_json, say, table
from stir_core.errors import DataError
from stir_core.findings import Advantage
from stir_core.records import Control, Entry, Lens
from stir_core.store.libraries import LIBRARY_KINDS

if TYPE_CHECKING:
    from stir_core.readings import ActionReading, ActivatingStep, Decomposition, ForeignAction, JacobianReading
    from stir_core.store.runs import Run

_WIDEST = 60
"""Characters of a step that a line shows."""
HEADS = [
    "entry",
    "kind",
    "rank",
    "m",
    "layer",
    "quality",
    "|action|",
    "|key|",
    "length",
    "p",
    "stable",
    "advantage [95 %]",
    "problem",
    "promotes",
]


def library_table(
    entries: Sequence[Entry],
    ranks: Mapping[str, int],
    lenses: Mapping[str, Lens],
    controls: Mapping[str, Control],
    advantages: Mapping[str, Advantage],
) -> tuple[list[str], list[list[str]]]:
    """Heads and rows; "-" means not measured.

    ``length`` is the cosine with the length direction, ``p`` the permutation p-value over labels, ``stable`` the share of right
    continuations from the positives' prefixes and from the negatives'.
    """
    rows: list[list[str]] = []
    for entry in entries:
        control, advantage, lens = controls.get(entry.id), advantages.get(entry.id), lenses.get(entry.id)
        stable = "-"
        if control is not None and control.stability_pos is not None and control.stability_neg is not None:
            stable = f"{control.stability_pos:.2f}/{control.stability_neg:.2f}"
        measured = f"{advantage:+.2f}" if advantage is not None else "-"
        rows.append(
            [
                entry.id,
                entry.kind,
                str(ranks.get(entry.id, "-")),
                str(entry.m),
                str(entry.layer),
                f"{entry.quality:.4f}",
                f"{entry.action_norm:.1f}" if entry.action_norm is not None else "-",
                f"{entry.key_norm:.1f}",
                _number(control.length_cosine if control is not None else None, "+.2f"),
                _number(control.permutation_p if control is not None else None, ".2f"),
                stable,
                measured,
                entry.problem_id,
                " ".join(repr(token.text) for token in lens.promoted[:4]) if lens else "",
            ]
        )
    return HEADS, rows


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def add(command: Command) -> None:
    """Add ``stir show`` and its arguments."""
    description = "A run's actions as a table; with an action's id, what it means."
    show = command("show", _show, description, "run", "--model", "--json")
    show.add_argument(
        "entry", nargs="?", help="an action, e.g. p0003c: its steps, its share of the task's subspace, what erasure leaves of it"
    )
    shown = show.add_mutually_exclusive_group()
    shown.add_argument("--all", action="store_true", help="all mined entries rather than the selected basis")
    shown.add_argument("--library", choices=LIBRARY_KINDS, help="which of the run's libraries (default: the selected basis)")
    show.add_argument("--top", type=int, metavar="N", help="steps, features and other runs' actions to list of one action (default: 8)")
    show.add_argument("--others", nargs="+", metavar="RUN", help="runs of the same model to look for actions like it in")
    show.add_argument(
        "--dictionary", type=Path, metavar="FILE", help="safetensors file with an SAE's or transcoder's decoder, to decompose it"
    )
    show.add_argument("--tensor", metavar="NAME", help="the decoder's tensor in that file (default: W_dec, decoder.weight, ...)")
    show.add_argument("--jacobian", action="store_true", help="read it through the Jacobian lens, too, which takes the model")


def _show(arguments: argparse.Namespace) -> None:
    from stir_core.store.runs import Run

    run = Run.open(arguments.run)
    if arguments.entry is not None:
        _show_action(run, arguments)
        return
    for name in ("top", "others", "dictionary", "tensor", "jacobian", "model"):
        if getattr(arguments, name):
            raise DataError(f"--{name} reads one action: name it, as in `stir show {arguments.run} p0003c --{name} ...`")
    _show_library(run, arguments)


def _show_library(run: "Run", arguments: argparse.Namespace) -> None:
    from stir_core.store.libraries import library_named

    ranks = {pick.entry_id: pick.rank for pick in run.picks()} if run.finished("basis") else {}
    name = arguments.library or ("all" if arguments.all or not ranks else "basis")
    entries = library_named(run, name).entries
    controls, advantages = run.controls(), run.advantages()
    if arguments.json:
        measured = (
            {"rank": ranks.get(entry.id), "controls": controls.get(entry.id), "advantage": advantages.get(entry.id)} for entry in entries
        )
        print_json([entry.model_dump() | more for entry, more in zip(entries, measured, strict=True)])
    else:
        if arguments.library is None and not run.finished("basis"):
            say(f"stir: the basis of {run.path} has not finished: all mined entries", error=True)
        table(*library_table(entries, ranks, run.lenses(), controls, advantages))


def _show_action(run: "Run", arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.activations import TOP
    from stir_core.evaluate.meaning import meaning_of
    from stir_core.evaluate.spots import action_named
    from stir_core.store.runs import Run

    if arguments.tensor is not None and arguments.dictionary is None:
        raise DataError(f"--tensor {arguments.tensor} is a tensor of a dictionary: name its file with --dictionary")
    action_named(run, arguments.entry)  # refused before a model is loaded
    others = [Run.open(other) for other in arguments.others or ()]
    model = None
    if arguments.jacobian:
        from stir_core.models.loading import model_of

        run.check_text()
        model = model_of(run.config.model, arguments.model)
    reading = meaning_of(
        run,
        arguments.entry,
        top=TOP if arguments.top is None else arguments.top,
        others=others,
        dictionary=arguments.dictionary,
        tensor=arguments.tensor,
        model=model,
    )
    if arguments.json:
        print_json(reading)
    else:
        _print_action(reading, run.lenses().get(reading.entry_id))


def _print_action(reading: "ActionReading", lens: Lens | None) -> None:
    from stir_core.evaluate.meaning import auc_text

    seen = reading.activation
    say(f"{reading.entry_id}: layer {reading.layer}, mined from {reading.problem_id}", "")
    kept = "all of them" if seen.steps == seen.recorded else f"{seen.steps} of {seen.recorded}, those at mined control points"
    say(f"Steps of the run's own rollouts along it (states at {kept}; {seen.problems} problems; standard deviation {seen.deviation:.3g}):")
    heads = ["projection", "right", "wrong", "m", "own", "step", "problem"]
    table(heads, [_step_row(step) for step in (*seen.high, *reversed(seen.low))])
    say(f"Right above wrong, other problems: {auc_text(seen.others)} ({seen.others.pairs} pairs of {seen.others.problems} problems).")
    say(f"Its own problem, which it was made from: {auc_text(seen.own)} ({seen.own.pairs} pairs).", "")
    if lens is not None:
        say("Logit lens:     " + _tokens(lens))
    if reading.jacobian is not None:
        _print_jacobian(reading.jacobian)
    say("", "Share of its squared norm in the leading principal directions of other problems' states:")
    rows = [
        [str(each.k), f"{each.share:.3f}", f"{each.by_chance:.3f}", f"{each.chance_high:.3f}", _number(each.actions, ".3f")]
        for each in reading.subspace
    ]
    table(["directions", "share", "by chance", "95 % of chance", "run's other actions"], rows)
    erased = reading.erasure
    say("", f"Erasure (LEACE): {erased.verdict}", f"A linear probe, which is what is erased: {auc_text(erased.erased)}.")
    if reading.decomposition is not None:
        _print_decomposition(reading.decomposition)
    if reading.elsewhere:
        _print_elsewhere(reading.elsewhere)


def _step_row(step: "ActivatingStep") -> list[str]:
    own = "own" if step.own else ""
    text = repr(step.text) if len(step.text) <= _WIDEST else f"{step.text[:_WIDEST]!r}..."
    return [f"{step.projection:+.3g}", str(step.right), str(step.wrong), str(step.m), own, text, step.problem_id]


def _tokens(lens: Lens) -> str:
    up, down = (" ".join(repr(token.text) for token in tokens[:8]) for tokens in (lens.promoted, lens.suppressed))
    return f"promotes {up}; suppresses {down}"


def _print_jacobian(read: "JacobianReading") -> None:
    say("Jacobian lens:  " + _tokens(read.lens))
    steady = "" if read.agreement is None else f", one answer agrees with the others by cosine {read.agreement:.2f}"
    say(
        f"  over {read.answers} answers, {read.positions} tokens{steady}; norm times {read.gain:.2f}; "
        f"{read.logit_overlap} of {len(read.lens.promoted)} promoted tokens are the logit lens's, too"
    )


def _print_decomposition(found: "Decomposition") -> None:
    say("", f"{found.dictionary}, {found.tensor}: {found.features} features")
    weights = {feature.index: feature.weight for feature in found.chosen}
    rows = [[str(each.index), f"{each.cosine:+.3f}", _number(weights.get(each.index), ".3f")] for each in found.nearest]
    listed = {each.index for each in found.nearest}
    rows += [[str(each.index), f"{each.cosine:+.3f}", _number(each.weight, ".3f")] for each in found.chosen if each.index not in listed]
    table(["feature", "cosine", "weight in the sum"], rows)
    natural = "" if found.states is None else f"; of differences of states {found.states:.1%} (at most {found.states_most:.1%})"
    say(
        f"A sum of {len(found.chosen)} explains {found.explained:.1%} of its squared norm; sums of as many explain {found.random:.1%} "
        f"(at most {found.random_most:.1%}) of random directions{natural}; {found.draws} of each."
    )


def _print_elsewhere(found: "Sequence[ForeignAction]") -> None:
    say("", "Nearest actions of other runs:")
    rows = [
        [
            f"{each.run} {each.entry_id}",
            f"{each.cosine:+.3f}",
            f"{each.by_chance:.3f}",
            f"{each.typical:+.3f}",
            str(each.m),
            f"{each.problem_id}{' (the same question)' if each.same_question else ''}",
            " ".join(map(repr, each.promoted)),
        ]
        for each in found
    ]
    table(["action", "cosine", "by chance", "typical", "m", "problem", "promotes"], rows)
