"""Selection repeated under other settings, from the run's stored keys and entries. Nothing is written.

Two selections are compared by measures that neither of them optimised: raw cosines, ranks, split pairs.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from stir_core.basis.gains import GainParts, gain_parts
from stir_core.basis.making import choose_basis
from stir_core.basis.selection import unit_rows
from stir_core.config import RunConfig, digest_of
from stir_core.keyspace import apply_space
from stir_core.records import Pick
from stir_core.store.runs import Run
from workbench.basis.data import nearest_of, set_row
from workbench.shared.facts import RunFacts


class Selection(NamedTuple):
    """A basis, stored or selected again, with the gain of every pick."""

    config: RunConfig
    picks: tuple[Pick, ...]
    parts: tuple[GainParts, ...]
    """In pick order; by the objective of ``config``, also for selectors that do not use it."""
    nearest: tuple[tuple[str, float] | None, ...]
    """The earlier pick with the highest cosine (in the space of ``basis.similarity``), and that cosine; none for the first."""
    notes: tuple[str, ...]

    @property
    def ids(self) -> list[str]:
        """Entry ids in pick order."""
        return [pick.entry_id for pick in self.picks]


def differing(facts: RunFacts, config: RunConfig) -> dict[str, object]:
    """The ``basis`` settings in which a config differs from the run's own."""
    return {key: value for key, value in config.basis if value != getattr(facts.config.basis, key)}


def digest(config: RunConfig) -> str:
    """Digest of all settings that a selection depends on."""
    return digest_of(config.basis, config.seed, config.compat)


def stored(facts: RunFacts) -> Selection:
    """The run's basis on disk."""
    run, picks = _as(facts, facts.config), tuple(facts.picks.values())
    entries = [facts.entries[pick.entry_id] for pick in picks]
    rows = apply_space(run.key_space(), run.mapped_rows(entries)[0][:], [(entry.m, entry.layer) for entry in entries])
    return _selection(facts, facts.config, rows, picks, facts.run.manifest("basis").notes)


def reselect(facts: RunFacts, config: RunConfig) -> Selection:
    """The basis that ``config`` selects from the run's entries.

    Raises:
        SelectionError: there is no entry to choose from.
    """
    run = _as(facts, config)
    advantages = facts.advantages if config.basis.quality == "measured" else {}
    made = choose_basis(list(facts.entries.values()), _raw_keys(facts, run), config, run.key_space(), advantages)
    rows = made.keys[[facts.row[pick.entry_id] for pick in made.picks]]
    return _selection(facts, config, rows, tuple(made.picks), tuple(made.notes))


