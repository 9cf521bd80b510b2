"""A reader's judgement of a library, as a history of edits: star, tag, note, exclude, rename, merge.

The judgement is a pure fold over the history of edits, so every version can be shown again and nothing is ever deleted (an undo is an edit
too). This module uses no file and no clock; ``store.curation`` stores the history, ``store.curated`` makes a library from it.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import ValidationError, field_validator, model_validator

from stir_core.errors import CurationError
from stir_core.records import Entry, Record

EditKind = Literal["star", "unstar", "tag", "untag", "note", "exclude", "include", "reselect", "rename", "merge", "split"]
"""``include`` keeps an entry that selection dropped, ``exclude`` drops one that it kept, ``reselect`` follows selection again."""
NAME = re.compile(r"[\w.:+-](?:[\w .:+-]{0,46}[\w.:+-])?")
"""Tags and display names that are allowed."""
MAX_NOTE, MAX_WHY, MAX_WHO = 4000, 1000, 64
_WHEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z")
_NEEDS_NAME = ("tag", "untag", "merge")
_FATES = {"include": "in", "exclude": "out", "reselect": None}
_TAKES_NOTHING = ("star", "unstar", *_FATES, "split")


class Edit(Record):
    """One edit of some entries, with its author, time and reason."""

    kind: EditKind
    entries: tuple[str, ...]
    """Ids of entries, mined or merged; for ``merge`` the members, for ``split`` the merged entries."""
    value: str | None = None
    """The tag, the note (``None`` clears it), the display name (``None``: the id again), or the id of a merged entry."""
    who: str
    when: str
    """ISO 8601 in UTC, e.g. ``"2026-11-21T17:33:14Z"``."""
    why: str = ""
    undoes: int | None = None
    """Number of the edit that this one undoes, wholly or in part."""

    @field_validator("when")
    @classmethod
    def _in_utc(cls, when: str) -> str:
        if not _WHEN.fullmatch(when):
            raise ValueError(f"time {when!r} is not ISO 8601 in UTC, like 2026-11-21T17:33:14Z")
        return when

    @field_validator("who")
    @classmethod
    def _printable(cls, who: str) -> str:
        if not who.strip() or len(who) > MAX_WHO or not who.isprintable():
            raise ValueError(f"the name {who[:MAX_WHO]!r} of the author must be 1 to {MAX_WHO} printable characters: set STIR_USER")
        return who

    @field_validator("why")
    @classmethod
    def _short_why(cls, why: str) -> str:
        return _text(why, MAX_WHY, "the reason")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "Edit":
        if len(self.entries) < 1:
            raise ValueError(f"{self.kind} names no entry: choose at least one")
        if len(set(self.entries)) < len(self.entries):
            raise ValueError(f"{self.kind} names an entry twice: name each once")
        if self.kind == "rename" and len(self.entries) > 1:
            raise ValueError(f"{len(self.entries)} entries cannot share one name: rename one at a time, or tag them")
        if self.kind == "merge" and len(self.entries) < 2:
            raise ValueError(f"only {self.entries[0]} is named: a merge takes two entries or more")
        if self.kind in _TAKES_NOTHING and self.value is not None:
            raise ValueError(f"{self.kind} takes no value, got {self.value[:48]!r}: leave it out")
        if self.kind == "note" and self.value is not None:
            _text(self.value, MAX_NOTE, "a note")
        if (self.kind in _NEEDS_NAME or (self.kind == "rename" and self.value is not None)) and not NAME.fullmatch(self.value or ""):
            raise ValueError(
                f"{'a name' if self.kind == 'rename' else 'a tag'} of 1 to 48 letters, digits, spaces or . : + - _ is wanted, "
                f"got {(self.value or '')[:60]!r}"
            )
        return self


class Recorded(Record):
    """A line of the history: an edit, and the entries that it applies to."""

    number: int
    """1 for the first."""
    actions: str
    """Digest of the actions stage whose entries the edit names; it applies to no other."""
    before: str
    """SHA-256 of the line before it (``""`` for the first), so that a changed or lost line is noticed."""
    edit: Edit


class Judged(NamedTuple):
    """The judgement of one entry."""

    starred: bool = False
    tags: tuple[str, ...] = ()
    note: str | None = None
    fate: Literal["in", "out"] | None = None
    """Included or excluded by hand; ``None``: as selected."""
    name: str | None = None
    """Display name; ``None``: its id."""
    merged_into: str | None = None

    @property
    def excluded(self) -> bool:
        """True when the entry was excluded by hand."""
        return self.fate == "out"


UNTOUCHED = Judged()


class Judgement(NamedTuple):
    """The state after some edits."""

    entries: Mapping[str, Judged]
    """The edited entries; all others are :data:`UNTOUCHED`."""
    merges: Mapping[str, tuple[str, ...]]
    """Members of every merged entry, by its id."""

    def of(self, entry_id: str) -> Judged:
        """The judgement of an entry, edited or not."""
        return self.entries.get(entry_id, UNTOUCHED)

    def tags(self) -> tuple[str, ...]:
        """All tags in use."""
        return tuple(sorted({tag for judged in self.entries.values() for tag in judged.tags}))

    def tagged(self, tag: str) -> tuple[str, ...]:
        """Ids with a tag, sorted."""
        return tuple(sorted(id_ for id_, judged in self.entries.items() if tag in judged.tags))

    def starred(self) -> tuple[str, ...]:
        """Starred ids, sorted."""
        return tuple(sorted(id_ for id_, judged in self.entries.items() if judged.starred))


class Difference(NamedTuple):
    """One difference of an entry between two versions."""

    entry_id: str
    field: str
    """``"star"``, ``"tags"``, ``"note"``, ``"library"``, ``"name"`` or ``"merged into"``."""
    before: str
    """The field as text; ``""``: empty."""
    after: str


def make_edit(
    kind: EditKind, entries: Iterable[str], value: str | None = None, *, who: str, when: str, why: str = "", undoes: int | None = None
) -> Edit:
    """A checked edit; the id of a merge is derived from its members.

    Raises:
        CurationError: an unusable tag, name, note or list of entries, in one line.
    """
    ids = tuple(dict.fromkeys(entries))
    if kind == "merge":
        ids, value = tuple(sorted(ids)), merged_id(ids)
    if kind in ("note", "rename") and value is not None and not value.strip():
        value = None
    try:
        return Edit(kind=kind, entries=ids, value=value, who=who, when=when, why=why.strip(), undoes=undoes)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{first['loc'][0]}: " if first["loc"] and first["type"] != "value_error" else ""
        raise CurationError(where + first["msg"].removeprefix("Value error, ")) from None


def merged_id(members: Iterable[str]) -> str:
    """The id of a merged entry; the order of its members does not matter."""
    return "x" + hashlib.sha256("\n".join(sorted(members)).encode()).hexdigest()[:8] + "c"


def fold(edits: Iterable[Edit], since: Judgement | None = None) -> Judgement:
    """The judgement after ``edits``, in order, beginning with ``since``.

    Raises:
        CurationError: an edit splits an entry that is not merged.
    """
    entries: dict[str, Judged] = dict(since.entries) if since else {}
    merges: dict[str, tuple[str, ...]] = dict(since.merges) if since else {}
    for edit in edits:
        if edit.kind == "merge" and edit.value is not None:
            merges[edit.value] = edit.entries
        for id_ in edit.entries:
            if edit.kind != "split":
                entries[id_] = _judged(entries.get(id_, UNTOUCHED), edit)
            elif id_ not in merges:
                raise CurationError(f"{id_} is not a merged entry: only a merged entry can be split")
            else:
                for member in merges.pop(id_):
                    entries[member] = entries[member]._replace(merged_into=None)
    return Judgement(entries, merges)


def _judged(now: Judged, edit: Edit) -> Judged:
    value = edit.value
    match edit.kind:
        case "star" | "unstar":
            return now._replace(starred=edit.kind == "star")
        case "tag" if value is not None:
            return now._replace(tags=tuple(sorted({*now.tags, value})))
        case "untag":
            return now._replace(tags=tuple(tag for tag in now.tags if tag != value))
        case "exclude" | "include" | "reselect":
            return now._replace(fate=_FATES[edit.kind])
        case "note":
            return now._replace(note=value)
        case "rename":
            return now._replace(name=value)
        case "merge":
            return now._replace(merged_into=value)
    raise CurationError(f"{edit.kind} of {edit.entries[0]} has no value: give one")


def check(edit: Edit, standing: Judgement, entries: Mapping[str, Entry]) -> None:
    """Refuse an edit that is not possible after the judgement ``standing`` of a run's ``entries``.

    Raises:
        CurationError: an unknown entry, a merge across control points or layers or of null entries, a name that is taken.
    """
    known = entries.keys() | standing.merges.keys()
    if unknown := [id_ for id_ in edit.entries if id_ not in known]:
        raise CurationError(f"the run has no entry {unknown[0]!r}: `stir show RUN --all` lists them")
    if edit.kind == "merge":
        _check_merge(edit, standing, entries)
    for id_ in edit.entries:
        if edit.kind in _FATES and (whole := standing.of(id_).merged_into):
            raise CurationError(f"{id_} is part of {whole}: split that first, or {edit.kind} all of it")
        if edit.kind == "split" and id_ not in standing.merges:
            raise CurationError(f"{id_} is not a merged entry: only a merged entry can be split")
    if edit.kind == "rename" and edit.value is not None:
        taken = {judged.name: id_ for id_, judged in standing.entries.items() if judged.name and id_ not in edit.entries}
        owner = edit.value if edit.value in known - set(edit.entries) else taken.get(edit.value)
        if owner is not None:
            raise CurationError(f"{edit.value!r} already names {owner}: choose another name for {edit.entries[0]}")


def _check_merge(edit: Edit, standing: Judgement, entries: Mapping[str, Entry]) -> None:
    for id_ in edit.entries:
        judged = standing.of(id_)
        if id_ in standing.merges or judged.merged_into:
            raise CurationError(
                f"{id_} is {'a merged entry' if id_ in standing.merges else f'part of {judged.merged_into}'}: split it first"
            )
        if judged.excluded:
            raise CurationError(f"{id_} is excluded: include it before it is merged")
    first, *others = (entries[id_] for id_ in edit.entries)
    for other in others:
        for what, one, two in (
            ("control point m", first.m, other.m),
            ("layer", first.layer, other.layer),
            ("kind", first.kind, other.kind),
        ):
            if one != two:
                raise CurationError(
                    f"{first.id} and {other.id} cannot be merged: {what} {one} and {two}; merge entries of one control point and layer"
                )
    if first.kind == "null":
        raise CurationError(f"{first.id} and {others[0].id} are null entries, which carry no action: merge corrective ones")
    if bad := [entry for entry in (first, *others) if entry.quality <= 0]:
        raise CurationError(f"{bad[0].id} has quality {bad[0].quality:g}, which cannot be a weight: exclude it instead")


def merge_weights(members: Sequence[Entry]) -> tuple[float, ...]:
    """Weights of a merge's members: their qualities, as shares that sum to 1."""
    qualities = np.array([entry.quality for entry in members], np.float64)
    return tuple((qualities / qualities.sum()).tolist())


