"""Parquet files as rows: read with bounded memory, and written. pyarrow is loaded with the first file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from shared.errors import InvalidRequest, PayloadTooLarge

MAX_FILE_BYTES: Final = 2 * 2**30
MAX_ROW_GROUP_BYTES: Final = 512 * 2**20
ROWS: Final = 256


def read(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The rows of a file given in chunks. Raises InvalidRequest or PayloadTooLarge where it cannot be read on."""
    import pyarrow.parquet as parquet
    from pyarrow import ArrowException

    with tempfile.TemporaryFile() as file:  # the index of a Parquet file is at its end
        for chunk in chunks:
            file.write(chunk)
            if file.tell() > MAX_FILE_BYTES:
                raise PayloadTooLarge(f"A file of more than {MAX_FILE_BYTES:,} bytes is not read.", "input_blob")
        number = 0
        try:
            opened = parquet.ParquetFile(file)
            groups = (opened.metadata.row_group(n).total_byte_size for n in range(opened.metadata.num_row_groups))
            if max(groups, default=0) > MAX_ROW_GROUP_BYTES:
                raise PayloadTooLarge(f"A row group has more than {MAX_ROW_GROUP_BYTES:,} bytes: write smaller ones.",
                                      "input_blob")
            for batch in opened.iter_batches(ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield row
        except (ArrowException, OSError) as error:
            raise InvalidRequest(f"The Parquet file cannot be read after row {number:,}: {error}", "input_blob") from None


def write(rows: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> bytes:
    """The file of rows whose columns have these types, by pyarrow's names; `moment` is a time in UTC. None is a gap."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    named = {"moment": pa.timestamp("us", tz="UTC")}
    schema = pa.schema([(name, named.get(kind) or pa.type_for_alias(kind)) for name, kind in types.items()])
    out = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows, schema), out)
    return bytes(out.getvalue())
