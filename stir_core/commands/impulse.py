"""``stir impulse``: what does one action do, at one control point, at which strength?"""

import argparse
import math
from typing import TYPE_CHECKING

from stir_core.commands.console import Command, table

if TYPE_CHECKING:
    from stir_core.responses import ImpulseResponse


def add(command: Command) -> None:
    """Make the parser."""
    impulse = command(
        "impulse", _impulse, "What one action does at one control point: layers, next tokens, attention with and without, and doses."
    )
    impulse.add_argument("run", help='run folder, or "demo"')
    impulse.add_argument("entry", help="id of a corrective entry, e.g. p0003c")
    impulse.add_argument(
        "--at",
        metavar="PROBLEM:M",
        help="held-out problem and control point, or PROBLEM#K:M in rollout K of its source (default: where it fired most)",
    )
    impulse.add_argument("--alpha", type=strength, help="multiple of the action (default: what the gate committed there, else 1)")
    impulse.add_argument("--doses", type=strength, nargs="+", metavar="ALPHA", help="other strengths to compare (default: powers of two)")
    impulse.add_argument("--model", help="another place where the run's own model lies")
    impulse.add_argument("--json", action="store_true", help="print JSON")


def strength(text: str) -> float:
    """A multiple of an action, for argparse: said before a model is loaded."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a strength: give a multiple of the action that is at least 0")
    return value


def _impulse(arguments: argparse.Namespace) -> int:
    from stir_core.evaluate.spots import places_of, spot_named
    from stir_core.store.runs import Run

    run = Run.open(arguments.run)
    entry, spots = places_of(run, arguments.entry)
    spot = spot_named(spots, arguments.at, entry)

    import torch

    from stir_core.intervene.impulse import respond
    from stir_core.models.loading import model_of

    model = model_of(run.config.model, arguments.model)
    run.check_model(model.identity)
    alpha = arguments.alpha if arguments.alpha is not None else spot.alpha if spot.alpha is not None else 1.0
    found = respond(model, run.config, spot, entry, torch.tensor(run.action_rows()[entry.action_row]), alpha, doses=arguments.doses)
    if arguments.json:
        print(found.model_dump_json(indent=2))
        return 0
    _print(found)
    return 0


def _print(found: "ImpulseResponse") -> None:
    from stir_core.evaluate.dose import degenerates_at, meters, strength_for

    size = found.layers[0].relative
    print(f"{found.entry_id} x {found.alpha:g} at {found.spot.name}, layer {found.layer}: {size:.0%} of the residual's norm\n")
    rows = [
        [
            str(each.layer),
            f"{each.norm:.2f}",
            "-" if each.cosine is None else f"{each.cosine:+.3f}",
            f"{each.relative:.3f}",
            " ".join(repr(token.text) for token in each.promoted),
            " ".join(repr(token.text) for token in each.suppressed),
        ]
        for each in found.layers
    ]
    table(["layer", "norm", "cosine", "of residual", "promotes", "suppresses"], rows)
    print()
    table(["next token", "before", "after"], [[repr(each.text), f"{each.before:.4f}", f"{each.after:.4f}"] for each in found.shifts[:12]])
    print()
    kls = zip(found.tokens, found.kl, found.kl_frozen, strict=True)
    table(["after token", "KL (nats)", "attention frozen"], [[repr(token.text), f"{kl:.5f}", f"{held:.5f}"] for token, kl, held in kls])
    print()
    doses = [
        [
            f"{dose.alpha:g}",
            f"{dose.fraction:.3f}",
            f"{dose.kl:.4f}",
            "-" if dose.kl_following is None else f"{dose.kl_following:.4f}",
            meters(dose, found.doses[0]).why or "",
            repr(dose.text),
        ]
        for dose in found.doses
    ]
    table(["alpha", "of residual", "KL (nats)", "KL behind", "degenerate", "continuation"], doses)
    for nats in (0.1, 0.5):
        strength = strength_for(found.doses, nats)
        print(f"{nats} nats at alpha {'outside of what was tried' if strength is None else f'{strength:.3g}'}")
    first = degenerates_at(found.doses)
    print("text degenerates: " + ("at no strength tried" if first is None else f"from alpha {first:g} on"))
