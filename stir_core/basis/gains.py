"""Split the gain of each pick of a selection into its gain in quality and its gain in diversity, which sum to the objective's.

Recomputed from the picks alone by a plain Cholesky factorisation, so it also applies to selectors that do not use the objective.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stir_core.basis.selection import FLOOR, unit_rows
from stir_core.errors import SelectionError


class GainParts(NamedTuple):
    """The two parts of a pick's marginal gain at the time it was picked."""

    quality: float
    """``log(1 + max(q, 0))``."""
    diversity: float
    """``diversity * (logdet(K_after + epsilon I) - logdet(K_before + epsilon I))``: at most about 0, far below for a near duplicate."""

    @property
    def total(self) -> float:
        """The marginal gain of the objective."""
        return self.quality + self.diversity


def gain_parts(
    keys: Float[np.ndarray, "k d"],
    quality: Sequence[float],
    forced: Sequence[bool],
    *,
    diversity: float,
    epsilon: float,
    conditioned: bool = True,
) -> list[GainParts]:
    """Gains of picks, in pick order, under the objective of :mod:`stir_core.basis.selection`.

    Args:
        keys: keys of the picks in pick order, in the space that they were selected in; of any length.
        quality: their qualities.
        forced: which of them were forced in; they come first.
        conditioned: later picks' diversity counts the forced ones (False: as published).

    Raises:
        SelectionError: the three do not fit together.
    """
    if not len(keys) == len(quality) == len(forced):
        raise SelectionError(f"{len(keys)} keys, {len(quality)} qualities and {len(forced)} marks: give one of each per pick")
    logs = np.full(len(keys), np.log(1.0 + epsilon))
    counted = [i for i, mark in enumerate(forced) if conditioned or not mark]
    if counted:
        units = unit_rows(keys)[counted]
        factor = np.linalg.cholesky(units @ units.T + epsilon * np.eye(len(counted)))
        logs[counted] = np.log(np.maximum(np.diag(factor) ** 2, FLOOR))
    rewards = np.log1p(np.maximum(np.asarray(quality, dtype=np.float64), 0.0))
    return [GainParts(float(reward), float(diversity * log)) for reward, log in zip(rewards, logs, strict=True)]
