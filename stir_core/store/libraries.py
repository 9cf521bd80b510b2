"""The libraries of a run, by name: one table and one function for evaluations, exports, comparisons, the Python API and the pages."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from stir_core.errors import ConfigError, StoreError
from stir_core.findings import Advantage
from stir_core.records import Entry
from stir_core.store.curated import curated_library
from stir_core.store.curation import Curation
from stir_core.store.runs import Library, Run

LIBRARIES = {
    "basis": "Control basis",
    "all": "All mined",
    "curated": "Curated",
    "measured": "Measured",
    "codes": "Codes of steps",
    "zero": "Zero vectors",
    "shuffled": "Shuffled labels",
    "length_matched": "Lengths matched",
}
"""The title of every library that has a name; :func:`library_named` describes them."""
LibraryKind = Literal["curated", "basis", "all", "codes"]
"""The libraries that can be compared and exported; the others are for evaluations."""
LIBRARY_KINDS: tuple[str, ...] = get_args(LibraryKind)


def made_of(name: str) -> tuple[str, ...]:
    """The stages whose files one of :data:`LIBRARY_KINDS` is made of, and the keys' space with it."""
    return ("actions", *{"all": (), "codes": ("codes",)}.get(name, ("basis",)))


def offered(run: Run) -> tuple[str, ...]:
    """The libraries of a run that can be compared and exported, as far as its stages are finished."""
    return tuple(name for name in LIBRARY_KINDS if all(run.finished(stage) for stage in made_of(name)))


def library_named(run: Run, name: str) -> Library:
    """Entries and tensors of one of :data:`LIBRARIES`.

    ``basis`` and ``all`` are the selected and all mined entries. ``curated`` is the basis with the manual exclusions, inclusions and merges
    (see ``store.curated``). ``measured`` holds the mined entries whose action has a measured advantage above 0, with that advantage as
    their quality. ``codes`` holds the entries that the codes of steps make
    (see ``evaluate.codes``). ``zero`` is the basis with zero vectors. ``shuffled`` and ``length_matched`` are the basis with its actions
    re-estimated (see ``harvest.controls``), without the pairs that have no estimate.

    Raises:
        ConfigError: no such library.
        CurationError: see :func:`stir_core.store.curated.curated`.
        StoreError: the run lacks the files that it is made of.
    """
    if name in ("basis", "all"):
        return run.library(selected=name == "basis")
    if name == "zero":
        library = run.library()
        return library._replace(actions=np.zeros_like(library.actions))
    if name in ("shuffled", "length_matched"):
        return reestimated(run, run.library(), name)
    if name == "measured":
        return _measured(run)
    if name == "codes":
        return run.codes_library()
    if name == "curated":
        return curated_library(run, Curation.open(run))
    raise ConfigError(f"there is no library {name!r}: take one of {', '.join(LIBRARIES)}")


def measured_quality(entries: Sequence[Entry], advantages: Mapping[str, Advantage]) -> dict[int, float]:
    """Measured advantage by index of entry, for both entries of every pair whose action has an advantage above 0.

    An action that was never tried is left out like one that harms: there is no evidence for it.
    """
    gained = {entry.pair: advantages[entry.id].value for entry in entries if entry.id in advantages}
    return {i: gained[entry.pair] for i, entry in enumerate(entries) if gained.get(entry.pair, 0.0) > 0}


def reestimated(run: Run, library: Library, name: Literal["shuffled", "length_matched"]) -> Library:
    """A run's library with its actions re-estimated (see ``harvest.controls``), without the pairs that have no estimate.

    Raises:
        StoreError: the run lacks the estimates.
    """
    rows = run.control_rows(name)
    if not len(rows) and library.entries:
        raise StoreError(f"run {run.path} holds no {name} vectors: add --redo actions to make them")
    actions = np.zeros_like(library.actions)
    for i, entry in enumerate(library.entries):
        if entry.action_row is not None:
            actions[i] = rows[entry.action_row]
    estimated = {entry.pair for i, entry in enumerate(library.entries) if actions[i].any()}
    # whole pairs are dropped: null entries that stayed without their actions would make null win more often
    keep = [i for i, entry in enumerate(library.entries) if entry.pair in estimated]
    return Library(tuple(library.entries[i] for i in keep), library.keys[keep], actions[keep])


def _measured(run: Run) -> Library:
    library, advantages = run.library(selected=False), run.advantages()
    if not advantages:
        raise StoreError(f"run {run.path} has no measured advantages: make them with `stir causal {run.path}`")
    quality = measured_quality(library.entries, advantages)
    keep = list(quality)
    entries = tuple(library.entries[i].replaced(quality=quality[i]) for i in keep)
    return Library(entries, library.keys[keep], library.actions[keep])
