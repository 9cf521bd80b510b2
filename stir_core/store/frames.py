"""Libraries and records as pandas frames, for notebooks. Numbers are not rounded."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from stir_core.errors import DataError
from stir_core.records import Entry, Record
from stir_core.store.runs import Library, Run

if TYPE_CHECKING:
    import pandas as pd

    from stir_core.findings import Advantage
    from stir_core.records import Control


_OUT = {"id", "key_row", "action_row"}
"""Fields of an entry that a frame leaves out: it holds the vectors themselves."""


def run_frame(run: Run) -> "pd.DataFrame":
    """Every mined entry of a run with its raw vectors, its rank in the basis, its controls and its measured advantage.

    Raises:
        StoreError: the run has no finished actions.
    """
    ranks = {pick.entry_id: pick.rank for pick in run.picks()} if run.finished("basis") else None
    controls, advantages = run.controls(), run.advantages()
    frame = library_frame(run.library(selected=False))
    ids = frame["entry"].tolist()
    frame["rank"] = [None if ranks is None else ranks.get(id_) for id_ in ids]
    frame["rank"] = frame["rank"].astype("Int64")
    frame["in_basis"] = [None if ranks is None else id_ in ranks for id_ in ids]
    for name, column in _measured(ids, controls, advantages).items():
        frame[name] = column
    return frame


def library_frame(library: Library) -> "pd.DataFrame":
    """One row for each entry, in library order; ``key`` and ``action`` are raw float32 ``[d_model]`` (a null entry has no action)."""
    import pandas as pd

    rows = [{"entry": entry.id, **entry.model_dump(exclude=_OUT)} for entry in library.entries]
    frame = pd.DataFrame(rows, columns=["entry", *(name for name in Entry.model_fields if name not in _OUT)])
    frame["key"] = list(library.keys)
    actions = zip(library.entries, library.actions, strict=True)
    frame["action"] = pd.Series([vector if entry.kind == "corrective" else None for entry, vector in actions], dtype=object)
    return frame


def records_frame(records: Iterable[Record]) -> "pd.DataFrame":
    """One row for each record, one column for each field; nested records become mappings.

    Raises:
        DataError: something that is not a record.
    """
    import pandas as pd

    rows = list(records) if isinstance(records, Iterable) else [records]
    for row in rows:
        if not isinstance(row, Record):
            raise DataError(f"{row!r:.80} is not a record: give records, a library, a bundle, or a run from stir.open_run")
    return pd.DataFrame([row.model_dump() for row in rows])


def _measured(ids: list[str], controls: "Mapping[str, Control]", advantages: "dict[str, Advantage]") -> dict[str, list[Any]]:
    """The columns of controls and advantages; no column for what was not measured in this run."""
    columns: dict[str, list[Any]] = {}
    if controls:
        names = [name for name in type(next(iter(controls.values()))).model_fields if name != "entry_id"]
        columns |= {name: [getattr(controls.get(id_), name, None) for id_ in ids] for name in names}
    if advantages:
        fields = {"advantage": "value", "advantage_low": "low", "advantage_high": "high"}
        columns |= {name: [getattr(advantages.get(id_), field, None) for id_ in ids] for name, field in fields.items()}
    return columns
