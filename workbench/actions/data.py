"""The Actions page's tables: effects of an impulse at a recorded control point, and the tokens whose states were averaged."""

import pandas as pd

from stir_core.evaluate.dose import degenerates_at, first_token, first_token_text, meters, strength_for
from stir_core.evaluate.spots import held_out_spots, source_spots
from stir_core.records import Entry, TokenWeight
from stir_core.responses import Dose, ImpulseResponse, Spot
from workbench.shared.entries import SourceAnswer
from workbench.shared.facts import RunFacts
from workbench.shared.text import Segment, segment, visible_token

NATS = (0.1, 0.5)
"""Divergences at which the strength is read off the dose-response curve."""


def spots_of(facts: RunFacts, entry: Entry) -> dict[str, Spot]:
    """Control points where the entry can be tried, by name: held-out steps that committed it, others that retrieved it, its source."""
    spots = [*held_out_spots(entry, facts.steered.values()), *source_spots(entry, facts.rollouts)]
    return {spot.name: spot for spot in spots}


def spot_label(spot: Spot) -> str:
    """A control point in one line of the menu."""
    if spot.kind == "rollout":
        return f"source: {spot.problem_id}, {'right' if spot.correct else 'wrong'} rollout {spot.k}, control point {spot.m}"
    use = "retrieved only" if spot.alpha is None else f"committed α {spot.alpha:.3f}"
    sim = "" if spot.sim is None else f", cosine {spot.sim:.3f}"
    return f"held-out: {spot.problem_id}, control point {spot.m} ({use}{sim})"


def impulse_figures(response: ImpulseResponse) -> list[tuple[str, str, str]]:
    """The key figures: name, value and help."""
    first, last = response.layers[0], response.layers[-1]
    later, opening = response.kl[1:], first_token(response)
    return [
        ("KL at the control point", f"{response.kl[0]:.3f} nats", "KL(steered || unsteered) of the next-token distribution."),
        (
            "with attention frozen",
            f"{response.kl_frozen[0] / response.kl[0]:.0%}" if response.kl[0] > 0 else "–",
            "Share of this KL that remains if all attention patterns are held at their unsteered values.",
        ),
        (
            "mean KL afterwards",
            f"{sum(later) / len(later):.4f} nats" if later else "–",
            "Mean over the recorded tokens of the step.",
        ),
        ("on the first token", "–" if opening.share is None else f"{opening.share:.0%} of the KL", first_token_text(opening)),
        ("size where it is added", f"{first.relative:.0%} of ‖h‖", "Norm of the impulse over the norm of the unsteered residual."),
        (
            "cosine at the last layer",
            "–" if last.cosine is None else f"{last.cosine:+.2f}",
            "Cosine of the disturbance with the injected vector.",
        ),
        *((f"{nats:g} nats at", _strength(strength_for(response.doses, nats), response, "outside"), DOSE_HELP) for nats in NATS),
        ("degenerate from", _strength(degenerates_at(response.doses), response, "not within the range"), DEGENERATE_HELP),
    ]


DOSE_HELP = "Interpolated between two tried strengths, linearly in the logarithms; outside: no tried strength reaches it."
DEGENERATE_HELP = (
    "Lowest strength from which on every continuation repeats itself (at least half of its token triples occurred earlier, and more than "
    "without an impulse) or is at least 3 nats per token less likely under the unsteered model than that model's own continuation."
)


def _strength(alpha: float | None, response: ImpulseResponse, otherwise: str) -> str:
    return otherwise if alpha is None else f"α {alpha:.3g} ({alpha * response.action_norm / response.unsteered_norm:.0%} of ‖h‖)"


def layer_table(response: ImpulseResponse) -> pd.DataFrame:
    """One row per layer: norm and direction of the disturbance at the control point, and the tokens it promotes and suppresses there."""
    rows = [(each.layer, each.norm, each.relative, each.cosine, _words(each.promoted), _words(each.suppressed)) for each in response.layers]
    return pd.DataFrame(rows, columns=["layer", "norm", "relative", "cosine", "promotes", "suppresses"])


def travel_table(response: ImpulseResponse) -> pd.DataFrame:
    """One row for each layer and token: norm of the disturbance over that of the unsteered residual."""
    rows = [
        (layer.layer, position, token_label(response, position), relative)
        for layer, norms in zip(response.layers, response.relative, strict=True)
        for position, relative in enumerate(norms)
    ]
    return pd.DataFrame(rows, columns=["layer", "position", "token", "relative"])


def divergence_table(response: ImpulseResponse) -> pd.DataFrame:
    """One row for each token and way: KL after it, with attention free and frozen."""
    ways = (("attention free", response.kl), ("attention frozen", response.kl_frozen))
    rows = [(way, position, token_label(response, position), kl) for way, kls in ways for position, kl in enumerate(kls)]
    return pd.DataFrame(rows, columns=["way", "position", "token", "kl"])


def token_label(response: ImpulseResponse, position: int) -> str:
    """A token with its place, so that equal tokens stay apart: 0 is the control point."""
    return f"{position} {visible_token(response.tokens[position].text)}"


def shift_table(response: ImpulseResponse, n: int = 12) -> pd.DataFrame:
    """The ``n`` next tokens with the largest probability with or without the impulse, largest first."""
    shifts = sorted(response.shifts, key=lambda shift: -max(shift.before, shift.after))[:n]
    rows = [(f"{visible_token(each.text)}  {each.token_id}", each.before, each.after, each.after - each.before) for each in shifts]
    return pd.DataFrame(rows, columns=["token", "before", "after", "change"])


def attention_table(response: ImpulseResponse) -> pd.DataFrame:
    """One row for each layer and head: mean attention of later tokens to the control point; empty if there are no later tokens."""
    rows = [
        (layer, head, unsteered, steered, steered - unsteered)
        for layer, (before, after) in enumerate(zip(response.attention_unsteered, response.attention_steered, strict=True))
        for head, (unsteered, steered) in enumerate(zip(before, after, strict=True))
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "unsteered", "steered", "difference"])


def dose_table(response: ImpulseResponse) -> pd.DataFrame:
    """One row per strength, 0 first."""
    return pd.DataFrame([_dose_row(dose, response.doses[0]) for dose in response.doses])


def _dose_row(dose: Dose, unsteered: Dose) -> dict[str, object]:
    text = meters(dose, unsteered)
    return {
        "alpha": dose.alpha,
        "fraction": dose.fraction,
        "kl": dose.kl,
        "kl after": dose.kl_following,
        "rep 3": text.rep3,
        "gap": text.gap,
        "degenerate": text.why,
        "text": dose.text,
    }


def _words(tokens: tuple[TokenWeight, ...]) -> str:
    return "  ".join(visible_token(token.text) for token in tokens)


def state_table(facts: RunFacts, entry: Entry) -> pd.DataFrame:
    """One row per averaged state. ``token``: 1-based number in the answer; ``position``: 0-based, in the whole sequence with the prompt."""
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
    """An answer cut at its control point: the text before it, muted; the delimiter that the state was read at, as a mark; the rest."""
    cut = side.before.rfind(delimiter)
    body, end = (side.before, "") if cut < 0 else (side.before[:cut], side.before[cut:])
    where = "" if side.tokens_before is None else f"token {side.tokens_before} of the answer"
    name = "" if token_id is None else f", id {token_id}"
    tip = f"state read here: {where}{name}, the last of the delimiter" if where else "state read here"
    return [segment(body, "past"), segment(f"{visible_token(end)}⟦state, m = {m}⟧ ", "mark", tip), segment(side.after)]
