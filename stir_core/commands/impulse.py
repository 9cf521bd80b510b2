"""``stir impulse``: the effect of one action at one control point, at several strengths."""

import argparse
import math
from typing import TYPE_CHECKING

from stir_core.commands.console import Command, print_json, say, table

if TYPE_CHECKING:
    from stir_core.responses import ImpulseResponse


def add(command: Command) -> None:
    """Add ``stir impulse`` and its arguments."""
    description = "The effect of one action at one control point: layers, next tokens, attention with and without, and doses."
    impulse = command("impulse", _impulse, description, "run", "--model", "--json")
    impulse.add_argument("entry", help="id of a corrective entry, e.g. p0003c")
    impulse.add_argument(
        "--at",
        metavar="PROBLEM:M",
        help="held-out problem and control point, or PROBLEM#K:M in rollout K of its source (default: where it fired most)",
    )
    impulse.add_argument("--alpha", type=strength, help="multiple of the action (default: the one that the gate committed there, else 1)")
    impulse.add_argument("--doses", type=strength, nargs="+", metavar="ALPHA", help="other strengths to compare (default: powers of two)")


def strength(text: str) -> float:
    """A multiple of an action, for argparse, so that a wrong one is refused before a model is loaded."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a strength: give a multiple of the action that is at least 0")
    return value


def _impulse(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.spots import entry_with_spots, spot_named
    from stir_core.store.runs import Run

    run = Run.open(arguments.run)
    entry, spots = entry_with_spots(run, arguments.entry)
    spot = spot_named(spots, arguments.at, entry)

    import torch

    from stir_core.intervene.impulse import respond
    from stir_core.models.loading import model_of

    model = model_of(run.config.model, arguments.model)
    run.check_model(model.identity)
    alpha = next(value for value in (arguments.alpha, spot.alpha, 1.0) if value is not None)
    response = respond(model, run.config, spot, entry, torch.tensor(run.action_rows()[entry.action_row]), alpha, doses=arguments.doses)
    if arguments.json:
        print_json(response)
    else:
        _print(response)


def _print(response: "ImpulseResponse") -> None:
    from stir_core.evaluate.dose import degenerates_at, first_token, first_token_text, meters, strength_for

    size = response.layers[0].relative
    say(f"{response.entry_id} x {response.alpha:g} at {response.spot.name}, layer {response.layer}: {size:.0%} of the residual's norm", "")
    rows = [
        [
            str(each.layer),
            f"{each.norm:.2f}",
            "-" if each.cosine is None else f"{each.cosine:+.3f}",
            f"{each.relative:.3f}",
            " ".join(repr(token.text) for token in each.promoted),
            " ".join(repr(token.text) for token in each.suppressed),
        ]
        for each in response.layers
    ]
    table(["layer", "norm", "cosine", "of residual", "promotes", "suppresses"], rows)
    say("")
    shifts = [[repr(shift.text), f"{shift.before:.4f}", f"{shift.after:.4f}"] for shift in response.shifts[:12]]
    table(["next token", "before", "after"], shifts)
    say("")
    kls = zip(response.tokens, response.kl, response.kl_frozen, strict=True)
    table(["after token", "KL (nats)", "attention frozen"], [[repr(token.text), f"{kl:.5f}", f"{held:.5f}"] for token, kl, held in kls])
    say(first_token_text(first_token(response)), "")
    doses = [
        [
            f"{dose.alpha:g}",
            f"{dose.fraction:.3f}",
            f"{dose.kl:.4f}",
            "-" if dose.kl_following is None else f"{dose.kl_following:.4f}",
            meters(dose, response.doses[0]).why or "",
            repr(dose.text),
        ]
        for dose in response.doses
    ]
    table(["alpha", "of residual", "KL (nats)", "KL after", "degenerate", "continuation"], doses)
    for nats in (0.1, 0.5):
        strength = strength_for(response.doses, nats)
        say(f"{nats} nats at alpha {'outside the strengths that were tried' if strength is None else f'{strength:.3g}'}")
    first = degenerates_at(response.doses)
    say("text degenerates: " + ("at no strength tried" if first is None else f"from alpha {first:g} on"))
