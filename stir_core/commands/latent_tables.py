"""Tables of ``stir latent``: one reading, evaluations, interchanges, steering and marks."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from stir_core.commands.console import say, table
from stir_core.findings import (
    InterchangeReport,
    LatentCalibration,
    LatentOwnRow,
    LatentReport,
    LatentRunsRow,
    LatentSteeringReport,
    p_text,
)
from stir_core.readings import Held, LatentReading


def print_reading(found: LatentReading) -> None:
    """One problem's chain: steps, latents, replacements, moved latents, drawn runs."""
    said = "" if found.probability is None else f" (probability {found.probability:.3f})"
    say(f"{found.strategy}: {found.question} answer {found.answer or 'none'}{said}, truth {found.truth}", "")
    table(["step", "truth", "read"], [[str(i), step.truth or "-", step.text or "-"] for i, step in enumerate(found.steps, start=1)])
    if not found.latents:
        return
    rows = []
    for i, latent in enumerate(found.latents, start=1):
        lens, near = latent.layers[-1].top[0], latent.nearest[0]
        stop = "-" if latent.stop is None else f"{latent.stop:.3f}"
        rows.append([f"z{i}", str(latent.step), f"{latent.norm:.2f}", *(f"{each.text!r} {each.value:.2f}" for each in (lens, near)), stop])
    say("")
    table(["latent", "step", "norm", "last block's lens", "nearest token", "stop"], rows)
    if found.stop_at_end is not None:
        say(f"stopped after z{len(found.latents)} with probability {found.stop_at_end:.3f}")
    say("", f"Latents of a step replaced; the other problem is {found.other}, and the answers that it implies stand beside.")
    rows = [
        [str(each.step), each.how, each.then, each.answer or "none", *(str(each.implied.get(held, "-")) for held in get_args(Held))]
        for each in found.changes
    ]
    table(["step", "replaced by", "then", "answer", "value after implies", "value before", "operation"], rows)
    say("", "One latent moved, then thinking on: answers on the line to the other problem's, and how many stay under noise.")
    _print_samples(found)
    if found.runs:
        say("", "Runs with drawn latents:")
        rows = [[str(i), run.answer or "none", str(run.latents), " ".join(run.steps)] for i, run in enumerate(found.runs, start=1)]
        table(["run", "answer", "latents", "read"], rows)


def _print_samples(found: LatentReading) -> None:
    amounts = sorted({each.amount for each in found.samples if each.how != "interpolation"})
    rows = []
    for i in range(1, len(found.latents) + 1):
        here = [each for each in found.samples if each.latent == i]
        noisy = {each.amount: each for each in here if each.how != "interpolation"}
        kept = [f"{noisy[amount].kept.value * noisy[amount].draws:.0f} of {noisy[amount].draws}" for amount in amounts]
        line = " ".join(each.answer or "-" for each in here if each.how == "interpolation")
        rows.append([f"z{i}", line, *kept, next(each.how for each in noisy.values())])
    table(["latent", "from its own to the other's", *(f"{amount:g} sd" for amount in amounts), "noise"], rows)


def print_report(found: LatentReport) -> None:
    """One reasoner's evaluation."""
    rows = []
    for row in found.rows:
        costs = (row.latents, row.tokens, row.passes, row.positions, row.seconds)
        rows.append([row.how, str(row.problems), f"{row.accuracy:.1%}", *(f"{cost:.1f}" for cost in costs)])
    table(["condition", "problems", "right", "latents", "tokens", "passes", "positions", "seconds"], rows)
    shares = {"stops exactly": found.exact_stop, "decoded results right": found.decoded_results}
    shares |= {f"step {step} probed": value for step, value in (found.probed_values or {}).items()}
    means = {"strict coherence": found.strict_coherence, "published coherence": found.published_coherence}
    say(*(f"{what}: {value:.1%}" for what, value in shares.items() if value is not None))
    say(*(f"{what}: {value:.3f}" for what, value in means.items() if value is not None))
    if found.probes:
        _print_probes(found)
    if found.runs:
        _print_runs([[str(row.runs)] for row in found.runs], ["runs"], found.runs)


def _print_probes(found: LatentReport) -> None:
    """What a probe reads, one table for each value: layers by latents."""
    latents = sorted({each.latent for each in found.probes})
    read = {(each.after, each.layer, each.latent): each for each in found.probes}
    sizes = sorted({each.problems for each in found.probes})
    say("", f"Share of values that a linear probe reads; {' to '.join(map(str, {sizes[0]: 0, sizes[-1]: 0}))} problems each.")
    for after in sorted({each.after for each in found.probes}):
        rows = []
        for layer in sorted({each.layer for each in found.probes}):
            shares = [f"{read[after, layer, latent].accuracy.value:.1%}" for latent in latents]
            rows.append(["fed" if layer == 0 else f"block {layer}", *shares])
        table([f"value after {after} steps", *(f"z{latent}" for latent in latents)], rows)


