"""Held-out rows of a ratings table: by user, item, both, time or at random; the same rows whatever the partitioning.

    held out  ⇔  fold ≤ u(seed, key) / fraction < fold + 1      u = the first 53 bits of xxhash64(seed, key as string),
                                                                in [0, 1)

The key of `user` and `item` is the id; of `random`, the user, the item and, if there is one, the time. `both` draws
users and items independently and holds a row out if either is drawn. `time` has one global cut: the latest moment with
at least `fraction` of the rows at or after it; equal times stay together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from nimc_spark.engine.index import quoted
from nimc_spark.errors import DataError, UsageError

HELD_OUT = "__nimc_held_out"
KINDS = ("user", "item", "both", "time", "random")
# percentile_approx is at most 1/ACCURACY of the rows off; twice that on either side surely brackets the cut.
ACCURACY = 10_000


@dataclass(frozen=True)
class Split:
    """Which rows are held out; of different folds different ones, but for `time`, which has one fold.

    Raises UsageError for an unknown kind, a fraction outside (0, 1), or a fold that is not there.
    """

    by: str
    fraction: float
    seed: int = 0
    fold: int = 0

    def __post_init__(self) -> None:
        if self.by not in KINDS:
            raise UsageError(f"split by {self.by!r}: must be one of {', '.join(KINDS)}")
        if not 0 < self.fraction < 1:
            raise UsageError(f"split fraction is {self.fraction}: must lie between 0 and 1, both excluded")
        folds = 1 if self.by == "time" else int(1 / self.fraction + 1e-9)
        if not 0 <= self.fold < folds:
            raise UsageError(
                f"split by {self.by} with fraction {self.fraction} has {folds} folds: there is no fold {self.fold}"
            )

    def folds(self, count: int) -> list[Split]:
        """The first `count` folds. Raises UsageError where there are not so many."""
        return [replace(self, fold=fold) for fold in range(count)]


def flag_held_out(ratings: DataFrame, spec: Split, user_col: str, item_col: str, time_col: str | None) -> DataFrame:
    """`ratings` with the boolean column HELD_OUT; rows without a time are training rows of a split by time.

    Raises UsageError for a split by time without a time column that is a number, a date or a timestamp.
    """
    user, item = quoted(user_col), quoted(item_col)
    by_user, by_item = _drawn(spec, "user", user), _drawn(spec, "item", item)
    times = [] if time_col is None else [quoted(time_col)]
    conditions: dict[str, Callable[[], Column]] = {
        "user": lambda: by_user,
        "item": lambda: by_item,
        "both": lambda: by_user | by_item,
        "random": lambda: _drawn(spec, "random", user, item, *times),
        "time": lambda: _at_or_after_cut(ratings, spec.fraction, time_col),
    }
    return ratings.withColumn(HELD_OUT, conditions[spec.by]())


def split(
    ratings: DataFrame, spec: Split, user_col: str, item_col: str, time_col: str | None = None
) -> tuple[DataFrame, DataFrame]:
    """(train, held out): the two parts of `ratings`, columns unchanged. Raises as `flag_held_out` does."""
    flagged = flag_held_out(ratings, spec, user_col, item_col, time_col)
    held_out = quoted(HELD_OUT)
    return flagged.where(~held_out).drop(HELD_OUT), flagged.where(held_out).drop(HELD_OUT)


def check_split_counts(train: int, held_out: int, spec: Split) -> None:
    """Raise DataError if a part of the split has no rows."""
    for name, rows in (("training", train), ("held-out", held_out)):
        if not rows:
            raise DataError(
                f"the split by {spec.by} with fraction {spec.fraction} and seed {spec.seed} leaves no {name} rows "
                f"of {train + held_out}: choose another fraction or seed"
            )


def _drawn(spec: Split, tag: str, *key: Column) -> Column:
    # The tag keeps the draws of users and items apart where an id occurs on both sides.
    digest = F.xxhash64(F.lit(spec.seed).cast("long"), F.lit(tag), *[part.cast("string") for part in key])
    u = F.shiftrightunsigned(digest, 11) * F.lit(2.0**-53)
    return (u >= F.lit(spec.fold * spec.fraction)) & (u < F.lit((spec.fold + 1) * spec.fraction))


def _at_or_after_cut(ratings: DataFrame, fraction: float, time_col: str | None) -> Column:
    if time_col is None:
        raise UsageError("a split by time needs a time column: set columns.time (timeCol) or choose another split")
    kind = ratings.schema[time_col].dataType
    if not isinstance(kind, (T.NumericType, T.DateType, T.TimestampType, T.TimestampNTZType)):
        raise UsageError(
            f"a split by time needs a number, a date or a timestamp: column {time_col!r} is {kind.simpleString()}"
        )
    cut = _cut(ratings.select(quoted(time_col).alias("time")).dropna(), fraction)
    return F.coalesce(quoted(time_col) >= F.lit(cut).cast(kind), F.lit(False))


def _cut(times: DataFrame, fraction: float) -> Any:
    """The latest time with at least `fraction` of the rows at or after it, exactly; None without rows.

    An approximate percentile only brackets it, so that a small part of the distinct times reaches the driver.
    """
    margin = 2 / ACCURACY
    ends = [max(0.0, 1 - fraction - margin), min(1.0, 1 - fraction + margin)]
    bracket = times.agg(F.count("*").alias("rows"), F.percentile_approx("time", ends, ACCURACY).alias("ends")).first()
    if bracket is None or not bracket["rows"]:
        return None
    low, high = bracket["ends"]
    # Later times than the bracket's end count as its end: the cut is not among them.
    tally = times.where(F.col("time") >= F.lit(low)).groupBy(F.least("time", F.lit(high)).alias("time")).count()
    moments = sorted(tally.collect(), reverse=True)
    at_or_after = accumulate(rows for _, rows in moments)
    wanted = ceil(fraction * bracket["rows"])
    return next(moment for (moment, _), rows in zip(moments, at_or_after, strict=True) if rows >= wanted)
