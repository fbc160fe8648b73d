"""The leading singular vectors of the ratings matrix, by passes: R ≈ U diag(σ) Vᵀ.

R (n1, n2) holds the ratings, 0 where a pair has none. ARPACK finds the eigenvectors of RᵀR by products with one vector,
a pass each; one more pass gives R V = U diag(σ). This is what scipy's `svds` does of a tall matrix, in half the passes:
`kernels/products.py` has RᵀR in one. Only vectors of n1 or n2 numbers a rank reach the driver.

The start vector, the order (σ falls) and the signs (the entry of a v_l that is largest in absolute value is positive)
are fixed, and a pass has the same bits wherever it runs: so have the vectors.
Source: the experiments of the NIMC paper, whose movie features are right singular vectors of the training ratings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from nimc_spark.data.oracle import PassOracle
from nimc_spark.data.threads import one_blas_thread
from nimc_spark.errors import DataError
from nimc_spark.kernels.features import Rows, dense_rows
from nimc_spark.kernels.model import Model, Parameters, Vector
from nimc_spark.kernels.products import RatingGram, RatingProduct
from nimc_spark.kernels.statistics import Sums, rows_of

Matrix = npt.NDArray[np.float64]

_TOLERANCE = 1e-12
# A singular value below this share of the largest is rounding: RᵀR squares what is lost.
_NO_DIRECTION = 1e-7


class RatingSvd(NamedTuple):
    """U (n1, k) and V (n2, k) of orthonormal columns, σ (k,) falling; from the rank of R on all of them are 0."""

    users: Matrix
    values: Vector
    items: Matrix


def rating_svd(passes: PassOracle, users: int, items: int, rank: int) -> RatingSvd:
    """The `rank` leading singular triplets of a data set whose features are one-hot ids alone, in float64.

    rank < min(users, items). Raises DataError where there are none.
    """

    def gram(v: Vector) -> Vector:
        sums = passes.run(RatingGram(), _ids_model(users, items, 1), [_items_alone(v.reshape(-1, 1))])[0]
        return dense_rows(rows_of(sums, "items"), items)[:, 0]

    operator = LinearOperator((items, items), matvec=gram, dtype=np.float64)
    random = np.random.default_rng(0)
    with one_blas_thread():
        try:
            _, v = eigsh(operator, rank, which="LA", v0=random.standard_normal(items), tol=_TOLERANCE, rng=random)
        except ArpackError as error:
            raise DataError(f"the ratings have no singular vectors; all of them may be 0: {error}") from None
        sums = passes.run(RatingProduct(), _ids_model(users, items, rank), [_items_alone(v)])[0]
        return _ordered(dense_rows(rows_of(sums, "users"), users), v)


def _ordered(scaled: Matrix, v: Matrix) -> RatingSvd:
    """The triplets of R V = U diag(σ), in their order and with their signs."""
    sizes = np.linalg.norm(scaled, axis=0)
    order = np.argsort(-sizes, kind="stable")
    scaled, v, sizes = scaled[:, order], v[:, order], sizes[order]
    found = sizes > _NO_DIRECTION * sizes[0]
    signs = np.sign(v[np.argmax(np.abs(v), axis=0), np.arange(v.shape[1])]) * found
    return RatingSvd(scaled * (signs / np.where(found, sizes, 1.0)), sizes * found, v * signs)


def _ids_model(users: int, items: int, vectors: int) -> Model:
    return Model(vectors, users, items, linear=False, dtype="float64")


def _items_alone(vectors: Matrix) -> Parameters:
    return Parameters(np.zeros((0, vectors.shape[1])), vectors)
