"""Parts, blocks and sums come back from their bytes bit for bit: any dtype, any size, NaN included."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nimc_spark.data.codec import (
    decode_block,
    decode_part,
    decode_sums,
    encode_block,
    encode_part,
    encode_sums,
)
from nimc_spark.data.local import LocalOracle
from nimc_spark.kernels.features import DenseGroup, Group, Part, Rows, SparseGroup
from nimc_spark.kernels.ratings import RatingBlock
from nimc_spark.kernels.statistics import Averages, Sums
from tests.unit.problems import STATISTICS, bits, small_problem

SIZES = st.integers(0, 5)
FLOATS = st.sampled_from([np.float32, np.float64])
INTEGERS = st.sampled_from([np.int32, np.int64])


def floats(dtype: type, *shape: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(dtype, shape)


@st.composite
def groups(draw: st.DrawFn, n: int) -> Group:
    dtype, index, width = draw(FLOATS), draw(INTEGERS), draw(SIZES)
    if draw(st.booleans()):
        return DenseGroup(draw(st.integers(0, 2**40)), draw(floats(dtype, n, width)))
    lengths = [draw(st.integers(0, width)) for _ in range(n)]
    indices = np.array([i for length in lengths for i in range(length)], index)
    pointer = np.concatenate([[0], np.cumsum(lengths)]).astype(index)
    columns = draw(st.integers(0, 2**40)) + np.arange(width, dtype=np.int64)
    return SparseGroup(columns, pointer, indices, draw(floats(dtype, len(indices))))


@st.composite
def parts(draw: st.DrawFn) -> Part:
    n = draw(SIZES)
    return Part(draw(floats(np.float64, n)), tuple(draw(groups(n)) for _ in range(draw(st.integers(0, 3)))))


@st.composite
def blocks(draw: st.DrawFn) -> RatingBlock:
    dtype, lengths = draw(FLOATS), draw(st.lists(SIZES, max_size=4))
    size = sum(lengths)
    pointer = np.concatenate([[0], np.cumsum(lengths)]).astype(draw(INTEGERS))
    optional = [draw(floats(dtype, size)) if draw(st.booleans()) else None for _ in range(2)]
    item = draw(arrays(np.int32, size, elements=st.integers(0, 2**31 - 1)))
    return RatingBlock(pointer, item, draw(floats(dtype, size)), *optional)


@st.composite
def sums(draw: st.DrawFn) -> Sums:
    found: Sums = {}
    for name in draw(st.lists(st.sampled_from(["loss", "users", "items", "a.b"]), unique=True, min_size=1)):
        if draw(st.booleans()):
            found[name] = draw(floats(np.float64, *draw(st.lists(SIZES, min_size=1, max_size=2))))
        else:
            m = draw(SIZES)
            found[name] = Rows(np.arange(m, dtype=np.int64), draw(floats(np.float64, m, draw(SIZES))))
    return found


@settings(max_examples=60, deadline=None)
@given(parts())
def test_parts(part: Part) -> None:
    assert bits(decode_part(encode_part(part))) == bits(part)


@settings(max_examples=40, deadline=None)
@given(blocks())
def test_blocks(block: RatingBlock) -> None:
    assert bits(decode_block(encode_block(block))) == bits(block)


@settings(max_examples=40, deadline=None)
@given(sums())
def test_sums(value: Sums) -> None:
    assert bits(decode_sums(encode_sums(value))) == bits(value)


@pytest.mark.parametrize(
    "part",
    [
        Part(np.empty(0), ()),
        Part(np.array([1.5, np.nan]), ()),
        Part(np.zeros(2), (DenseGroup(3, np.empty((2, 0), np.float32)),)),
        Part(np.empty(0), (DenseGroup(0, np.empty((0, 4))), DenseGroup(4, np.empty((0, 0))))),
        Part(np.zeros(2), (SparseGroup(np.empty(0, int), np.zeros(3, int), np.empty(0, int), np.empty(0)),)),
    ],
    ids=["nothing", "offsets alone", "no columns", "no rows", "no entry"],
)
def test_parts_at_the_edge(part: Part) -> None:
    assert bits(decode_part(encode_part(part))) == bits(part)


def test_a_part_keeps_the_order_of_more_than_ten_groups() -> None:
    part = Part(np.zeros(1), tuple(DenseGroup(i, np.array([[float(i)]])) for i in range(12)))
    assert bits(decode_part(encode_part(part))) == bits(part)


def test_columns_stored_row_after_row_whatever_their_memory_order() -> None:
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    decoded = decode_part(encode_part(Part(np.zeros(2), (DenseGroup(0, values),))))
    np.testing.assert_array_equal(decoded.groups[0].values, values)


def test_decoding_copies_nothing() -> None:
    payload = pa.py_buffer(encode_block(RatingBlock(np.array([0, 1]), np.array([0], np.int32), np.array([2.5]))))
    rating = decode_block(payload).rating
    start = rating.__array_interface__["data"][0]
    assert payload.address <= start < payload.address + payload.size
    assert not rating.flags.writeable


@pytest.mark.parametrize("encoding", ["dense", "sparse", "mixed"])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_pass_over_decoded_records_has_the_same_bits(statistic: type[Averages], encoding: str) -> None:
    problem = small_problem(encoding, users_activation="tanh")
    model, records = problem.model, problem.records(lanes=2, item_parts=2)
    decoded = [
        r._replace(
            payload=decode_part(encode_part(r.payload))
            if isinstance(r.payload, Part)
            else decode_block(encode_block(r.payload))
        )
        for r in records
    ]
    sets = [model.unravel(np.random.default_rng(2).normal(size=model.size))]
    wanted, got = (LocalOracle(r).run(statistic(), model, sets) for r in (records, decoded))
    assert bits(got) == bits(wanted)