def taken_back(number: int, history: Sequence[Recorded], *, who: str, when: str, why: str = "") -> tuple[Edit, ...]:
    """The edits that undo edit ``number``: for every entry on which its result is still in force, the state before it.

    Raises:
        CurationError: no such edit in ``history``, or later edits have replaced all of its results.
    """
    at = next((i for i, line in enumerate(history) if line.number == number), None)
    if at is None:
        raise CurationError(f"there is no edit {number} that applies to this library: `stir curate RUN history` lists them")
    edits = [line.edit for line in history]
    edit, before, after, now = edits[at], fold(edits[:at]), fold(edits[: at + 1]), fold(edits)
    inverses: dict[tuple[EditKind, str | None], list[str]] = {}
    if edit.kind == "merge":
        inverses = {("split", None): [edit.value]} if edit.value is not None and edit.value in now.merges else {}
    elif edit.kind == "split":
        inverses = {("merge", id_): list(before.merges[id_]) for id_ in edit.entries if id_ not in now.merges}
    else:
        for id_ in edit.entries:
            was, became, current = before.of(id_), after.of(id_), now.of(id_)
            if was != became and (inverse := _inverse(edit, was, became, current)):
                inverses.setdefault(inverse, []).append(id_)
    if not inverses:
        raise CurationError(f"nothing of edit {number} ({edit.kind}) is left to take back: later edits changed it, or it changed nothing")
    return tuple(make_edit(kind, ids, value, who=who, when=when, why=why, undoes=number) for (kind, value), ids in inverses.items())


