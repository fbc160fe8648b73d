"""`applyInArrow` of a module-level function with bound arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, GroupedData


def apply_grouped(grouped: GroupedData, function: Callable[..., pa.Table], schema: str, **bound: Any) -> DataFrame:
    """`function(table, **bound)` of every group, as a DataFrame of `schema`."""
    # Spark 4.2 reads the type hints of what it is given, and fails on those of a partial: give it something without.
    return grouped.applyInArrow(lambda table: function(table, **bound), schema)
