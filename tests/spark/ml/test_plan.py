"""What a plan foretells against what training then has."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nimc_spark import NIMC
from nimc_spark.errors import UsageError
from nimc_spark.kernels.features import Rows
from nimc_spark.kernels.statistics import LossGradient
from nimc_spark.ml.plan import training_plan
from nimc_spark.ml.problem import training_problem
from nimc_spark.ml.training import Fit
from tests.spark.ml.conftest import ITEM_FEATURES, Toy

HISTORY = {"kind": "history"}


@pytest.mark.parametrize(
    ("users", "items", "settings"),
    [
        pytest.param(None, None, {}, marks=pytest.mark.soak),
        ([{"kind": "passthrough", "column": "features"}, HISTORY], ITEM_FEATURES, {"ratingsPerLane": 60}),
        ([{"kind": "id"}, HISTORY], [{"kind": "id"}, HISTORY], {"starts": 2, "dtype": "float64"}),
    ],
)
def test_a_plan_foretells_what_training_has(toy: Toy, users: Any, items: Any, settings: dict[str, Any]) -> None:
    nimc = NIMC(rank=3, userFeatures=users, itemFeatures=items, **settings)
    if users is not None:
        nimc = nimc.setUsers(toy.users).setItems(toy.items)
    inputs = nimc.inputs(toy.train.sparkSession)
    plan = training_plan(nimc, toy.train, inputs)
    with training_problem(nimc, toy.train, inputs) as found:
        fit, blocks = Fit(nimc, found), found.blocks
        layouts = found.layouts.values()
        stored = blocks.records.whole.agg(F.sum(F.octet_length("payload"))).first()
        point = fit.model.unravel(fit.starts[0])
        sums = found.oracle.run(LossGradient(), fit.model, [point])[0]
        gradient = sum(rows.values.nbytes for rows in sums.values() if isinstance(rows, Rows))
    assert (plan.ratings, plan.solver, plan.dtype) == (found.profile.count, found.plan.solver, found.plan.dtype)
    assert plan.lanes >= len(blocks.lanes) >= plan.lanes - 1
    assert [plan.user_columns, plan.item_columns] == pytest.approx([layout.width for layout in layouts], rel=0.1)
    assert plan.parameters == pytest.approx(fit.model.size, rel=0.1)
    # Small payloads are mostly Arrow's own headers, which a plan leaves out.
    assert stored is not None
    assert plan.blocks <= stored[0]
    assert plan.pass_returns >= 0.9 * gradient * len(fit.starts)
    assert plan.driver_memory > 40 * 8 * plan.parameters * len(fit.starts)
    assert 0 < plan.seconds < 60
    assert set(plan.conf(2, 8)) == {
        "spark.driver.maxResultSize",
        "spark.driver.memory",
        "spark.executor.memoryOverhead",
        "spark.sql.shuffle.partitions",
    }


def test_items_are_cut_for_the_cache_but_not_for_matrices(spark: SparkSession) -> None:
    ratings = spark.range(20_000).selectExpr("id % 50 AS user", "id % 5000 AS item", "double(id % 7) AS rating")
    models = {solver: NIMC(rank=2, solver=solver) for solver in ("lbfgs", "lm")}
    parts = {solver: training_plan(nimc, ratings, nimc.inputs(spark)).item_parts for solver, nimc in models.items()}
    assert parts == {"lbfgs": 2, "lm": 1}


def test_a_plan_refuses_what_training_would(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nimc_spark.ml.problem.driver_memory", lambda: 2**13)
    nimc = NIMC(rank=3)
    with pytest.raises(UsageError, match=r"leave out the ids of users \(\d+ columns\)"):
        training_plan(nimc, toy.train, nimc.inputs(toy.train.sparkSession))
