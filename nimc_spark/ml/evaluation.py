"""A model on held-out ratings, beside trivial baselines on the same rows.

    global_mean μ · item_mean μ + b_j · user_mean μ + b_i
    popularity: number of training ratings · liked: number of those that reach the threshold (lists only)

Biases are shrunken and fitted on the training ratings alone (`engine/baselines.py`); unknown ids have bias 0. Lists are
drawn from the items with training ratings, without those that the user rated in training; an item is relevant to a user
whose held-out rating of it reaches the threshold. A model that ranks has no rating errors: its scores are no ratings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from nimc_spark.engine.baselines import Baseline, Shrinkage, fit_means
from nimc_spark.engine.context import held
from nimc_spark.engine.evaluation import (
    CalibrationBin,
    calibration,
    cell_name,
    evaluate_ranking,
    evaluate_ratings,
    item_information,
)
from nimc_spark.engine.index import quoted
from nimc_spark.engine.pairs import BASELINE
from nimc_spark.engine.topk import top_k
from nimc_spark.ml.model import NIMCModel
from nimc_spark.ml.ratings import canonical_ratings


@dataclass(frozen=True)
class Ranking:
    """Lists of length k; held-out ratings from `relevant` on are hits."""

    k: int
    relevant: float

    @staticmethod
    def of(model: NIMCModel, k: int, relevant: float | None) -> Ranking | None:
        """Lists of length k where a threshold says what is relevant; a model that ranks has one of its own."""
        if relevant is None and model.ranks:
            threshold = model.optional("positiveFrom")
            relevant = -math.inf if threshold is None else threshold
        return None if relevant is None else Ranking(k, relevant)


class Evaluation(NamedTuple):
    """`cells` is {"new_user/known_item": {"n": rows, "model": {"rmse", "mae", "ndcg@k", …}, "item_mean": {…}, …}, …};
    `calibration` is of the model's predictions, over all cells, empty for one that ranks."""

    cells: dict[str, dict[str, Any]]
    calibration: list[CalibrationBin]


def evaluate_model(
    model: NIMCModel, training: DataFrame, held_out: DataFrame, ranking: Ranking | None, bins: int = 0
) -> Evaluation:
    """The model on held-out ratings; its calibration in so many `bins`."""
    own = canonical_ratings(model, training)
    shrinkage = Shrinkage(model.getOrDefault("itemShrinkage"), model.getOrDefault("userShrinkage"))
    means = fit_means(own, shrinkage)
    with held(_flagged(model, own, held_out)) as flagged, model.heldFactors():
        columns = {} if model.ranks else {"model": "model"}
        columns |= {name: name for name in ("global_mean", "item_mean", "user_mean")}
        alike: list[CalibrationBin] = []
        with held(_with_means(flagged if model.ranks else _with_scores(model, flagged), means)) as scored:
            cells = evaluate_ratings(scored, "rating", columns, "user_known", "item_known")
            if bins and not model.ranks:
                alike = calibration(scored, "rating", "model", bins)
        if ranking is not None:
            _add_rankings(cells, model, own, flagged, ranking)
    return Evaluation(cells, alike)


def overall(cells: Mapping[str, Mapping[str, Any]], predictor: str) -> dict[str, float]:
    """{"rmse", "ndcg"} of a predictor over all cells of an `Evaluation`, without those that no cell has.

    rmse = √(Σ n rmse² / Σ n) over ratings, ndcg = Σ users ndcg / Σ users
    """
    found: dict[str, float] = {}
    own = [(cell["n"], cell[predictor]) for cell in cells.values() if predictor in cell]
    errors = [(n, of["rmse"]) for n, of in own if "rmse" in of]
    if errors:
        found["rmse"] = math.sqrt(math.fsum(n * rmse**2 for n, rmse in errors) / sum(n for n, _ in errors))
    gains = [(of["users"], v) for _, of in own for name, v in of.items() if name.startswith("ndcg@") and of["users"]]
    if gains:
        found["ndcg"] = math.fsum(n * gain for n, gain in gains) / sum(n for n, _ in gains)
    return found


