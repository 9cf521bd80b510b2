"""Retrieval: rank the library's entries at a control point by the cosine between their keys and the current state.

Exact brute force: one matrix product for each layer. No model is involved; states are given as tensors.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.config import GateConfig
from stir_core.errors import StoreError
from stir_core.keyspace import KeySpace, Place, apply_space
from stir_core.policies import Policies
from stir_core.records import Entry, MarginThreshold, Phase, Reason, Retrieved
from stir_core.seeding import generator_for
from stir_core.store.runs import Library, Run

EPSILON = 1e-12
"""Smallest norm that a key or state is divided by."""

Compared = tuple[int, Tensor, Tensor]
"""A layer, rows of its entries at a control point, and their cosines with the state."""


class Memory:
    """Library entries by control point and layer, with unit keys and raw actions, on the CPU.

    Args:
        keys: raw, row i belongs to ``entries[i]``.
        actions: raw, likewise; zero for null entries.
        space: the space that keys and states are compared in; the plain cosine if not given.
        margins: where the key margin tells right from wrong, for a gate that abstains elsewhere (``gate.rule = "calibrated"``).
        policies: the run's learned gates (``gate.policy``); ``None``: it has none, and no features are recorded.
    """

    def __init__(
        self,
        entries: tuple[Entry, ...],
        keys: Float[np.ndarray, "n d_model"],
        actions: Float[np.ndarray, "n d_model"],
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
        self.raw_keys = torch.tensor(keys, dtype=torch.float32)
        self._actions = torch.tensor(actions, dtype=torch.float32)
        compared = apply_space(self.space, np.asarray(keys), [(entry.m, entry.layer) for entry in entries])
        unit = torch.nn.functional.normalize(torch.tensor(compared, dtype=torch.float32), dim=-1, eps=EPSILON)
        members: dict[tuple[int, int], list[int]] = {}
        for row, entry in enumerate(entries):
            members.setdefault((entry.m, entry.layer), []).append(row)
        self._phases = [entry.phase for entry in entries]
        self._groups: dict[int, list[tuple[int, Tensor, Tensor]]] = {}  # control point -> (layer, rows of the entries, their unit keys)
        for (m, layer), rows in sorted(members.items()):
            self._groups.setdefault(m, []).append((layer, torch.tensor(rows), unit[rows]))

    def action(self, entry_id: str) -> Float[Tensor, "d_model"]:
        """The raw action vector of an entry; zero for a null entry."""
        return self._actions[self._row[entry_id]]

    def at_layer(self, layer: int) -> "Memory":
        """The entries of one layer, as a memory of its own."""
        rows = [row for row, entry in enumerate(self.entries) if entry.layer == layer]
        own, keys, actions = tuple(self.entries[row] for row in rows), self.raw_keys[rows].numpy(), self._actions[rows].numpy()
        return Memory(own, keys, actions, self.space, self.margins, self.policies)

    def count(self, m: int, phase: Phase | None = None) -> int:
        """Entries at control point ``m``: those mined in this part of an answer, or without parts."""
        return sum(len(rows) for _, rows, _ in self._at(m, phase))

    def _at(self, m: int, phase: Phase | None) -> list[Compared]:
        """Layer, rows and unit keys of the entries at control point ``m``, by layer."""
        groups = self._groups.get(m, [])
        if phase is None or not any(self._phases):
            return groups
        chosen: list[Compared] = []
        for layer, rows, unit in groups:
            here = torch.tensor([self._phases[row] in (None, phase) for row in rows.tolist()])
            if here.any():
                chosen.append((layer, rows[here], unit[here]))
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
        places = [(layer, rows, unit @ self._compared((m, layer), states[layer])) for layer, rows, unit in self._at(m, phase)]
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

    def _compared(self, place: Place, state: Float[Tensor, "d_model"]) -> Float[Tensor, "d_model"]:
        """A state as a unit vector of the space that the keys are compared in."""
        state = state.float().cpu()
        if self.space.kind != "cosine":
            state = torch.tensor(self.space.apply(place, state.double().numpy()[None])[0], dtype=torch.float32)
        return torch.nn.functional.normalize(state, dim=0, eps=EPSILON)

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


def check_policy(gate: GateConfig, memory: Memory | None) -> None:
    """Refuse a gate that was not learned for this library.

    Raises:
        StoreError: with the command that learns it.
    """
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
