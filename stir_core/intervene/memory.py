"""Retrieval: rank the library's entries at a control point by the cosine between their keys and the current state.

Exact brute force: one matrix product for each layer and block of :data:`BLOCK` keys. Keys are held in memory as unit vectors, or left in
their file and read block by block at each retrieval; both compute the same products and so find the same bits. No model is involved;
states are given as tensors.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.config import GateConfig
from stir_core.errors import StoreError
from stir_core.intervene.nearest import INDEX_FROM, NearestIndex, check_installed
from stir_core.keyspace import KeySpace, Place
from stir_core.policies import Policies
from stir_core.records import Entry, MarginThreshold, Phase, Reason, Retrieved
from stir_core.seeding import generator_for
from stir_core.store.libraries import library_named
from stir_core.store.runs import Library, Run
from stir_core.store.tensors import MappedRows

EPSILON = 1e-12
"""Smallest norm that a key or state is divided by."""

BLOCK = 1024
"""Keys that are read and compared at once. What a retrieval holds is one block, its unit vectors, and one cosine for each entry."""

IN_MEMORY = 1 << 30
"""Bytes of a run's keys and actions from which on the library of all mined entries stays in its file."""

Compared = tuple[int, Tensor, Tensor]
"""A layer, rows of its entries at a control point, and their cosines with the state."""


class Group(NamedTuple):
    """The entries of a control point and layer."""

    layer: int
    rows: Tensor
    unit: Tensor | None
    """Their unit keys; ``None``: the keys are in a file."""