def replay_table(facts: RunFacts, selection: Selection) -> pd.DataFrame:
    """One row per pick (counted from 1): both parts of its gain, its nearest earlier pick, and the objective so far."""
    rows = []
    for pick, part, near in zip(selection.picks, selection.parts, selection.nearest, strict=True):
        entry = facts.entries[pick.entry_id]
        gains = (part.total, part.quality, part.diversity)
        rows.append((pick.rank + 1, entry.id, entry.m, entry.kind, _quality(facts, pick), pick.forced, *gains, *(near or (None, None))))
    columns = ["pick", "entry", "m", "kind", "quality", "forced", "gain", "quality gain", "log-det gain", "nearest", "nearest cosine"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(objective=table["gain"].astype(float).cumsum())


def metrics(facts: RunFacts, selection: Selection) -> dict[str, float | None]:
    """Numbers that describe a selection; ``None`` where there is nothing to measure."""
    ids = selection.ids
    row = set_row(facts, ids)
    cover = np.array(list(nearest_of(facts, ids).values())) if ids else None
    orphans = _orphans(facts, ids)
    return {
        "picks": len(ids),
        "forced in": sum(pick.forced for pick in selection.picks),
        "corrective": row["corrective"],
        "null": row["null"],
        "split pairs": row["split pairs"],
        "actions without their null": orphans["corrective"],
        "nulls without their action": orphans["null"],
        "coverage, mean": None if cover is None else float(cover.mean()),
        "coverage, worst": None if cover is None else float(cover.min()),
        "key rank": row["key rank"],
        "action rank": row["action rank"],
        "mean key cosine": row["key cosine"],
        "mean quality": row["mean quality"],
        "problems": len({facts.entries[i].problem_id for i in ids}),
        "quality gain, sum": sum(part.quality for part in selection.parts),
        "log-det gain, sum": sum(part.diversity for part in selection.parts),
    }


def comparison(facts: RunFacts, before: Selection, after: Selection) -> pd.DataFrame:
    """Both selections' numbers side by side, and the change."""
    table = pd.DataFrame({"stored": metrics(facts, before), "re-selected": metrics(facts, after)}, dtype=float)
    return table.assign(change=table["re-selected"] - table["stored"]).rename_axis("what").reset_index()


def pick_changes(facts: RunFacts, before: Selection, after: Selection) -> pd.DataFrame:
    """Every entry that either picked: kept, gained or lost, with its place in both (counted from 1)."""
    old, new = ({pick.entry_id: pick.rank + 1 for pick in each.picks} for each in (before, after))
    gained, lost, kept = ([i for i in new if i not in old], [i for i in old if i not in new], [i for i in new if i in old])
    rows = [
        (fate, id_, facts.entries[id_].m, facts.entries[id_].kind, facts.entries[id_].quality, old.get(id_), new.get(id_))
        for fate, ids in (("gained", gained), ("lost", lost), ("kept", kept))
        for id_ in ids
    ]
    return pd.DataFrame(rows, columns=["fate", "entry", "m", "kind", "quality", "pick before", "pick now"])


def counts(facts: RunFacts, before: Selection, after: Selection) -> pd.DataFrame:
    """Picks at every control point, of both selections."""
    rows = []
    points = sorted({entry.m for entry in facts.entries.values()})
    for name, selection in (("stored", before), ("re-selected", after)):
        counted = Counter((facts.entries[i].m, facts.entries[i].kind) for i in selection.ids)
        rows += [(m, kind, name, counted[m, kind]) for m in points for kind in ("corrective", "null")]
    return pd.DataFrame(rows, columns=["m", "kind", "selection", "picks"])


def _as(facts: RunFacts, config: RunConfig) -> Run:
    """The same folder read under other settings; nothing is written."""
    return Run.at(facts.run.path, config, {})


def _raw_keys(facts: RunFacts, run: Run) -> Float[np.ndarray, "n d_model"]:
    return run.key_rows()[[entry.key_row for entry in facts.entries.values()]]


def _selection(facts: RunFacts, config: RunConfig, rows: np.ndarray, picks: tuple[Pick, ...], notes: tuple[str, ...]) -> Selection:
    """The selection of these picks; ``rows`` are their keys in the space of ``basis.similarity``."""
    basis = config.basis
    parts = gain_parts(
        rows,
        [_quality(facts, pick) for pick in picks],
        [pick.forced for pick in picks],
        diversity=basis.diversity,
        epsilon=basis.epsilon,
        conditioned=not config.compat,
    )
    return Selection(config, picks, tuple(parts), _nearest(rows, [pick.entry_id for pick in picks]), notes)


def _quality(facts: RunFacts, pick: Pick) -> float:
    """The quality that selection used; the mined one for a run that did not record it."""
    return facts.entries[pick.entry_id].quality if pick.quality is None else pick.quality


def _nearest(rows: np.ndarray, ids: list[str]) -> tuple[tuple[str, float] | None, ...]:
    if not ids:
        return ()
    units = unit_rows(rows)
    cosines = units @ units.T
    neighbours: list[tuple[str, float] | None] = [None]
    for k in range(1, len(ids)):
        nearest = int(cosines[k, :k].argmax())
        neighbours.append((ids[nearest], float(cosines[k, nearest])))
    return tuple(neighbours)


def _orphans(facts: RunFacts, ids: list[str]) -> Counter[str]:
    """Number of picks by kind whose partner in the pair was not picked."""
    chosen = Counter(facts.entries[i].pair for i in ids)
    return Counter(facts.entries[i].kind for i in ids if chosen[facts.entries[i].pair] == 1)
