"""Quality of entries by what was measured instead of what was mined. Pure bookkeeping."""

from collections.abc import Mapping, Sequence

from stir_core.findings import Advantage
from stir_core.records import Entry


def measured_quality(entries: Sequence[Entry], advantages: Mapping[str, Advantage]) -> dict[int, float]:
    """Measured advantage by index of entry, for both entries of every pair whose action has one above 0; no others.

    An action that was never tried has no measured quality and is left out like one that harms: nothing is known for it.
    """
    gained = {entry.pair: advantages[entry.id].value for entry in entries if entry.id in advantages}
    return {i: gained[entry.pair] for i, entry in enumerate(entries) if gained.get(entry.pair, 0.0) > 0}