def _inverse(edit: Edit, was: Judged, became: Judged, now: Judged) -> tuple[EditKind, str | None] | None:
    """Kind and value of the edit that undoes ``edit`` for one entry; ``None`` if a later edit replaced its result."""
    if edit.kind in ("star", "unstar"):
        return ("star" if was.starred else "unstar", None) if now.starred == became.starred else None
    if edit.kind in ("tag", "untag"):
        had = edit.value in was.tags
        return ("tag" if had else "untag", edit.value) if (edit.value in now.tags) != had else None
    if edit.kind in _FATES:
        again: dict[str | None, EditKind] = {"in": "include", "out": "exclude", None: "reselect"}
        return (again[was.fate], None) if now.fate == became.fate else None
    if edit.kind == "note":
        return ("note", was.note) if now.note == became.note else None
    return ("rename", was.name) if now.name == became.name else None


def changes(before: Judgement, after: Judgement) -> tuple[Difference, ...]:
    """The differences of two versions, entry by entry."""
    differences: list[Difference] = []
    for id_ in sorted(before.entries.keys() | after.entries.keys()):
        one, two = before.of(id_), after.of(id_)
        if one != two:
            pairs = zip(_FIELDS, _told(one), _told(two), strict=True)
            differences += [Difference(id_, field, old, new) for field, old, new in pairs if old != new]
    return tuple(differences)


_FIELDS = ("star", "tags", "note", "library", "name", "merged into")


def _told(judged: Judged) -> tuple[str, ...]:
    fate = {"in": "kept by hand", "out": "excluded", None: ""}[judged.fate]
    star = "starred" if judged.starred else ""
    return star, ", ".join(judged.tags), judged.note or "", fate, judged.name or "", judged.merged_into or ""


def _text(text: str, limit: int, what: str) -> str:
    if len(text) > limit:
        raise ValueError(f"{what} has {len(text)} characters, more than {limit}: shorten it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} holds an incomplete character at {error.start}: write it again") from None
    return text
