"""Training that begins from an earlier model of the registry."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import train
from nimc_spark.io.registry import Registry
from nimc_spark.io.tables import Lake
from tests.jobs.conftest import Night


@pytest.mark.soak
def test_the_next_training_begins_where_the_last_one_ended(night: Night, spark: SparkSession, tmp_path: Path) -> None:
    place = night.copied(tmp_path)
    registry = Registry(Lake(spark, str(place.lake)), "tiny")
    begun = registry.resolve("production")
    place.run(train.main, train={"warm_start": "production"}).done()
    warm = registry.resolve("candidate")
    assert (warm.version, warm.lineage["warm_start"]) == (2, 1)
    assert warm.metrics["losses"][0] == pytest.approx(begun.metrics["loss"], rel=1e-6)
    place.run(train.main).done()
    assert registry.resolve("candidate").lineage["warm_start"] is None
    assert "not in" in place.run(train.main, train={"warm_start": 9}).refused(3)
    other = place.config["model"] | {"activation": "identity"}
    message = place.run(train.main, model=other, train={"warm_start": 1}).refused(2)
    assert "give the same activation" in message
