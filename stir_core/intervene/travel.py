"""Jobs and libraries as plain data and arrays, for workers in other processes.

A function cannot travel. ``Job.force`` is a function of the control point alone: it is asked here for all of them, and the table travels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from stir_core.config import DecodeConfig, GateConfig, section_from
from stir_core.intervene.jobs import Force, Forced, Job, Settings
from stir_core.intervene.memory import Memory
from stir_core.keyspace import KeySpace
from stir_core.models.workers import Parcel
from stir_core.policies import Policies
from stir_core.records import Entry, MarginThreshold, PolicyWeights

Arrays = Mapping[str, np.ndarray]


def sent_batch(memories: Sequence[Memory | None], settings: Settings) -> Parcel:
    """What all jobs of a batch share."""
    sent = [_sent_memory(memory, f"{i} ") for i, memory in enumerate(memories)]
    plain = {"settings": [settings.decode.model_dump(mode="json"), *settings[1:]], "memories": [plain for plain, _ in sent]}
    return Parcel(plain, {name: array for _, arrays in sent for name, array in arrays.items()})


def received_batch(parcel: Parcel) -> tuple[list[Memory | None], Settings]:
    """The libraries and settings that :func:`sent_batch` sent."""
    decode, *others = parcel.plain["settings"]
    memories = [_received_memory(plain, f"{i} ", parcel.arrays) for i, plain in enumerate(parcel.plain["memories"])]
    return memories, Settings(section_from(DecodeConfig, decode), *others)


def sent_job(job: Job, number: int, memories: Sequence[Memory], control_points: int) -> Parcel:
    """A job without ``past`` and ``overrule``.

    Args:
        number: names its arrays.
        memories: those of the batch; it has one of them, or none.
    """
    forced = [job.force(m) for m in range(control_points + 1)] if job.force is not None else []
    table = [None if each is None else [each.label, each.layer, each.alpha] for each in forced]
    vectors = {f"{number} {m}": each.vector.numpy() for m, each in enumerate(forced) if each is not None and each.vector is not None}
    plain = {
        "id": job.id,
        "prompt_ids": job.prompt_ids,
        "gate": job.gate.model_dump(mode="json"),
        "memory": next((i for i, memory in enumerate(memories) if memory is job.memory), None),
        "given": job.given,
        "force": table if job.force is not None else None,
        "decode": None if job.decode is None else job.decode.model_dump(mode="json"),
        "likeliest": job.likeliest,
        "within": job.within,
        "skip": job.skip,
        "begin": job.begin,
    }
    return Parcel(plain, vectors)


def received_job(plain: dict[str, Any], number: int, arrays: Arrays, memories: Sequence[Memory | None]) -> Job:
    """The job that :func:`sent_job` sent."""
    table, decode, memory = plain["force"], plain["decode"], plain["memory"]
    return Job(
        **plain
        | {
            "gate": section_from(GateConfig, plain["gate"]),
            "memory": None if memory is None else memories[memory],
            "given": tuple(plain["given"]),
            "begin": tuple(plain["begin"]),
            "force": None if table is None else _looked_up(table, number, arrays),
            "decode": None if decode is None else section_from(DecodeConfig, decode),
        }
    )


def _looked_up(table: list[Any], number: int, arrays: Arrays) -> Force:
    def at(m: int) -> Forced | None:
        if table[m] is None:
            return None
        label, layer, alpha = table[m]
        vector = arrays.get(f"{number} {m}")
        return Forced(label, layer, None if vector is None else torch.from_numpy(vector), alpha)

    return at


def _sent_memory(memory: Memory | None, name: str) -> tuple[Any, dict[str, np.ndarray]]:
    """A library as plain data, and its arrays with this at the beginning of their names."""
    if memory is None:
        return None, {}
    space, policies = memory.space, memory.policies
    actions = torch.stack([memory.action(entry.id) for entry in memory.entries]).numpy()
    arrays = {f"{name}keys": memory.raw_keys.numpy(), f"{name}actions": actions}
    plain: dict[str, Any] = {
        "entries": [entry.model_dump_json() for entry in memory.entries],
        "margins": [margin.model_dump_json() for margin in memory.margins],
        "space": [space.kind, [list(place) for place in space.means], [list(place) for place in space.maps]],
        "policies": None,
    }
    for kind, by_place in (("means", space.means), ("maps", space.maps)):
        arrays |= {f"{name}{kind}{i}": array for i, array in enumerate(by_place.values())}
    if policies is not None:
        weights = {key: each.model_dump_json() for key, each in policies.weights.items()}
        plain["policies"] = [policies.basis, policies.layer, weights]
        arrays |= {f"{name}policy means": policies.means, f"{name}policy axes": policies.axes}
    return plain, arrays


def _received_memory(plain: Any, name: str, arrays: Arrays) -> Memory | None:
    if plain is None:
        return None
    kind, *places = plain["space"]
    means, maps = (
        {(m, layer): arrays[f"{name}{which}{i}"] for i, (m, layer) in enumerate(own)}
        for which, own in zip(("means", "maps"), places, strict=True)
    )
    policies = None
    if plain["policies"] is not None:
        basis, layer, weights = plain["policies"]
        fitted = {key: PolicyWeights.model_validate_json(text) for key, text in weights.items()}
        policies = Policies(basis, layer, arrays[f"{name}policy means"], arrays[f"{name}policy axes"], fitted)
    return Memory(
        tuple(Entry.model_validate_json(text) for text in plain["entries"]),
        arrays[f"{name}keys"],
        arrays[f"{name}actions"],
        KeySpace(kind, means, maps),
        [MarginThreshold.model_validate_json(text) for text in plain["margins"]],
        policies,
    )