def print_reports(folders: Sequence[str], found: Sequence[LatentReport]) -> None:
    """One table over trainings: accuracy, cost and the controls. Folders of one name are told apart by their paths."""
    alike = Counter(Path(folder).name for folder in folders)
    called = [Path(folder).name if alike[Path(folder).name] == 1 else folder for folder in folders]
    rows, runs, names = [], [], []
    for name, report in zip(called, found, strict=True):
        by_how = {row.how: row for row in report.rows}
        controls = [by_how[how].accuracy if how in by_how else None for how in ("longer", "zero", "none")]
        for row in (by_how[how] for how in ("own", "soft_thinking", "multiplex", "sampled") if how in by_how):
            costs = (row.latents, row.tokens, row.positions, row.seconds)
            said = [("-" if each is None or row.how != "own" else f"{each:.1%}") for each in controls]
            what = [name, report.strategy, report.stage, report.setting, str(report.seed), row.how, str(row.problems)]
            rows.append([*what, f"{row.accuracy:.1%}", *(f"{cost:.1f}" for cost in costs), *said])
        runs += report.runs
        names += [[name, str(row.runs)] for row in report.runs]
    head = ["folder", "strategy", "stage", "setting", "seed", "how", "problems", "right", "latents", "tokens", "positions", "seconds"]
    table([*head, "one step more", "latents zero", "no latents"], rows)
    if runs:
        _print_runs(names, ["folder", "runs"], runs)


def _print_runs(names: list[list[str]], head: list[str], runs: Sequence[LatentRunsRow]) -> None:
    rows = []
    for name, row in zip(names, runs, strict=True):
        scored = ["-" if share is None else f"{share:.1%}" for share in (row.best, row.beam)]
        rows.append([*name, str(row.problems), f"{row.coverage:.1%}", f"{row.vote:.1%}", *scored])
    table([*head, "problems", "one right", "vote", "best by score", "beam search"], rows)
    if any(row.best is None for row in runs):
        say("-: no scorer. It is trained on validation problems with right and wrong runs, and none was found, or none asked for.")


def print_interchange(found: InterchangeReport) -> None:
    """What answers follow when the latents of one step are replaced."""
    say(f"{found.strategy}, {found.setting}: answers that were right, after latents of a step became another problem's.", "")
    rows = []
    for row in found.rows:
        shares = ["-" if share is None else f"{share:.1%}" for share in (row.kept, row.after, row.before, row.operation)]
        which = "all" if row.latent is None else str(row.latent)
        rows.append([str(row.count), str(row.step), which, row.how, str(row.problems), *shares])
    heads = ["steps", "step", "latent", "replaced by", "problems", "answer stays", "follows value after", "value before", "operation"]
    table(heads, rows)


def print_steering(found: LatentSteeringReport) -> None:
    """Methods under the same noise, and each action on its own problem."""
    rows = []
    for row in found.rows:
        over, behind = (("-" if each is None else f"{each:+.1%}") for each in (row.over_vanilla, row.stir_over))
        costs = [
            f"{row.impulses:.2f}",
            str(row.won),
            str(row.lost),
            over,
            p_text(row.p),
            behind,
            p_text(row.stir_p),
            f"{row.positions:.1f}",
        ]
        rows.append([row.method, str(row.answers), f"{row.accuracy:.1%}", *costs])
    heads = ["method", "answers", "right", "impulses", "won", "lost", "over vanilla", "p", "stir over it", "p", "positions"]
    table(heads, rows)
    if found.own:
        say("", "Each mined action on new runs of its own problem, at strength 1:")
        own = [[str(row.m), str(row.layer), str(row.answers), *_shares(row)] for row in found.own]
        table(["latent", "layer", "answers", "right without", "own action", "random direction"], own)


def _shares(row: LatentOwnRow) -> list[str]:
    return [f"{row.vanilla:.1%}", f"{row.own:+.1%}", f"{row.random:+.1%}"]


def print_calibration(found: LatentCalibration) -> None:
    """All marks, and how many passed."""
    rows = [[mark.rung, mark.instrument, mark.expected, mark.seen, "pass" if mark.passed else "MISSED", mark.why] for mark in found.marks]
    table(["reasoner", "what", "expected", "seen", "mark", "by number of operations"], rows)
    say(f"{len(found.marks) - len(found.failed)} of {len(found.marks)} marks passed")
