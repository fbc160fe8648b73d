"""The middle of a pass: compiled loop, numpy twin and a plain loop agree; the switch NIMC_NUMBA."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from nimc_spark.kernels import ratings
from nimc_spark.kernels._numba import HAVE_NUMBA
from nimc_spark.kernels.ratings import RatingBlock, inner_products, middle, middle_numpy, rating_weights

# A user's sums run over a few hundred products here: rounding of that many additions, with room.
ROUNDING = {"float64": 1e-13, "float32": 2e-5}


def block_of(dtype: str, optional: bool, users: int = 30, items: int = 17, size: int = 900) -> RatingBlock:
    """Ratings of random pairs, repeats among them; the first and the last user have none."""
    random = np.random.default_rng(3)
    user = np.sort(random.integers(1, users - 1, size))
    pointer = np.searchsorted(user, np.arange(users + 1)).astype(np.int32)
    extra = [random.uniform(0.5, 2, size), random.normal(size=size)] if optional else []
    item = random.integers(0, items, size).astype(np.int32)
    return RatingBlock(pointer, item, random.normal(size=size).astype(dtype), *(v.astype(dtype) for v in extra))


def scores_of(dtype: str, columns: int = 12, users: int = 30, items: int = 17) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(4)
    return random.normal(size=(users, columns)).astype(dtype), random.normal(size=(items, columns)).astype(dtype)


def plain_middle(block: RatingBlock, p: np.ndarray, q: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The formula, a rating at a time, in float64."""
    p, q = p.astype(np.float64), q.astype(np.float64)
    loss, eq, ep = 0.0, np.zeros_like(p), np.zeros_like(q)
    for t, (i, j) in enumerate(zip(block.users(), block.item, strict=True)):
        w = 1.0 if block.weight is None else float(block.weight[t])
        offset = 0.0 if block.offset is None else float(block.offset[t])
        error = float(p[i] @ q[j]) + offset - float(block.rating[t])
        loss += 0.5 * w * error**2
        eq[i] += w * error * q[j]
        ep[j] += w * error * p[i]
    return loss, eq, ep


@pytest.mark.parametrize("optional", [True, False], ids=["weights and offsets", "neither"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("path", ["compiled", "numpy"])
def test_middle_is_its_formula(path: str, dtype: str, optional: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "compiled" and not HAVE_NUMBA:
        pytest.skip("numba is absent")
    monkeypatch.setattr(ratings, "HAVE_NUMBA", path == "compiled")
    block, (p, q) = block_of(dtype, optional), scores_of(dtype)
    for got, wanted in zip(middle(block, p, q), plain_middle(block, p, q), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=ROUNDING[dtype] * np.abs(wanted).max())


@pytest.mark.skipif(not HAVE_NUMBA, reason="numba is absent")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_twin_equals_the_compiled_loop(dtype: str) -> None:
    block, (p, q) = block_of(dtype, True), scores_of(dtype)
    compiled, twin = middle(block, p, q), middle_numpy(block, p, q)
    assert compiled[1].dtype == twin[1].dtype == np.dtype(dtype)
    for left, right in zip(compiled, twin, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=ROUNDING[dtype] * np.abs(right).max())


@pytest.mark.skipif(not HAVE_NUMBA, reason="numba is absent")
def test_non_finite_numbers_reach_the_loss_of_the_compiled_loop() -> None:
    block, (p, q) = block_of("float64", True), scores_of("float64")
    p[5, 0] = np.nan
    assert np.isnan(middle(block, p, q)[0])
    p[5, 0] = 1e300
    assert np.isinf(middle(block, p, q)[0])


def test_a_block_of_no_ratings_adds_nothing() -> None:
    block = RatingBlock(np.zeros(31, np.int32), np.empty(0, np.int32), np.empty(0))
    loss, eq, ep = middle(block, *scores_of("float64"))
    assert (loss, np.abs(eq).max(), np.abs(ep).max()) == (0.0, 0.0, 0.0)


def test_users_weights_and_targets_of_a_block() -> None:
    block = RatingBlock(np.array([0, 2, 2, 3]), np.array([4, 4, 1]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(block.users(), [0, 0, 2])
    np.testing.assert_array_equal(rating_weights(block), [1, 1, 1])
    np.testing.assert_array_equal(block.target(), [1, 2, 3])
    more = RatingBlock(block.row_pointer, block.item, block.rating, np.array([0.5, 2, 1]), np.array([1.0, -1, 0]))
    np.testing.assert_array_equal(rating_weights(more), [0.5, 2, 1])
    np.testing.assert_array_equal(more.target(), [0, 3, 3])
    p, q = scores_of("float64", columns=3, users=3, items=5)
    np.testing.assert_allclose(inner_products(block, p, q), (p @ q.T)[[0, 0, 2], [4, 4, 1]], rtol=1e-13)


_SWITCHED_OFF = """
import sys
import numpy as np
from nimc_spark.kernels import ratings
from nimc_spark.kernels.ratings import RatingBlock, middle
assert "numba" not in sys.modules and not ratings.HAVE_NUMBA
block = RatingBlock(np.array([0, 2, 3], np.int32), np.array([0, 1, 1], np.int32), np.array([1.0, 2.0, 3.0]))
loss, eq, ep = middle(block, np.array([[1.0], [2.0]]), np.array([[3.0], [5.0]]))
print(loss, *eq.ravel(), *ep.ravel())
"""


def test_numba_can_be_switched_off() -> None:
    # Errors 3 − 1, 5 − 2 and 10 − 3.
    environment = {**os.environ, "NIMC_NUMBA": "0"}
    done = subprocess.run([sys.executable, "-c", _SWITCHED_OFF], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [float(v) for v in done.stdout.split()] == [(4 + 9 + 49) / 2, 6 + 15, 35, 2, 3 + 14]