class Memory:
    """Library entries by control point and layer, with unit keys and raw actions, on the CPU.

    Args:
        keys: raw, row i belongs to ``entries[i]``. :class:`MappedRows` are never held: each retrieval reads those of its control point.
        actions: raw, likewise; zero for null entries.
        space: the space that keys and states are compared in; the plain cosine if not given.
        margins: where the key margin tells right from wrong, for a gate that abstains elsewhere (``gate.rule = "calibrated"``).
        policies: the run's learned gates (``gate.policy``); ``None``: it has none, and no features are recorded.
    """

    def __init__(
        self,
        entries: tuple[Entry, ...],
        keys: Float[np.ndarray, "n d_model"] | MappedRows,
        actions: Float[np.ndarray, "n d_model"] | MappedRows,
        space: KeySpace | None = None,
        margins: Sequence[MarginThreshold] = (),
        policies: Policies | None = None,
    ):
        self.entries = entries
        self.margins = tuple(margins)
        self.policies = policies
        self._told_at = {(each.m, each.layer): each for each in margins if each.threshold is not None}
        self._corrective = torch.tensor([entry.kind == "corrective" for entry in entries], dtype=torch.bool)
        self.space = space or KeySpace("cosine", {}, {})
        self.by_id = {entry.id: entry for entry in entries}
        self.layers = tuple(sorted({entry.layer for entry in entries} | ({policies.layer} if policies is not None else set())))
        self._row = {entry.id: row for row, entry in enumerate(entries)}
        self._keys, self._actions = (rows if isinstance(rows, MappedRows) else np.array(rows, dtype=np.float32) for rows in (keys, actions))
        members: dict[Place, list[int]] = {}
        for row, entry in enumerate(entries):
            members.setdefault((entry.m, entry.layer), []).append(row)
        self._phases = [entry.phase for entry in entries]
        self._phased = any(self._phases)
        self._groups: dict[int, list[Group]] = {}
        for (m, layer), own in sorted(members.items()):
            rows = torch.tensor(own)
            unit = None if isinstance(keys, MappedRows) else torch.cat([self._unit((m, layer), part) for part in rows.split(BLOCK)])
            self._groups.setdefault(m, []).append(Group(layer, rows, unit))
        self._indexes: dict[Place, NearestIndex] = {}

    @property
    def raw_keys(self) -> Float[Tensor, "n d_model"]:
        """Raw keys of all entries; read from their file each time if that is where they are."""
        return torch.from_numpy(self._keys[:])

    def action(self, entry_id: str) -> Float[Tensor, "d_model"]:
        """The raw action vector of an entry; zero for a null entry."""
        row = self._row[entry_id]
        return torch.from_numpy(np.asarray(self._actions[row : row + 1], dtype=np.float32)[0])

    def at_layer(self, layer: int, at: int | None = None) -> "Memory":
        """The entries of one layer, as a memory of its own.

        Args:
            at: block at which they are used, with their keys compared to its states and their actions injected there; ``None``: the layer.
        """
        at = layer if at is None else at
        rows = [row for row, entry in enumerate(self.entries) if entry.layer == layer]
        own = tuple(self.entries[row].replaced(layer=at) for row in rows)
        keys, actions = (each.only(rows) if isinstance(each, MappedRows) else each[rows] for each in (self._keys, self._actions))
        means, maps = ({(m, at): each for (m, of), each in fitted.items() if of == layer} for fitted in (self.space.means, self.space.maps))
        margins = [each.replaced(layer=at) for each in self.margins if each.layer == layer]
        return Memory(own, keys, actions, KeySpace(self.space.kind, means, maps), margins, self.policies)

    def _unit(self, place: Place, rows: Tensor) -> Float[Tensor, "n d"]:
        """Unit keys of these entries of one control point and layer, in the space that they are compared in."""
        keys = self._keys[rows.numpy()]
        moved = keys if self.space.kind == "cosine" else self.space.apply(place, np.asarray(keys, np.float64))
        return torch.nn.functional.normalize(torch.from_numpy(np.asarray(moved, np.float32)), dim=-1, eps=EPSILON)

    def _blocks(self, place: Place, group: Group) -> Iterable[Float[Tensor, "n d"]]:
        """The unit keys of a group, in blocks."""
        return group.unit.split(BLOCK) if group.unit is not None else (self._unit(place, rows) for rows in group.rows.split(BLOCK))

    def count(self, m: int, phase: Phase | None = None) -> int:
        """Entries at control point ``m``: those mined in this part of an answer, or without parts."""
        return sum(len(group.rows) for group in self._at(m, phase))

    def _at(self, m: int, phase: Phase | None) -> list[Group]:
        """The entries at control point ``m``, by layer."""
        groups = self._groups.get(m, [])
        if phase is None or not self._phased:
            return groups
        chosen: list[Group] = []
        for layer, rows, unit in groups:
            here = torch.tensor([self._phases[row] in (None, phase) for row in rows.tolist()])
            if here.any():
                chosen.append(Group(layer, rows[here], None if unit is None else unit[here]))
        return chosen

    def retrieve(
        self, m: int, states: dict[int, Float[Tensor, "d_model"]], gate: GateConfig, phase: Phase | None = None
    ) -> tuple[tuple[Retrieved, ...], Reason | None]:
        """The ``k_retrieve`` nearest entries at control point ``m``, best cosine first (ties: library order).

        Args:
            states: the residual stream at the control point, by layer; each entry is compared at its own layer.
            phase: the part of the answer that the control point lies in.

        Returns:
            The entries, and if there are none the reason why.
        """
        n = self.count(m, phase)
        if n < gate.min_entries:
            return (), Reason(kind="too_few_entries", value=n, limit=gate.min_entries)
        places = [self._compared(m, group, states[group.layer], gate) for group in self._at(m, phase)]
        if gate.rule == "calibrated":
            places, reason = self._told(m, places)
            if reason is not None:
                return (), reason
        columns = [rows for _, rows, _ in places], [sims for _, _, sims in places]
        rows, values = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in columns)
        # take every value that reaches the k-th best, so that ties are settled by library order, not by topk
        least = values.topk(min(gate.k_retrieve, len(values))).values[-1]
        near = (values >= least).nonzero()[:, 0]
        order = sorted(zip((-values[near]).tolist(), rows[near].tolist(), strict=True))[: gate.k_retrieve]
        best = -order[0][0]
        if best < gate.min_sim:
            return (), Reason(kind="below_min_sim", value=best, limit=gate.min_sim)
        return tuple(self._retrieved(row, -negative) for negative, row in order), None

    def features(self, m: int, states: dict[int, Float[Tensor, "d_model"]], logits: Float[Tensor, "d_vocab"]) -> tuple[float, ...] | None:
        """What the learned gates see at control point ``m``; ``None`` without such gates.

        Args:
            states: the residual stream there, by layer.
            logits: of the next token, unsteered.
        """
        if self.policies is None:
            return None
        log = logits.float().log_softmax(dim=-1)
        return self.policies.features(m, states[self.policies.layer].float().cpu().numpy(), float(-(log.exp() * log).sum()))

    def _told(self, m: int, places: list[Compared]) -> tuple[list[Compared], Reason | None]:
        """The corrective entries of the layers whose key margin says "wrong" here; without such a layer, the reason to abstain."""
        told: list[Compared] = []
        nearest: tuple[float, float] | None = None
        for layer, rows, sims in places:
            known, corrective = self._told_at.get((m, layer)), self._corrective[rows]
            if known is None or known.threshold is None or corrective.all() or not corrective.any():
                continue
            near, far = (sims[kind].topk(min(known.nearest, int(kind.sum()))).values.mean() for kind in (corrective, ~corrective))
            margin, threshold = float(near - far), known.threshold
            if margin > threshold:  # nothing is told by a tie
                told.append((layer, rows[corrective], sims[corrective]))
            elif nearest is None or margin - threshold > nearest[0] - nearest[1]:
                nearest = margin, threshold
        if told:
            return told, None
        return [], Reason(kind="abstains") if nearest is None else Reason(kind="below_margin", value=nearest[0], limit=nearest[1])

    def recall(self, m: int) -> float | None:
        """Smallest recall of the indexes that have searched at control point ``m``; ``None``: it was searched exactly."""
        return min((index.recall for (own, _), index in self._indexes.items() if own == m), default=None)

    def _compared(self, m: int, group: Group, state: Float[Tensor, "d_model"], gate: GateConfig) -> Compared:
        """The entries of a group that are to be ranked, and their cosines with the state: all, or those that an index finds."""
        place = m, group.layer
        state = state.float().cpu()
        if self.space.kind != "cosine":
            state = torch.tensor(self.space.apply(place, state.double().numpy()[None])[0], dtype=torch.float32)
        unit = torch.nn.functional.normalize(state, dim=0, eps=EPSILON)
        if gate.search == "exact" or gate.rule == "calibrated" or self._phased or len(group.rows) < INDEX_FROM:
            cosines, done = torch.empty(len(group.rows)), 0
            for block in self._blocks(place, group):
                cosines[done : done + len(block)] = block @ unit  # small pieces kept between blocks would leave holes of a block in memory
                done += len(block)
            return group.layer, group.rows, cosines
        if place not in self._indexes:
            self._indexes[place] = NearestIndex(lambda: (block.numpy() for block in self._blocks(place, group)), gate.k_retrieve)
        found = group.rows[self._indexes[place].search(unit.numpy(), gate.k_retrieve)]
        return group.layer, found, self._unit(place, found) @ unit

    def _retrieved(self, row: int, sim: float) -> Retrieved:
        entry = self.entries[row]
        return Retrieved(entry_id=entry.id, kind=entry.kind, layer=entry.layer, sim=sim, quality=entry.quality, value=sim * entry.quality)


