"""Parts, rating blocks and sums ↔ bytes: one Arrow IPC stream of one row each.

The bytes are self-describing and read without a copy, so a row of a table, a message and a file hold the same thing.

Conventions
    part    offset list<double>, and for each feature group g0, g1, …: `<g>.start` (start, width) and `<g>.values` if it
            is dense, else `<g>.columns`, `<g>.indptr`, `<g>.indices`, `<g>.data`
    block   row_pointer, item, rating, and weight and offset where there are any
    sums    for each name: `<name>.shape` and `<name>.values`, and `<name>.indices` for rows
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nimc_spark.kernels.features import DenseGroup, Group, Part, Rows, SparseGroup
from nimc_spark.kernels.ratings import RatingBlock
from nimc_spark.kernels.statistics import Sums

_Fields = dict[str, npt.NDArray[Any]]


def _encode(fields: _Fields) -> bytes:
    columns = [
        pa.LargeListArray.from_arrays(pa.array([0, values.size], pa.int64()), pa.array(values.ravel()))
        for values in fields.values()
    ]
    batch = pa.RecordBatch.from_arrays(columns, list(fields))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    payload: bytes = sink.getvalue().to_pybytes()
    return payload


def _decode(payload: bytes | pa.Buffer) -> _Fields:
    with pa.ipc.open_stream(payload) as reader:
        batch = reader.read_next_batch()
    return {
        name: column.flatten().to_numpy(zero_copy_only=True)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }


def encode_part(part: Part) -> bytes:
    fields: _Fields = {"offset": part.offset}
    for number, group in enumerate(part.groups):
        name = f"g{number}"
        if isinstance(group, DenseGroup):
            fields[f"{name}.start"] = np.array([group.start, group.values.shape[1]])
            fields[f"{name}.values"] = group.values
        else:
            fields[f"{name}.columns"] = group.columns
            fields[f"{name}.indptr"] = group.indptr
            fields[f"{name}.indices"] = group.indices
            fields[f"{name}.data"] = group.data
    return _encode(fields)


def decode_part(payload: bytes | pa.Buffer) -> Part:
    fields = _decode(payload)
    groups: list[Group] = []
    while True:
        name = f"g{len(groups)}"
        if f"{name}.start" in fields:
            start, width = (int(v) for v in fields[f"{name}.start"])
            groups.append(DenseGroup(start, fields[f"{name}.values"].reshape(len(fields["offset"]), width)))
        elif f"{name}.columns" in fields:
            groups.append(SparseGroup(*(fields[f"{name}.{f}"] for f in ("columns", "indptr", "indices", "data"))))
        else:
            return Part(fields["offset"], tuple(groups))


def encode_block(block: RatingBlock) -> bytes:
    fields: _Fields = {"row_pointer": block.row_pointer, "item": block.item, "rating": block.rating}
    if block.weight is not None:
        fields["weight"] = block.weight
    if block.offset is not None:
        fields["offset"] = block.offset
    return _encode(fields)


def decode_block(payload: bytes | pa.Buffer) -> RatingBlock:
    return RatingBlock(**_decode(payload))


def encode_sums(sums: Sums) -> bytes:
    fields: _Fields = {}
    for name, value in sums.items():
        array = value.values if isinstance(value, Rows) else value
        fields[f"{name}.shape"] = np.array(array.shape, np.int64)
        fields[f"{name}.values"] = array
        if isinstance(value, Rows):
            fields[f"{name}.indices"] = value.indices.astype(np.int64)
    return _encode(fields)


def decode_sums(payload: bytes | pa.Buffer) -> Sums:
    fields = _decode(payload)
    sums: Sums = {}
    for name in (key.removesuffix(".shape") for key in fields if key.endswith(".shape")):
        array = fields[f"{name}.values"].reshape(fields[f"{name}.shape"])
        indices = fields.get(f"{name}.indices")
        sums[name] = array if indices is None else Rows(indices, array)
    return sums
