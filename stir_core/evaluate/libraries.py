"""Libraries to steer with, made from one run: the control basis and its controls. Reads the run, runs no model."""

from collections.abc import Callable
from functools import cache

import numpy as np

from stir_core.basis.quality import measured_quality
from stir_core.errors import ConfigError, StoreError
from stir_core.intervene.memory import Memory
from stir_core.store.curated import curated_library
from stir_core.store.curation import Curation
from stir_core.store.runs import Library, Run

LIBRARIES = ("basis", "all", "zero", "shuffled", "length_matched", "measured", "curated")
"""Libraries by name; :func:`libraries_of` says what they are."""


def libraries_of(run: Run) -> Callable[[str], Memory | None]:
    """Library by name, each built once; ``None`` for one without entries.

    ``basis`` and ``all`` are the selected and all mined entries; ``zero`` is the basis with zero vectors; ``shuffled`` and
    ``length_matched`` are the basis with its actions re-estimated (see ``harvest.controls``), pairs without an estimate left out;
    ``measured`` are the mined entries whose action has a measured advantage above 0, with that advantage for their quality;
    ``curated`` is the basis as it was excluded, kept and merged by hand (see ``store.curated``).
    """

    @cache
    def named(name: str) -> Memory | None:
        library = library_named(run, name)
        return Memory(*library, run.key_space()) if library.entries else None

    return named


def library_named(run: Run, name: str) -> Library:
    """Entries and tensors of one of :data:`LIBRARIES`.

    Raises:
        ConfigError: no such library.
        StoreError: the run lacks what it is made of.
    """
    if name in ("basis", "all"):
        return run.library(selected=name == "basis")
    if name == "zero":
        library = run.library()
        return library._replace(actions=np.zeros_like(library.actions))
    if name in ("shuffled", "length_matched"):
        return _with_actions(run.library(), run.control_rows(name), name, run)
    if name == "measured":
        return _measured(run)
    if name == "curated":
        return curated_library(run, Curation.open(run))
    raise ConfigError(f"there is no library {name!r}: take one of {', '.join(LIBRARIES)}")


def _with_actions(library: Library, rows: np.ndarray, name: str, run: Run) -> Library:
    if not len(rows) and library.entries:
        raise StoreError(f"run {run.path} holds no {name} vectors: add --redo actions to make them")
    actions = np.zeros_like(library.actions)
    for i, entry in enumerate(library.entries):
        if entry.action_row is not None:
            actions[i] = rows[entry.action_row]
    estimated = {entry.pair for i, entry in enumerate(library.entries) if actions[i].any()}
    keep = [i for i, entry in enumerate(library.entries) if entry.pair in estimated]  # null entries would win more often if theirs stayed
    return Library(tuple(library.entries[i] for i in keep), library.keys[keep], actions[keep])


def _measured(run: Run) -> Library:
    library, advantages = run.library(selected=False), run.advantages()
    if not advantages:
        raise StoreError(f"run {run.path} has no measured advantages: make them with `stir causal {run.path}`")
    quality = measured_quality(library.entries, advantages)
    keep = list(quality)
    entries = tuple(library.entries[i].replaced(quality=quality[i]) for i in keep)
    return Library(entries, library.keys[keep], library.actions[keep])
