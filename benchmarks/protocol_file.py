"""What a protocol file says: its runs, and its evaluations of the whole. `benchmarks.protocol` carries it out."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from stir_core.config import Section, with_changes
from stir_core.errors import ConfigError
from stir_core.evaluate.decoders.registry import method
from stir_core.store.configs import read_config
from stir_core.store.evaluations import is_label

_Positive = Annotated[int, Field(gt=0)]


class RunPlan(Section):
    """One run, and what is asked of it."""

    name: str
    """Its folder below the folder of runs."""
    config: str
    """Its config file, from the folder of the protocol file."""
    set: tuple[str, ...] = ()
    """Keys of the config that are changed, as ``stir run --set`` takes them."""
    base: str | None = None
    """Run whose rollouts it takes; the links of rollouts are asked there."""
    looks: Annotated[tuple[_Positive, ...], Field(min_length=1, max_length=10)]
    """Held-out problems answered at each look of the whole, rising."""
    rows: _Positive | None = None
    """Answers decoded side by side; none is the file's."""
    own: str | None = None
    """Flags of ``stir causal --study own``; none is the file's."""
    gate: str | None = None
    """Flags of ``stir causal``; none is the file's."""
    policy: str | None = None
    """Flags of ``stir policy``; none fits no learned gates."""
    transfer: str | None = None
    """Task of another run, whose problems are answered with this run's library."""
    transfer_n: _Positive | None = None
    """Problems of transfer, and of the layers alone."""


class WholePlan(Section):
    """Methods compared with vanilla on the problems of one or more runs together, with looks."""

    runs: Annotated[tuple[str, ...], Field(min_length=1)]
    primary: Annotated[tuple[str, ...], Field(min_length=1)]
    """Methods that the looks decide on."""
    level: Annotated[float, Field(ge=1e-6, le=0.2)]
    """Two-sided error of each primary method over all looks."""
    methods: tuple[str, ...]
    """Further methods, answered once all primary ones have stopped."""


class ProtocolFile(Section):
    """A protocol file."""

    benchmarks: str | None = None
    """Flags of `benchmarks.all`, where the machine is measured first."""
    rows: _Positive
    """Answers or continuations decoded side by side."""
    own: str
    """Flags of ``stir causal --study own``."""
    gate: str
    """Flags of ``stir causal``."""
    run: tuple[RunPlan, ...]
    whole: tuple[WholePlan, ...]


def read_protocol(file: Path) -> ProtocolFile:
    """A protocol file, each run with its flags and rows.

    Raises:
        ConfigError: the file cannot be read, lacks a key or has an unknown one, or its parts do not fit together.
    """
    found = read_config(file, ProtocolFile)
    shared = {"rows": found.rows, "own": found.own, "gate": found.gate}
    runs = {
        each.name: with_changes(each, **{key: value for key, value in shared.items() if getattr(each, key) is None}) for each in found.run
    }
    if len(runs) < len(found.run):
        raise ConfigError(f"{file}: two [[run]] have one name: {', '.join(each.name for each in found.run)}")
    for each in runs.values():
        if not is_label(each.name):
            raise ConfigError(f"{file}: name = {each.name!r} of a [[run]] is no folder name: use letters, digits and dashes")
        if list(each.looks) != sorted(set(each.looks)):
            raise ConfigError(f"{file}: looks of run {each.name} are {list(each.looks)}: give rising numbers of problems")
        if each.transfer is not None and each.transfer_n is None:
            raise ConfigError(f"{file}: run {each.name} has transfer = {each.transfer!r}: add transfer_n")
        if each.base is not None and each.base not in (others := [name for name in runs if name != each.name]):
            raise ConfigError(f"{file}: run {each.name} has base = {each.base!r}, which is no other [[run]] of it: {', '.join(others)}")
    for whole in found.whole:
        try:
            asked = tuple(method(text).name for text in (*whole.primary, *whole.methods))  # one method may be written in two ways
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None
        for names in (whole.runs, asked):
            if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
                raise ConfigError(f"{file}: a [[whole]] names {twice[0]!r} twice: its problems or its test would count twice")
        if "vanilla" in asked:
            raise ConfigError(f"{file}: a [[whole]] asks for vanilla, which is what the others are compared with: leave it out")
        if unknown := [name for name in whole.runs if name not in runs]:
            raise ConfigError(f"{file}: a [[whole]] names {unknown[0]!r}, which is no [[run]] of it: {', '.join(runs)}")
        if len({len(runs[name].looks) for name in whole.runs}) > 1:
            raise ConfigError(f"{file}: {' and '.join(whole.runs)} of one [[whole]] have different numbers of looks: give equally many")
    return with_changes(found, run=tuple(runs.values()))
