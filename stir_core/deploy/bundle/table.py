"""``actions.parquet``: one row for each entry, with its origin and the reader's marks. Row i belongs to row i of the tensors."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from stir_core.deploy.bundle.manifest import MAX_ENTRIES
from stir_core.deploy.bundle.untrusted import AGAIN
from stir_core.errors import DeployError, first_line
from stir_core.records import Entry
from stir_core.store.curated import Origin

if TYPE_CHECKING:
    import pyarrow as pa

MAX_TABLE = 256 << 20
"""Maximum size in bytes of the unpacked table; a packed one can be far smaller."""
_ENCODINGS = {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY", "BIT_PACKED"}
"""What :func:`table_bytes` writes. In others, such as DELTA_BYTE_ARRAY, a few bytes may stand for many."""
_MARKS = tuple(field for field in Origin.model_fields if field != "entry_id")


def table_bytes(entries: Sequence[Entry], origins: Sequence[Origin]) -> bytes:
    """The table as a Parquet file; the same rows give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = zip(entries, origins, strict=True)
    plain = [entry.model_dump() | {field: getattr(origin, field) for field in _MARKS} for entry, origin in rows]
    listed = [{key: list(value) if isinstance(value, tuple) else value for key, value in row.items()} for row in plain]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(listed, schema=table_schema()), out, compression="zstd")
    return out.getvalue()


def table_rows(path: Path, data: bytes, n: int) -> tuple[tuple[Entry, ...], tuple[Origin, ...]]:
    """Read an untrusted table of ``n`` rows: its columns and sizes are checked before it is unpacked.

    Raises:
        DeployError: not a Parquet file, other columns or counts, or a row that is not an entry.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        facts, names = file.metadata, file.schema_arrow.names
        if facts.num_rows != n or n > MAX_ENTRIES:
            raise DeployError(f"{path} has {facts.num_rows:,} rows, its manifest says {n:,}: {AGAIN}")
        if not file.schema_arrow.equals(table_schema()):
            odd = sorted(set(names) ^ set(table_schema().names))
            raise DeployError(f"{path} has other columns than a bundle's ({odd[0][:40] if odd else 'other types'}): {AGAIN}")
        chunks = (facts.row_group(i).column(j) for i in range(facts.num_row_groups) for j in range(facts.num_columns))
        if odd := next((each for chunk in chunks for each in chunk.encodings if each not in _ENCODINGS), None):
            raise DeployError(f"{path} is written in the encoding {odd}, which a bundle's table does not use: {AGAIN}")
        unpacked = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
        if unpacked > MAX_TABLE:
            raise DeployError(f"{path} would unpack to {unpacked >> 20:,} MB, more than {MAX_TABLE >> 20}: {AGAIN}")
        read = pq.ParquetFile(io.BytesIO(data), read_dictionary=_texts()).read(use_threads=False)  # a repeated text is held once
        if (decoded := sum(map(_decoded, read.columns))) > MAX_TABLE:
            raise DeployError(f"{path} would unpack to {decoded >> 20:,} MB, more than {MAX_TABLE >> 20}: {AGAIN}")
        rows = read.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DeployError(f"{path} is not a whole Parquet file ({first_line(error, 120)}): {AGAIN}") from None
    entries, origins = zip(*(_row(path, i, row) for i, row in enumerate(rows)), strict=True)
    return entries, origins


def _row(path: Path, i: int, row: dict) -> tuple[Entry, Origin]:
    marks = {field: row.pop(field) for field in _MARKS}
    try:
        entry = Entry.model_validate(row)
        return entry, Origin.model_validate({"entry_id": entry.id, **marks})
    except ValidationError as error:
        first = error.errors()[0]
        raise DeployError(f"{path} row {i} is not an entry ({first['loc'][0]}: {first['msg']}): {AGAIN}") from None


def _texts() -> list[str]:
    """Parquet's names of all columns of text."""
    import pyarrow as pa

    lists = [field.name for field in table_schema() if pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type)]
    return [field.name for field in table_schema() if pa.types.is_string(field.type)] + [f"{name}.list.element" for name in lists]


def _decoded(column: "pa.ChunkedArray") -> int:
    """Bytes of a column with each text written out, computed without writing them out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    total = 0
    for chunk in column.chunks:
        while pa.types.is_list(chunk.type):
            total += chunk.nbytes
            chunk = chunk.flatten()
        if not pa.types.is_dictionary(chunk.type):
            total += chunk.nbytes
            continue
        lengths = pc.call_function("binary_length", [chunk.dictionary]).cast(pa.int64())
        total += pc.call_function("sum", [lengths.take(chunk.indices)]).as_py() or 0
    return total


def table_schema() -> "pa.Schema":
    """Columns of the table and their types."""
    import pyarrow as pa

    text, whole, number, flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()
    columns = {
        **dict.fromkeys(("id", "kind"), text), "pair": whole, "problem_id": text, **dict.fromkeys(("m", "layer"), whole),
        **dict.fromkeys(("quality", "reward_pos", "reward_neg"), number), **dict.fromkeys(("positives", "negatives"), pa.list_(whole)),
        "pos_source": text, **dict.fromkeys(("key_row", "action_row"), whole), **dict.fromkeys(("key_norm", "action_norm"), number),
        "reachable": flag, "name": text, "starred": flag, "tags": pa.list_(text), "note": text,
        "members": pa.list_(text), "weights": pa.list_(number),
    }  # fmt: skip
    return pa.schema(columns)
