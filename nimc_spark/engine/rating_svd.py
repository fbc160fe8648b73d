"""The singular vectors of the training ratings as features of their ids; `data/rating_svd.py` finds them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame

from nimc_spark.data.rating_svd import rating_svd
from nimc_spark.engine.blocks import GridLimits, IndexedSide, SideData, build_blocks, grid
from nimc_spark.engine.passes_at import oracle_of, passes_at
from nimc_spark.engine.profile import RatingsProfile
from nimc_spark.errors import UsageError
from nimc_spark.kernels.model import SideName


def rating_vectors(
    ratings: DataFrame, profile: RatingsProfile, ranks: Mapping[SideName, int], limits: GridLimits
) -> dict[SideName, DataFrame]:
    """DataFrame(id, vector array<double>) of the sides in `ranks`: √n u_il of users, √n v_jl of items, l ≤ the side's
    rank, n the ids of the side with ratings(user, item, rating).

    They live on the driver. Raises UsageError for a rank that is not below the number of users and that of items.
    """
    # Blocks of their own: ids are their only features, and rounding to float32 would cost σ its last digits.
    ids_alone = dict.fromkeys(SideName, SideData(uses_id=True))
    blocks = build_blocks(ratings.select("user", "item", "rating"), profile, ids_alone, "float64", limits)
    at = passes_at(profile, grid(profile, ids_alone, "float64", limits), matrices=False)
    try:
        users, items = (blocks.sides[side].count for side in SideName)
        _check_ranks(ranks, users, items)
        svd = rating_svd(oracle_of(blocks, at), users, items, max(ranks.values()))
        vectors = {SideName.USERS: svd.users, SideName.ITEMS: svd.items}
        return {side: _of_ids(blocks.sides[side], vectors[side][:, :rank]) for side, rank in ranks.items()}
    finally:
        blocks.close()


def _check_ranks(ranks: Mapping[SideName, int], users: int, items: int) -> None:
    most = min(users, items) - 1
    for side, rank in ranks.items():
        if rank > most:
            allowed = f"at most {most} is allowed, one less than the fewer" if most else "too few for any"
            raise UsageError(
                f"the {side.value} declare {{kind: rating_svd, rank: {rank}}}, but the training ratings are of {users} "
                f"users and {items} items: {allowed}"
            )


def _of_ids(indexed: IndexedSide, vectors: npt.NDArray[np.float64]) -> DataFrame:
    """The rows of (n, k) vectors, which are in the order of the index, beside their ids, each column times √n."""
    rows = indexed.index.select("id", "index")
    ids = rows.toArrow().sort_by("index").column("id")
    scaled = np.sqrt(len(vectors)) * vectors
    ends = np.arange(len(scaled) + 1, dtype=np.int32) * scaled.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(ends), pa.array(scaled.ravel()))
    return rows.sparkSession.createDataFrame(pa.table({"id": ids, "vector": lists}))