def fullest_layer(entries: Sequence[Entry]) -> int:
    """The layer with most corrective entries; of equal ones the deepest."""
    layers = [entry.layer for entry in entries if entry.kind == "corrective"]
    return max(set(layers), key=lambda layer: (layers.count(layer), layer))


def memory_of(run: Run, library: Library) -> Memory | None:
    """Retrieval over a library of a run, as the run's settings ask for it; ``None`` for a library without entries.

    Raises:
        StoreError: its actions act at latents, and answers in text have none.
    """
    run.check_text()
    if not library.entries:
        return None
    margins = run.margins() if run.finished("basis") else ()
    return Memory(*library, run.key_space(), margins, run.policies())


def memory_named(run: Run, name: str) -> Memory | None:
    """Retrieval over one of :data:`stir_core.store.libraries.LIBRARIES`; ``None`` for one without entries.

    The library of all mined entries stays in its file if that is larger than :data:`IN_MEMORY`.

    Raises:
        StoreError: the run does not hold it, or its actions act at latents.
    """
    run.check_text()
    if name == "all" and run.file("actions", "actions.safetensors").stat().st_size > IN_MEMORY:
        entries = tuple(run.entries())
        margins = run.margins() if run.finished("basis") else ()
        return Memory(entries, *run.mapped_rows(entries), run.key_space(), margins, run.policies()) if entries else None
    return memory_of(run, library_named(run, name))


def check_gate(gate: GateConfig, memory: Memory | None) -> None:
    """Refuse a gate that was not learned for this library, or that searches with a package that is not installed.

    Raises:
        StoreError: with the command that learns it.
        ConfigError: with the command that installs the package.
    """
    if gate.search == "approximate":
        check_installed()
    if gate.policy == "value" or memory is None or (memory.policies is not None and gate.policy in memory.policies.weights):
        return
    raise StoreError(f'gate.policy is "{gate.policy}", and no such gate was learned for this library: make it with `stir policy RUN`')


def action_of(memory: Memory, gate: GateConfig, entry_id: str, seed: int) -> Tensor:
    """The vector, ``[d_model]``, that a gate injects for an entry: its action, or under ``random_vector`` noise in its place."""
    action = memory.action(entry_id)
    if gate.variant != "random_vector":
        return action
    noise = torch.tensor(generator_for(seed, "random_vector", entry_id).standard_normal(action.shape[0]), dtype=torch.float32)
    return noise if gate.noise == "unit" else noise * (action.norm() / noise.norm())
