"""Mine latent actions: ``v = mean state of the positives - mean state of the negatives``, raw, at one control point and layer."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stir_core.config import MiningConfig
from stir_core.records import Entry, EntryKind, Pair, StateRow


class Mined(NamedTuple):
    """The entries of a run with their tensors, best pair first, corrective before null."""

    entries: list[Entry]
    keys: Float[np.ndarray, "n_keys d_model"]
    """Row ``Entry.key_row``: ``mu-`` for corrective entries, ``mu+`` for null entries."""
    actions: Float[np.ndarray, "n_actions d_model"]
    """Row ``Entry.action_row``: ``mu+ - mu-``."""
    skipped: list[str]
    """One line for every pair that was left out."""


def mine(pairs: list[Pair], rows: list[StateRow], states: dict[int, Float[np.ndarray, "n_rows d_model"]], mining: MiningConfig) -> Mined:
    """Turn planned pairs into library entries: each (pair, layer) becomes a corrective and a null entry of equal quality.

    Args:
        pairs: best quality first.
        rows: where each row of the state tensors comes from.
        states: state tensors by layer.

    Source: arXiv 2602.04925, Stage I.
    """
    place = {(row.problem_id, row.source, row.k, row.m): row.row for row in rows}
    entries: list[Entry] = []
    keys: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    skipped: list[str] = []
    number = 0
    for pair, layer in [(pair, layer) for pair in pairs for layer in sorted(states)]:
        if number == mining.top_pairs:
            break
        positives = [("gold", 0)] if pair.gold else [("rollout", k) for k in pair.positives]
        negatives = [("rollout", k) for k in pair.negatives]
        mu_pos, mu_neg = (
            states[layer][[place[pair.problem_id, source, k, pair.m] for source, k in side]].mean(axis=0) for side in (positives, negatives)
        )
        action = mu_pos - mu_neg
        odd = ""
        if not (np.isfinite(action).all() and np.linalg.norm(mu_neg) > 0 and np.linalg.norm(mu_pos) > 0):
            odd = "a state is not finite or zero"
        elif not action.any():  # it could not be injected, nor compared by its direction
            odd = "the right and the wrong rollouts have one state here, so their action is zero"
        if odd:
            skipped.append(f"{pair.problem_id} m={pair.m} layer {layer}: {odd}")
            continue
        sides: tuple[tuple[EntryKind, np.ndarray], ...] = (("corrective", mu_neg), ("null", mu_pos))
        for kind, key in sides:
            entries.append(
                Entry(
                    id=f"p{number:04d}{kind[0]}",
                    kind=kind,
                    pair=number,
                    problem_id=pair.problem_id,
                    m=pair.m,
                    layer=layer,
                    quality=pair.quality,
                    reward_pos=pair.reward_pos,
                    reward_neg=pair.reward_neg,
                    positives=pair.positives,
                    negatives=pair.negatives,
                    pos_source="gold" if pair.gold else "rollout",
                    key_row=len(keys),
                    action_row=len(actions) if kind == "corrective" else None,
                    key_norm=float(np.linalg.norm(key)),
                    action_norm=float(np.linalg.norm(action)) if kind == "corrective" else None,
                    reachable=pair.m < mining.control_points,
                    phase=pair.phase,
                )
            )
            keys.append(key)
        actions.append(action)
        number += 1
    width = next(iter(states.values())).shape[1]
    return Mined(entries, np.array(keys, np.float32).reshape(-1, width), np.array(actions, np.float32).reshape(-1, width), skipped)
