"""The Actions page's tables: what an impulse did at a recorded control point, and the tokens whose states were averaged."""

import pandas as pd

from stir_core.evaluate.dose import degenerates_at, meters, strength_for
from stir_core.evaluate.spots import held_out_spots, source_spots
from stir_core.records import Entry, TokenWeight
from stir_core.responses import Dose, ImpulseResponse, Spot
from workbench.shared.entries import SourceAnswer
from workbench.shared.facts import RunFacts
from workbench.shared.text import Segment, segment, visible_token

NATS = (0.1, 0.5)
"""Divergences whose strength is read off the dose-response."""


def spots_of(facts: RunFacts, entry: Entry) -> dict[str, Spot]:
    """Where the entry can be tried, by name: held-out steps that fired it, others that retrieved it, then its own source."""
    spots = [*held_out_spots(entry, facts.steered.values()), *source_spots(entry, facts.rollouts)]
    return {spot.name: spot for spot in spots}


def spot_label(spot: Spot) -> str:
    """One line on a place."""
    if spot.kind == "rollout":
        return f"source: {spot.problem_id}, {'right' if spot.correct else 'wrong'} rollout {spot.k}, control point {spot.m}"
    what = "retrieved only" if spot.alpha is None else f"committed α {spot.alpha:.3f}"
    sim = "" if spot.sim is None else f", cosine {spot.sim:.3f}"
    return f"held-out: {spot.problem_id}, control point {spot.m} ({what}{sim})"


def impulse_figures(found: ImpulseResponse) -> list[tuple[str, str, str]]:
    """The figures on top: name, value, what it means."""
    first, last = found.layers[0], found.layers[-1]
    later = found.kl[1:]
    out = _strength(degenerates_at(found.doses), found, "not within the range")
    cosine = "–" if last.cosine is None else f"{last.cosine:+.2f}"
    frozen = found.kl_frozen[0] / found.kl[0] if found.kl[0] > 0 else None
    return [
        ("KL at the control point", f"{found.kl[0]:.3f} nats", "KL(steered || unsteered) of the next-token distribution."),
        ("with attention frozen", "–" if frozen is None else f"{frozen:.0%}", "Share of it that is left with all patterns held unsteered."),
        (
            "mean KL afterwards",
            f"{sum(later) / len(later):.4f} nats" if later else "–",
            "Over the recorded tokens of the step.",
        ),
        ("size where it is added", f"{first.relative:.0%} of ‖h‖", "Norm of the impulse over the norm of the unsteered residual."),
        ("cosine at the last layer", cosine, "Of the disturbance with the injected vector."),
        *((f"{nats:g} nats at", _strength(strength_for(found.doses, nats), found, "outside"), DOSE_HELP) for nats in NATS),
        ("degenerates from", out, DEGENERATE_HELP),
    ]


DOSE_HELP = "Read off between two strengths tried (straight line in the logarithms); outside: no strength tried reaches it."
DEGENERATE_HELP = (
    "First strength from which on every continuation repeats itself (half of its token triples stood before, and more than without an "
    "impulse) or is at least 3 nats a token less likely to the unsteered model than its own continuation."
)


def _strength(alpha: float | None, found: ImpulseResponse, otherwise: str) -> str:
    return otherwise if alpha is None else f"α {alpha:.3g} ({alpha * found.action_norm / found.unsteered_norm:.0%} of ‖h‖)"


def layer_table(found: ImpulseResponse) -> pd.DataFrame:
    """One row a layer: size and direction of the disturbance at the control point, and what it promotes there."""
    return pd.DataFrame(
        {
            "layer": [each.layer for each in found.layers],
            "norm": [each.norm for each in found.layers],
            "relative": [each.relative for each in found.layers],
            "cosine": [each.cosine for each in found.layers],
            "promotes": [_words(each.promoted) for each in found.layers],
            "suppresses": [_words(each.suppressed) for each in found.layers],
        }
    )


def travel_table(found: ImpulseResponse) -> pd.DataFrame:
    """One row a layer and token: norm of the disturbance over that of the unsteered residual."""
    rows = [
        (each.layer, position, token_label(found, position), size)
        for each, sizes in zip(found.layers, found.relative, strict=True)
        for position, size in enumerate(sizes)
    ]
    return pd.DataFrame(rows, columns=["layer", "position", "token", "relative"])


