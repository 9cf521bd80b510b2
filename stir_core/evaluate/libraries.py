"""Libraries to steer with: the control basis of a run and its controls. Reads the run, runs no model."""

from collections.abc import Callable
from functools import cache

from stir_core.intervene.memory import Memory, memory_named
from stir_core.store.runs import Run


def libraries_of(run: Run) -> Callable[[str], Memory | None]:
    """Retrieval over each of :data:`stir_core.store.libraries.LIBRARIES` by name, built once; ``None`` for one without entries."""

    @cache
    def named(name: str) -> Memory | None:
        return memory_named(run, name)

    return named
