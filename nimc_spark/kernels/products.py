"""Products of the ratings matrix R (n1, n2) with vectors; R_ij is the sum of the pair's ratings, 0 if it has none.

    RatingProduct   Xᵀ R Y W      (d1, c)
    RatingGram      Yᵀ RᵀR Y W    (d2, c)

W (d2, c) are the parameters of the items; those of the users have no part in it, nor have weights and offsets. Where
the features are one-hot ids, X and Y are identities: R W and RᵀR W. A lane has all ratings of its users, so that RᵀR W
is a plain sum over lanes, Σ R_laneᵀ (R_lane W), and one pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nimc_spark.kernels.features import Rows
from nimc_spark.kernels.model import backward
from nimc_spark.kernels.statistics import Lane, Sides, Sums, sum_rows


@dataclass(frozen=True)
class RatingProduct:
    """users = Xᵀ R Y W."""

    def of(self, lane: Lane, sides: Sides) -> Sums:
        return {"users": backward(lane.users, _product(lane, sides))}


@dataclass(frozen=True)
class RatingGram:
    """items = Yᵀ Rᵀ R Y W."""

    def of(self, lane: Lane, sides: Sides) -> Sums:
        product = _product(lane, sides)
        rows: list[Rows] = []
        for _, part, block in lane.blocks:
            rows.append(backward(part, block.matrix(block.rating, part.rows).T @ product))
        return {"items": sum_rows(rows, sides.model.columns)}


def _product(lane: Lane, sides: Sides) -> npt.NDArray[np.float64]:
    """R Y W of the lane's users, (n, c)."""
    product = np.zeros((lane.users.rows, sides.model.columns))
    for number, part, block in lane.blocks:
        product += block.matrix(block.rating, part.rows) @ sides.items(number, part).inputs
    return product
