"""A screening's table in Parquet, as pyarrow reads it, against the cells that it must have."""

import json
import struct
import sys

import pyarrow as pa
import pyarrow.parquet as pq

table, expected = sys.argv[1:]

file = pq.ParquetFile(table)
expected = [json.loads(line) for line in open(expected, encoding="utf-8", newline="\n")]
names, rows = expected[0], expected[1:]
types = {"file": pa.string(), "id": pa.string(), "duplicate": pa.bool_(), "base_cut": pa.bool_(), "row": pa.int64(), "message": pa.int64(), "tokens": pa.int64()}
schema = file.schema_arrow
assert schema.names == names, schema.names
for field in schema:
    assert field.type == types.get(field.name, pa.float64()), field
    optional = field.name == "message" or field.name.endswith(("_base", "_delta"))
    assert field.nullable == optional, field
groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
assert max(group.num_rows for group in groups) <= 10_000, groups
assert all(group.column(column).compression == "ZSTD" for group in groups for column in range(len(names)))


def cell(value):
    # Numbers by their bits: a float that is read from text may be another in its last one.
    return str(struct.unpack("<Q", struct.pack("<d", value))[0]) if isinstance(value, float) else value


found = file.read().to_pylist()
assert len(found) == len(rows), len(found)
for at, (found, row) in enumerate(zip(found, rows)):
    found = [cell(value) for value in found.values()]
    assert found == row, (at, found, row)
