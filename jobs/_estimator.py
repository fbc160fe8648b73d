"""The config's model section and features → a `NIMC` over the lake's columns; what is unset keeps its default there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs._config import Config
from nimc_spark.io.contracts import ITEM, RATING, USER, WEIGHT
from nimc_spark.ml import NIMC

# Config keys whose value goes to one Param as it is.
PARAM_OF_KEY = {
    "rank": "rank",
    "linear": "linear",
    "objective": "objective",
    "positive_from": "positiveFrom",
    "complement_weight": "complementWeight",
    "solver": "solver",
    "step_size": "stepSize",
    "init": "init",
    "starts": "starts",
    "average_starts": "averageStarts",
    "seed": "seed",
    "max_passes": "maxIter",
    "tolerance": "tol",
    "dtype": "dtype",
    "ratings_per_lane": "ratingsPerLane",
    "clip": "clip",
}


def estimator(config: Config) -> NIMC:
    """An estimator that reads ratings(user_id, item_id, rating[, weight]); tables are for the caller to set."""
    settings = config.model.settings()
    params: dict[str, Any] = {param: settings[key] for key, param in PARAM_OF_KEY.items() if key in settings}
    params |= {"userCol": USER, "itemCol": ITEM, "ratingCol": RATING, "predictionCol": "score"}
    params |= _activation(settings.get("activation")) | _baseline(settings) | _penalty(settings.get("reg"))
    if config.columns.weight is not None:
        params["weightCol"] = WEIGHT
    for name, declared in (("userFeatures", config.features.users), ("itemFeatures", config.features.items)):
        if declared:
            params[name] = [declaration.model_dump(mode="json", exclude_none=True) for declaration in declared]
    return NIMC(**params)


def _activation(value: str | Mapping[str, str] | None) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {"userActivation": value["users"], "itemActivation": value["items"]}
    return {} if value is None else {"activation": value}


def _baseline(settings: Mapping[str, Any]) -> dict[str, Any]:
    terms = settings.get("baseline")
    shrinkage = settings.get("shrinkage", {})
    params: dict[str, Any] = {} if terms is None else {"baseline": [] if terms == "none" else list(terms)}
    return params | {f"{side}Shrinkage": value for side, value in shrinkage.items()}


def _penalty(value: float | Mapping[str, Any] | None) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {} if value is None else {"regParam": float(value)}
    names = {"power": "regPower", "linear": "linearRegParam"}
    params = {param: float(value[key]) for key, param in names.items() if key in value}
    sides = {side: value[side] for side in ("users", "items") if side in value}
    return params | ({"groupRegParam": sides} if sides else {})
