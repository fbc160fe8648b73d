"""A few lists with titles, for people."""

from __future__ import annotations

from itertools import islice
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs._config import Config
from nimc_spark.engine.index import quoted
from nimc_spark.io.contracts import ITEM, USER
from nimc_spark.kernels.model import SideName

_USERS, _ITEMS = 3, 5


def samples(config: Config, lists: DataFrame, items: DataFrame | None) -> list[dict[str, Any]]:
    """The first users' best items; the title is the item id where there is no title column.

    `lists` has user_id, rank, item_id, score and reasons, of which the features' names are given where there are any.
    """
    best = lists.where(F.col("rank") <= _ITEMS).select(USER, "rank", ITEM, "score", "reasons")
    # A list has one to `_ITEMS` rows here: these are of the first `_USERS`, and of more where lists are short. A user
    # with more rows, which is a fault, may take the place of others.
    rows = best.orderBy(USER, "rank").limit(_USERS * _ITEMS)
    title = config.columns.title
    if items is not None and title is not None and title in items.columns:
        rows = rows.join(items.select(ITEM, quoted(title).cast("string").alias("__nimc_title")), ITEM, "left")
    else:
        rows = rows.withColumn("__nimc_title", F.lit(None).cast("string"))
    found: dict[Any, list[dict[str, Any]]] = {}
    for row in rows.orderBy(USER, "rank").collect():
        entry = {"item_id": row[ITEM], "title": row["__nimc_title"] or str(row[ITEM]), "score": row["score"]}
        if row["reasons"]:
            entry["reasons"] = [f"{SideName(reason['side']).one} {reason['feature']}" for reason in row["reasons"]]
        found.setdefault(row[USER], []).append(entry)
    return [{USER: user, "items": entries} for user, entries in islice(found.items(), _USERS)]
