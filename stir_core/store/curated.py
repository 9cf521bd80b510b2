"""The curated library of a run: its control basis with the manual exclusions, inclusions and merges, and the origin of every entry."""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stir_core.config import digest_of
from stir_core.curation import Judgement, merge_weights
from stir_core.errors import CurationError
from stir_core.records import Entry, Record
from stir_core.store.curation import Curation
from stir_core.store.runs import Library, Run


class Origin(Record):
    """Where a library entry comes from, with the reader's marks on it."""

    entry_id: str
    name: str | None = None
    """Display name; ``None``: its id."""
    starred: bool = False
    tags: tuple[str, ...] = ()
    note: str | None = None
    members: tuple[str, ...] = ()
    """Ids of the entries that it was merged from; empty for a mined entry."""
    weights: tuple[float, ...] = ()
    """Share of each member in the mean, in the same order."""

    @classmethod
    def of(cls, entry_id: str, standing: Judgement, members: Sequence[Entry] = ()) -> "Origin":
        """The origin of an entry with its marks; ``members``: the entries that it was merged from."""
        judged, ids = standing.of(entry_id), tuple(member.id for member in members)
        weights = merge_weights(members) if members else ()
        return cls(
            entry_id=entry_id, name=judged.name, starred=judged.starred, tags=judged.tags, note=judged.note, members=ids, weights=weights
        )


class Curated(NamedTuple):
    """A curated library with its lineage, row by row."""

    library: Library
    origins: tuple[Origin, ...]


def curated_library(run: Run, curation: Curation, only: str | None = None) -> Library:
    """The curated library in its present state; see :func:`curated`."""
    return curated(run, curation.state, only).library


def curated(run: Run, standing: Judgement, only: str | None = None) -> Curated:
    """The control basis with a judgement applied: included entries added, excluded ones removed, members replaced by their merged entry.

    A merged entry is the quality-weighted mean of its members' keys and of their actions, at the position of its first member. Its pair and
    problem are those of its best member. Its row numbers come after the run's own, since no file of the run holds it.

    Args:
        only: ``"starred"``, ``"tag:NAME"`` or ``"ids:A,B"``: these actions with the null entries of their pairs.

    Raises:
        CurationError: the choice is empty or names an unknown id, or an entry has no quality to be ranked by.
        StoreError: the run has no finished basis.
    """
    mined, basis = run.library(selected=False), run.library()
    place = {entry.id: row for row, entry in enumerate(mined.entries)}
    named = _by_quality(run, mined, basis)
    wanted = [entry.id for entry in basis.entries] + [id_ for id_ in place if standing.of(id_).fate == "in"]
    wanted += [id_ for members in standing.merges.values() for id_ in members]
    order = dict.fromkeys(standing.of(id_).merged_into or id_ for id_ in wanted)
    rows: list[tuple[Entry, np.ndarray, np.ndarray, tuple[Entry, ...]]] = []
    for id_ in order:
        if standing.of(id_).excluded:
            continue
        members = tuple(named(member) for member in standing.merges.get(id_, (id_,)))
        at, weights = [place[member.id] for member in members], merge_weights(members) if len(members) > 1 else (1.0,)
        key, action = _mean(mined.keys[at], weights), _mean(mined.actions[at], weights)
        entry = members[0] if len(members) == 1 else _merged(id_, members, weights, key, action, len(mined.keys) + len(rows))
        rows.append((entry, key, action, members))
    chosen = _chosen(rows, standing, only)
    kept = [row for row in rows if row[0].id in chosen]
    width = mined.keys.shape[1]
    keys, actions = (np.array([row[i] for row in kept], np.float32).reshape(-1, width) for i in (1, 2))
    origins = tuple(Origin.of(entry.id, standing, members if len(members) > 1 else ()) for entry, _, _, members in kept)
    return Curated(Library(tuple(row[0] for row in kept), keys, actions), origins)


def only_ids(library: Library, only: str) -> Library:
    """Of a library without marks: the actions that ``"ids:A,B"`` names, with the null entries of their pairs.

    Raises:
        CurationError: an id that the library does not have.
    """
    ids = _named(only, Judgement({}, {}), {entry.id for entry in library.entries})
    pairs = {entry.pair for entry in library.entries if entry.id in ids}
    keep = [i for i, entry in enumerate(library.entries) if entry.id in ids or (entry.kind == "null" and entry.pair in pairs)]
    return Library(tuple(library.entries[i] for i in keep), library.keys[keep], library.actions[keep])


