"""Reading benchmark problems: from files below ``STIR_DATA_ROOT``, else from the Hugging Face hub.

No rows come with the package. A missing file or data set is an error that says what to do, never an empty task. Ids are the data set's own
where every copy of it shares them, else a digest of the question, so they do not depend on the source.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from stir_core.errors import DataError
from stir_core.records import Problem
from stir_core.tasks.catalogue import SOURCES, TASKS, SplitSource
from stir_core.tasks.rows import BenchmarkRow, fingerprint, hashed

DATA_ROOT_VARIABLE = "STIR_DATA_ROOT"


def benchmark_problems(name: str, split: str) -> tuple[Problem, ...]:
    """All problems of one split of a benchmark, in file order.

    Args:
        name: a benchmark's name.
        split: one of its own splits, not a role.

    Raises:
        DataError: no such split, the file or data set is not there, or a row cannot be read.
    """
    if split not in SOURCES[name]:
        raise DataError(f"task {name} has no split {split!r}: take one of {', '.join(SOURCES[name])}")
    return read_benchmark(name, split, os.environ.get(DATA_ROOT_VARIABLE, ""))


@lru_cache(maxsize=32)
def read_benchmark(name: str, split: str, root: str) -> tuple[Problem, ...]:
    """All problems of one split, in the data set's order, read once: from its file below ``root`` or, where that is empty, from the hub.

    Raises:
        DataError: the file or the data set cannot be read, or holds no problem of this split.
    """
    source = SOURCES[name][split]
    where, raw = (str(Path(root) / source.file), _lines(Path(root) / source.file)) if root else _from_hub(source)
    problems, seen = list[Problem](), Counter[str]()
    for row in islice(_mapped(where, raw, source), source.rows.start, source.rows.stop):
        if source.part is not None and not source.part(row):
            continue
        fields = row._asdict()
        key = fields.pop("key") or f"{hashed(row.question):016x}"[:10]
        seen[key] += 1
        suffix = f"-{seen[key]}" if seen[key] > 1 else ""  # the data set has this question more than once
        problems.append(Problem(id=f"{name}/{split}/{key}{suffix}", task=name, split=split, kind=TASKS[name].kind, **fields))
    if not problems:
        raise DataError(f"{where} holds no problems of split {split!r} of task {name}: check the file against the data set's own")
    return tuple(problems)


def _mapped(where: str, raw: Iterable[tuple[int, dict[str, Any]]], source: SplitSource) -> Iterator[BenchmarkRow]:
    for line, row in raw:
        try:
            mapped = source.read(row)
        except KeyError as error:
            raise DataError(f"{where} row {line} has no field {error}: compare it with {source.hub}") from None
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(f"{where} row {line} cannot be read ({error}): compare it with {source.hub}") from None
        if not mapped.question or not mapped.answer or not fingerprint(mapped.question):
            raise DataError(f"{where} row {line} has an empty question or answer: compare it with {source.hub}")
        yield mapped


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise DataError(f"benchmark file {path} is not there: set {DATA_ROOT_VARIABLE} to a folder that has it, or unset it to use the hub")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
                json.dumps(row, ensure_ascii=False).encode("utf-8")
            except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested too deeply, or half of a character
                raise DataError(f"{path} line {number} is not JSON ({error}): fetch the file again") from None
            if not isinstance(row, dict):
                raise DataError(f"{path} line {number} is not a JSON object: write one problem per line")
            yield number, row


def _from_hub(source: SplitSource) -> tuple[str, Iterator[tuple[int, dict[str, Any]]]]:
    import httpx
    from datasets import load_dataset  # here: importing it takes seconds, and the synthetic task needs none of it

    try:
        data = load_dataset(source.hub, source.config, split=source.hub_split)
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        first = str(error).partition("\n")[0]
        raise DataError(
            f"data set {source.hub} cannot be loaded ({type(error).__name__}: {first}): "
            f"set {DATA_ROOT_VARIABLE} to a folder with {source.file}, or take task arithmetic"
        ) from None
    return f"{source.hub} {source.hub_split}", ((i, dict(row)) for i, row in enumerate(data))  # pyright: ignore[reportArgumentType]
