"""New users on MovieLens-100k through the jobs: RMSE of `evaluate` beside the shrunken item mean, three splits of 20 %.

Each split is one real night, `./spark-submit.sh night --config conf/ml-100k.yaml --set split.seed=…`, in its own lake.
"""

from __future__ import annotations

import tempfile
from statistics import mean

from pyspark.sql import SparkSession

from benchmarks.report import Row
from scripts.demo import config_arguments
from scripts.demo import run as run_job
from scripts.demo_data import find

_SEEDS = (1, 2, 3)
_CELL = "new_user/known_item"


def run(spark: SparkSession) -> list[Row]:
    """A row a seed and the mean; the session is not used."""
    arguments = [*config_arguments(find()), "--set", "evaluate.relevant=null"]
    rows, gains = [], []
    for seed in _SEEDS:
        with tempfile.TemporaryDirectory() as lake:
            (night,) = run_job("night", *arguments, "--set", f"split.seed={seed}", "--set", f"lake={lake}")
        cell = night["metrics"][_CELL]
        model, item_mean = cell["model"]["rmse"], cell["item_mean"]["rmse"]
        gains.append(item_mean - model)
        note = f"model {model:.4f}, item mean {item_mean:.4f}, {cell['n']} ratings"
        rows.append(Row(f"new users, seed {seed}: RMSE below the item mean", f"{gains[-1]:.4f}", note=note))
    spread = f"{min(gains):.4f}", f"{max(gains):.4f}"
    return [*rows, Row("new users: mean of the seeds", f"{mean(gains):.4f}", *spread, target="≥ 0.002")]
