"""Where a pass over Ω runs: as a Spark job, or in the driver's process where a job costs more than the pass itself.

The records, the kernels and the order of sums are the same, and so are the bits.
"""

from __future__ import annotations

from enum import Enum

from nimc_spark.data.local import LocalOracle
from nimc_spark.data.oracle import PassOracle
from nimc_spark.data.threads import processors
from nimc_spark.engine.blocks import Grid, RecordSet
from nimc_spark.engine.profile import RatingsProfile
from nimc_spark.engine.spark_oracle import SparkOracle, decode_record

# So many lanes of the default size in a row take about as long as a job (docs/adr/018-small-data-on-the-driver.md).
_LANES, _RATINGS = 4, 2_000_000


class PassesAt(Enum):
    """Where passes run."""

    DRIVER = "on the driver"
    EXECUTORS = "on executors"


def passes_at(profile: RatingsProfile, cut: Grid, matrices: bool) -> PassesAt:
    """The driver for few ratings in few lanes; where passes bring `matrices`, which are worth a job, for one lane."""
    few = profile.count <= _RATINGS and cut.user_parts <= (1 if matrices else _LANES)
    return PassesAt.DRIVER if few else PassesAt.EXECUTORS


def oracle_of(records: RecordSet, at: PassesAt) -> PassOracle:
    """Passes over records that Spark keeps."""
    if at is PassesAt.DRIVER:
        return collected(records)
    return SparkOracle(records.records.whole.sparkSession, records)


def collected(records: RecordSet) -> LocalOracle:
    """Passes over the records in this process, on all of its processors."""
    return LocalOracle([decode_record(**row) for row in records.records.whole.toArrow().to_pylist()], processors())