def _flagged(model: NIMCModel, training: DataFrame, held_out: DataFrame) -> DataFrame:
    """DataFrame(user, item, rating − offset, user_known, item_known): known = has a training rating."""
    rows = canonical_ratings(model, held_out)
    if "offset" in rows.columns:
        rows = rows.withColumn("rating", F.col("rating") - F.col("offset"))
    rows = rows.select("user", "item", "rating")
    for side in ("user", "item"):
        ids = training.select(side).distinct().withColumn(f"{side}_known", F.lit(True))
        rows = rows.join(ids, side, "left").fillna({f"{side}_known": False})
    return rows


def _with_scores(model: NIMCModel, rows: DataFrame) -> DataFrame:
    """The rows with the column `model`, whatever names the model's columns have."""
    user, item, prediction = (model.getOrDefault(name) for name in ("userCol", "itemCol", "predictionCol"))
    # Longer than each of those names, so none of them.
    beside = f"beside_{user}_{item}_{prediction}"
    others = [name for name in rows.columns if name not in ("user", "item")]
    pairs = rows.select(F.col("user").alias(user), F.col("item").alias(item), F.struct(*others).alias(beside))
    scored = model.transform(pairs)
    known = [quoted(beside).getField(name).alias(name) for name in others]
    return scored.select(
        quoted(user).alias("user"), quoted(item).alias("item"), *known, quoted(prediction).alias("model")
    )


def _with_means(rows: DataFrame, means: Baseline) -> DataFrame:
    rows = rows.withColumn("global_mean", F.lit(means.mean))
    for side, biases in (("item", means.items), ("user", means.users)):
        if biases is not None:
            table = biases.select(F.col("id").alias(side), F.col("offset").alias("bias"))
            mean = F.lit(means.mean) + F.coalesce("bias", F.lit(0.0))
            rows = rows.join(table, side, "left").withColumn(f"{side}_mean", mean).drop("bias")
    return rows


def _add_rankings(
    cells: dict[str, dict[str, Any]],
    model: NIMCModel,
    training: DataFrame,
    flagged: DataFrame,
    ranking: Ranking,
) -> None:
    """Ranking metrics into the cells of known items."""
    wanted = flagged.where(F.col("item_known") & (F.col("rating") >= ranking.relevant)).select(
        "user", "item", "user_known"
    )
    counted = training.groupBy(F.col("item").alias("id")).agg(
        F.count("*").cast("double").alias("popularity"),
        F.count_if(F.col("rating") >= ranking.relevant).cast("double").alias("liked"),
    )
    informed = counted.join(item_information(training).withColumnRenamed("item", "id"), "id")
    with held(wanted.select("user", "user_known").distinct()) as users, held(informed) as catalogue:
        size = catalogue.count()
        seen = training.select("user", "item").join(users.select("user"), "user", "semi")
        lists = {
            "model": _model_lists(model, users, catalogue, seen, ranking.k),
            **{n: _fixed_lists(users, catalogue, F.col(n), seen, ranking.k) for n in ("popularity", "liked")},
        }
        for name, frame in lists.items():
            frame = frame.join(catalogue.select(F.col("id").alias("item"), "information"), "item")
            with held(frame.join(users, "user")) as kept:
                _add_ranking(cells, name, kept, wanted, ranking.k, size)


def _add_ranking(
    cells: dict[str, dict[str, Any]], name: str, lists: DataFrame, wanted: DataFrame, k: int, catalogue_size: int
) -> None:
    for known in (True, False):
        cell = cells.get(cell_name(known, True))
        if cell is not None:
            mine, relevant = (df.where(F.col("user_known") == known) for df in (lists, wanted))
            cell.setdefault(name, {}).update(evaluate_ranking(mine, relevant, k, catalogue_size))


def _model_lists(model: NIMCModel, users: DataFrame, items: DataFrame, seen: DataFrame, k: int) -> DataFrame:
    user, item = model.getOrDefault("userCol"), model.getOrDefault("itemCol")
    return model.recommend(
        k, users.select(F.col("user").alias(user)), items.select(F.col("id").alias(item)), exclude=seen
    )


def _fixed_lists(users: DataFrame, items: DataFrame, value: Column, seen: DataFrame, k: int) -> DataFrame:
    """The same order for everybody: one column of factors, 1 for users and the value for items."""
    source = F.lit(BASELINE).alias("source")
    rows = users.select(F.col("user").alias("id"), F.array(F.lit(1.0)).alias("factors"), source)
    return top_k(rows, items.select("id", F.array(value).alias("factors"), source), k, seen)