def library_digest(library: Library) -> str:
    """16 hex digits; equal digests mean the same entries with the same vectors."""
    tensors = [hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest() for rows in (library.keys, library.actions)]
    return digest_of([entry.model_dump(mode="json") for entry in library.entries], tensors)


def _by_quality(run: Run, mined: Library, basis: Library) -> Callable[[str], Entry]:
    """A function from an id to its entry, with the quality that the basis was picked by.

    If the basis was picked by measured quality, an entry outside it gets its measured advantage as quality, or is refused.
    """
    entries = {entry.id: entry for entry in (*mined.entries, *basis.entries)}
    picked = {entry.id for entry in basis.entries}
    gained: dict[int, float] | None = None
    if any(pick.quality is not None for pick in run.picks()):
        gained = {entries[id_].pair: advantage.value for id_, advantage in run.advantages().items() if id_ in entries}

    def named(id_: str) -> Entry:
        entry = entries[id_]
        if gained is None or id_ in picked:
            return entry
        if gained.get(entry.pair, 0.0) <= 0:
            raise CurationError(
                f"{id_} has no measured advantage above 0, by which this run's basis ranks its entries: "
                f"leave it to selection (`stir curate RUN reselect {id_}`), or measure it with `stir causal`"
            )
        return entry.replaced(quality=gained[entry.pair])

    return named


def _mean(rows: Float[np.ndarray, "n d"], weights: tuple[float, ...]) -> Float[np.ndarray, "d"]:
    return rows[0] if len(rows) == 1 else (np.asarray(weights) @ rows.astype(np.float64)).astype(np.float32)


def _merged(id_: str, members: tuple[Entry, ...], weights: tuple[float, ...], key: np.ndarray, action: np.ndarray, row: int) -> Entry:
    best = max(members, key=lambda entry: entry.quality)

    def mean(values: list[float]) -> float:
        return float(np.dot(weights, values))

    return best.replaced(
        id=id_,
        quality=mean([entry.quality for entry in members]),
        reward_pos=mean([entry.reward_pos for entry in members]),
        reward_neg=mean([entry.reward_neg for entry in members]),
        positives=(),
        negatives=(),
        key_row=row,
        action_row=row,
        key_norm=float(np.linalg.norm(key)),
        action_norm=float(np.linalg.norm(action)),
        reachable=all(entry.reachable for entry in members),
    )


def _chosen(rows: list, standing: Judgement, only: str | None) -> set[str]:
    there = {entry.id for entry, *_ in rows}
    if only is None:
        return there
    ids = _named(only, standing, there)
    pairs = {member.pair for entry, _, _, members in rows if entry.id in ids for member in members}
    chosen = {entry.id for entry, *_ in rows if entry.id in ids or (entry.kind == "null" and entry.pair in pairs)}
    if not chosen:
        known = ", ".join(standing.tags()) or "none"
        raise CurationError(f"no entry of the library is {'starred' if only == 'starred' else f'tagged so ({only})'}; tags in use: {known}")
    return chosen


def _named(only: str, standing: Judgement, there: set[str]) -> set[str]:
    kind, colon, named = only.partition(":")
    if only == "starred":
        return set(standing.starred())
    if kind == "tag" and colon:
        return set(standing.tagged(named))
    if kind != "ids" or not named:
        raise CurationError(f"{only[:80]!r} chooses no entries: say starred, tag:NAME, or ids:A,B,...")
    ids = named.split(",")
    if odd := next((id_ for id_ in ids if id_ not in there), None):
        raise CurationError(f"{odd[:40]!r} is not an entry of the library: `stir show RUN --library NAME` lists its entries")
    return set(ids)


def choice_in_words(only: str) -> str:
    """A choice of entries for a reader; more than six ids are only counted."""
    kind, _, named = only.partition(":")
    n = named.count(",") + 1
    return only if kind != "ids" or n <= 6 else f"{n} entries by id"
