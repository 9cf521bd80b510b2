"""Which new tokens of a pass are attended to together, and the order in which all of them are packed.

Packed order puts tokens of a kind side by side: single next tokens of neighbouring slots (:class:`Stretch`), single tokens of branches of
one trunk (:class:`Forks`), and several tokens of a row (:class:`Segments`).
"""

from itertools import accumulate, groupby
from typing import NamedTuple

from stir_core.models.cache import CacheRow, Store


class Piece(NamedTuple):
    """New tokens of one sequence in a pass."""

    row: CacheRow
    ids: list[int]


class Stretch(NamedTuple):
    """Single tokens of neighbouring slots of one store: packed positions ``at .. at + n``."""

    at: int
    n: int
    store: Store
    slot: int
    lengths: list[int]
    """Tokens that each reads, its own included."""

    def numbers(self) -> list[list[int]]:
        """Slot and column that each new token is written to."""
        return [list(range(self.slot, self.slot + self.n)), [length - 1 for length in self.lengths]]


class Forks(NamedTuple):
    """Single tokens of branches of one trunk."""

    at: int
    rows: list[CacheRow]

    def numbers(self) -> list[list[int]]:
        """As :meth:`Stretch.numbers`."""
        return [[row.slot for row in self.rows], [row.length for row in self.rows]]


class Segments(NamedTuple):
    """Several new tokens of each of some rows of one store."""

    at: int
    rows: list[CacheRow]
    counts: list[int]
    """New tokens of each."""

    def numbers(self) -> list[list[int]]:
        """For several rows: slot and column of each token, the rows' slots, the tokens padded to the longest row, the true ones of them."""
        rows, counts, most = self.rows, self.counts, max(self.counts)
        if len(rows) == 1:
            return []
        slots = [row.slot for row, n in zip(rows, counts, strict=True) for _ in range(n)]
        columns = [row.length + j for row, n in zip(rows, counts, strict=True) for j in range(n)]
        starts = accumulate(counts, initial=self.at)
        padded = [start + min(j, n - 1) for start, n in zip(starts, counts, strict=False) for j in range(most)]
        return [slots, columns, [row.slot for row in rows], padded, [i * most + j for i, n in enumerate(counts) for j in range(n)]]


def arranged(pieces: list[Piece], *, alike: bool) -> tuple[list[int], list[Stretch], list[Forks], list[Segments]]:
    """The pieces in packed order, and the kinds of their tokens.

    Args:
        alike: put segments of about one size together; otherwise each is by itself.
    """
    singles = [i for i, piece in enumerate(pieces) if len(piece.ids) == 1 and piece.row.trunk is None]
    singles.sort(key=lambda i: (id(pieces[i].row.store), pieces[i].row.slot))
    branches = [i for i, p in enumerate(pieces) if p.row.trunk is not None]
    if any(len(pieces[i].ids) != 1 for i in branches):
        raise ValueError("a branch takes one token at a time")
    trunks = {id(row): n for n, row in enumerate(dict.fromkeys(pieces[i].row.trunk for i in branches))}
    branches.sort(key=lambda i: (trunks[id(pieces[i].row.trunk)], pieces[i].row.trunk_length))

    def size(i: int) -> tuple[int, ...]:
        row, n = pieces[i].row, len(pieces[i].ids)
        return (id(row.store), *_size(n), *_size(row.length + n)) if alike else (i,)

    segments = [i for i, p in enumerate(pieces) if len(p.ids) > 1 and p.row.trunk is None]
    segments.sort(key=lambda i: (size(i), pieces[i].row.slot))
    groups: list[Segments] = []
    at = len(singles) + len(branches)
    for _, same in groupby(segments, size):
        own = list(same)
        groups.append(Segments(at, [pieces[i].row for i in own], [len(pieces[i].ids) for i in own]))
        at += sum(groups[-1].counts)
    stretches = _stretches([pieces[i].row for i in singles])
    return [*singles, *branches, *segments], stretches, _families(len(singles), [pieces[i].row for i in branches]), groups


def _size(n: int) -> tuple[int, int]:
    """The class of a size: the sizes of one class differ by less than a quarter."""
    shift = max(0, n.bit_length() - 3)
    return n >> shift, shift


def _stretches(rows: list[CacheRow]) -> list[Stretch]:
    """Rows in slot order, cut where a slot is missing or the store changes."""
    stretches: list[Stretch] = []
    for at, row in enumerate(rows):
        last = stretches[-1] if stretches else None
        if last is not None and last.store is row.store and row.slot == last.slot + last.n:
            stretches[-1] = last._replace(n=last.n + 1, lengths=[*last.lengths, row.length + 1])
        else:
            stretches.append(Stretch(at, 1, row.store, row.slot, [row.length + 1]))
    return stretches


def _families(at: int, rows: list[CacheRow]) -> list[Forks]:
    """Branches from packed position ``at`` on, cut where the trunk, its share or the store changes."""
    families: list[Forks] = []
    for _, same in groupby(rows, key=lambda row: (row.trunk, row.trunk_length, row.store)):
        families.append(Forks(at, list(same)))
        at += len(families[-1].rows)
    return families