def divergence_table(found: ImpulseResponse) -> pd.DataFrame:
    """One row a token and way: divergence of the distribution after it, with attention free and frozen."""
    ways = (("attention free", found.kl), ("attention frozen", found.kl_frozen))
    rows = [(way, position, token_label(found, position), kl) for way, kls in ways for position, kl in enumerate(kls)]
    return pd.DataFrame(rows, columns=["way", "position", "token", "kl"])


def token_label(found: ImpulseResponse, position: int) -> str:
    """A token with its place, so that equal tokens stay apart: 0 is the control point."""
    return f"{position} {visible_token(found.tokens[position].text)}"


def shift_table(found: ImpulseResponse, n: int = 12) -> pd.DataFrame:
    """The next tokens whose probability is largest before or after, likeliest of either first."""
    kept = sorted(found.shifts, key=lambda shift: -max(shift.before, shift.after))[:n]
    return pd.DataFrame(
        {
            "token": [f"{visible_token(shift.text)}  {shift.token_id}" for shift in kept],
            "before": [shift.before for shift in kept],
            "after": [shift.after for shift in kept],
            "change": [shift.after - shift.before for shift in kept],
        }
    )


def attention_table(found: ImpulseResponse) -> pd.DataFrame:
    """One row a layer and head: mean attention of the tokens after the control point to it; empty when there are none."""
    rows = [
        (layer, head, unsteered, steered, steered - unsteered)
        for layer, (before, after) in enumerate(zip(found.attention_unsteered, found.attention_steered, strict=True))
        for head, (unsteered, steered) in enumerate(zip(before, after, strict=True))
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "unsteered", "steered", "difference"])


def dose_table(found: ImpulseResponse) -> pd.DataFrame:
    """One row a strength, 0 first."""
    rows = [_dose_row(dose, found.doses[0]) for dose in found.doses]
    return pd.DataFrame(rows)


def _dose_row(dose: Dose, unsteered: Dose) -> dict[str, object]:
    read = meters(dose, unsteered)
    return {
        "alpha": dose.alpha,
        "fraction": dose.fraction,
        "kl": dose.kl,
        "kl behind": dose.kl_following,
        "rep 3": read.rep3,
        "gap": read.gap,
        "degenerate": read.why,
        "text": dose.text,
    }


def _words(tokens: tuple[TokenWeight, ...]) -> str:
    return "  ".join(visible_token(token.text) for token in tokens)


def state_table(facts: RunFacts, entry: Entry) -> pd.DataFrame:
    """Where each averaged state stands; ``token``: number in the answer, ``position``: in the whole sequence, prompt included, from 0."""
    rows = []
    for sign, members in (("+", entry.positives), ("−", entry.negatives)):
        for k in members:
            rollout = facts.rollouts.get((entry.problem_id, k))
            if rollout is None or len(rollout.boundaries) < entry.m:
                continue
            at = rollout.boundaries[entry.m - 1]
            rows.append((sign, k, at, len(rollout.prompt_ids) + at - 1, rollout.token_ids[at - 1], rollout.n_tokens, rollout.reward))
    return pd.DataFrame(rows, columns=["side", "rollout", "token", "position", "id", "tokens", "reward"])


def marked_segments(side: SourceAnswer, delimiter: str, m: int, token_id: int | None) -> list[Segment]:
    """An answer cut at its control point: muted before, the delimiter that the state was read at as a mark, then what followed."""
    cut = side.before.rfind(delimiter)
    body, end = (side.before, "") if cut < 0 else (side.before[:cut], side.before[cut:])
    where = "" if side.tokens_before is None else f"token {side.tokens_before} of the answer"
    name = "" if token_id is None else f", id {token_id}"
    tip = f"state read here: {where}{name}, the last of the delimiter" if where else "state read here"
    return [segment(body, "past"), segment(f"{visible_token(end)}⟦state, m = {m}⟧ ", "mark", tip), segment(side.after)]
