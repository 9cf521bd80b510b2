"""Reading benchmark problems: from files below ``STIR_DATA_ROOT``, else from the Hugging Face hub.

Ships no rows. A file or data set that is not there is an error that says what to do, never an empty task. Ids are the data
set's own where every copy of it shares them, else a digest of the question, so they do not depend on the source.
"""

import json
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from stir_core.errors import DataError
from stir_core.records import Problem
from stir_core.tasks.catalogue import ORIGINS, TASKS, Origin
from stir_core.tasks.rows import Row, fingerprint, hashed

DATA_ROOT_VARIABLE = "STIR_DATA_ROOT"


def benchmark_problems(name: str, split: str) -> tuple[Problem, ...]:
    """All problems of one split of a benchmark, in file order.

    Args:
        name: a benchmark's name.
        split: one of its own splits, not a role.

    Raises:
        DataError: no such split, the file or data set is not there, or a row cannot be read.
    """
    if split not in ORIGINS[name]:
        raise DataError(f"task {name} has no split {split!r}: take one of {', '.join(ORIGINS[name])}")
    return read_benchmark(name, split, os.environ.get(DATA_ROOT_VARIABLE, ""))


@lru_cache(maxsize=32)
def read_benchmark(name: str, split: str, root: str) -> tuple[Problem, ...]:
    """All problems of one split, in the data set's order, from its file below ``root`` or, where that is empty, from the hub; read once.

    Raises:
        DataError: the file or the data set cannot be read, or holds no problem of this split.
    """
    origin = ORIGINS[name][split]
    where, raw = _from_file(Path(root) / origin.file) if root else _from_hub(name, origin)
    mapped = (row for row in _mapped(where, raw, origin) if origin.part is None or origin.part(row))
    problems, seen = [], {}
    for row in mapped:
        key = row.key or f"{hashed(row.question):016x}"[:10]
        seen[key] = seen.get(key, 0) + 1
        suffix = f"-{seen[key]}" if seen[key] > 1 else ""  # the data set holds this question more than once
        problems.append(_problem(name, split, f"{key}{suffix}", row))
    if not problems:
        raise DataError(f"{where} holds no problems of split {split!r} of task {name}: check the file against the data set's own")
    return tuple(problems)


def _problem(name: str, split: str, key: str, row: Row) -> Problem:
    return Problem(
        id=f"{name}/{split}/{key}",
        task=name,
        split=split,
        question=row.question,
        answer=row.answer,
        kind=TASKS[name].kind,
        choices=row.choices,
        solution=row.solution,
        level=row.level,
    )


def _mapped(where: str, raw: Iterable[tuple[int, dict[str, Any]]], origin: Origin) -> Iterator[Row]:
    for line, row in raw:
        try:
            mapped = origin.read(row)
        except KeyError as error:
            raise DataError(f"{where} row {line} has no field {error}: it is not a row of {origin.hub} as this task reads it") from None
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(f"{where} row {line} cannot be read ({error}): compare it with {origin.hub}") from None
        if not mapped.question or not mapped.answer or not fingerprint(mapped.question):
            raise DataError(f"{where} row {line} has an empty question or answer: compare it with {origin.hub}")
        yield mapped


def _from_file(path: Path) -> tuple[str, Iterator[tuple[int, dict[str, Any]]]]:
    if not path.is_file():
        raise DataError(f"benchmark file {path} is not there: set {DATA_ROOT_VARIABLE} to a folder that has it, or unset it to use the hub")
    return str(path), _lines(path)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path} line {number} is not JSON ({error}): fetch the file again") from None
            if not isinstance(row, dict):
                raise DataError(f"{path} line {number} is not a JSON object: one problem a line is expected")
            yield number, row


def _from_hub(name: str, origin: Origin) -> tuple[str, Iterator[tuple[int, dict[str, Any]]]]:
    import httpx
    from datasets import load_dataset  # here: importing it takes seconds, and the synthetic task needs none of it

    try:
        data = load_dataset(origin.hub, origin.config, split=origin.hub_split)
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        first = str(error).partition("\n")[0]
        raise DataError(
            f"data set {origin.hub} cannot be loaded ({type(error).__name__}: {first}): "
            f"set {DATA_ROOT_VARIABLE} to a folder with {origin.file}, or take task arithmetic"
        ) from None
    return f"{origin.hub} {origin.hub_split}", ((i, dict(row)) for i, row in enumerate(data))  # pyright: ignore[reportArgumentType]
