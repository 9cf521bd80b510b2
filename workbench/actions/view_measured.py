"""What was measured on the live model for the Actions page, kept in memory for all tabs of this server; nothing is written to disk."""

import threading
from collections import OrderedDict

import streamlit as st

from stir_core.records import Entry
from stir_core.responses import ImpulseResponse, Spot
from workbench.bootstrap import steering
from workbench.shared.run_facts import RunFacts, fingerprint

MOST = 48
"""Responses kept; the one that was looked at longest ago goes first. Each is about 0.2 MB."""
Key = tuple[str, str, str, float]


class Kept:
    """A bounded, thread-safe memory of responses."""

    def __init__(self, most: int = MOST):
        self._most, self._lock = most, threading.Lock()
        self._held: OrderedDict[Key, ImpulseResponse] = OrderedDict()

    def get(self, key: Key) -> ImpulseResponse | None:
        """What was measured under that key, if it is still there."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Key, found: ImpulseResponse) -> None:
        """Keep a response."""
        with self._lock:
            self._held[key] = found
            self._held.move_to_end(key)
            while len(self._held) > self._most:
                self._held.popitem(last=False)


def key_of(facts: RunFacts, entry: Entry, spot: Spot, alpha: float) -> Key:
    """What a response depends on: the run as it lies on disk, the entry, the place and the strength."""
    return fingerprint(facts.run), entry.id, spot.name, alpha


@st.cache_resource(show_spinner=False)
def kept() -> Kept:
    """The responses of this server."""
    return Kept()


def measure(facts: RunFacts, entry: Entry, spot: Spot, alpha: float) -> ImpulseResponse:
    """Measure on the live model, loading it on first use, and keep the response.

    Raises:
        StirError: the model cannot be loaded, belongs to another run, or refuses the place or strength.
    """
    row = entry.action_row
    assert row is not None  # only corrective entries are offered
    found = steering(facts).respond(entry, facts.run.action_rows()[row], spot, alpha)
    kept().put(key_of(facts, entry, spot, alpha), found)
    return found
