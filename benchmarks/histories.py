"""Item histories in the blocks and outside of them: ids and both sides' histories, rank 20, loss and gradient.

    pass / kernel                   the same evaluation in this process, items outside, lanes dealt to two threads
    (pass − kernel) / empty job     what counts where an empty job takes longer than the kernel

MovieLens-1M is not fetched: NIMC_ML1M names its folder, without which the rows of synthetic ratings are all there is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from benchmarks.passes import empty_job
from benchmarks.problem import Setting, every_record, start, write
from benchmarks.report import Round, Row, in_turns, row
from nimc_spark.data.local import LocalOracle
from nimc_spark.data.outside import OutsideItems
from nimc_spark.engine.blocks import BlockSet, GridLimits, SideData, build_blocks, grid
from nimc_spark.engine.context import held
from nimc_spark.engine.history import HistoryData
from nimc_spark.engine.outside import ItemsAt, pass_oracle, sides_in_blocks
from nimc_spark.engine.passes_at import passes_at
from nimc_spark.engine.profile import RatingsProfile, profile_ratings
from nimc_spark.kernels.model import Model, SideName
from nimc_spark.kernels.statistics import LossGradient

RANK = 20
SYNTHETIC = Setting(10_000_000, 100_000, 20_000, 0, 0, RANK)
_THREADS = 2
_TARGET = "≤ 3"
_DTYPE = "float32"
_SIDE = SideData(uses_id=True, history=HistoryData(("equal",)))
_DATA = dict.fromkeys(SideName, _SIDE)
_DRIVER = "on the driver"
_NAMES = {ItemsAt.BLOCKS: "in the blocks", ItemsAt.DRIVER: _DRIVER, ItemsAt.JOBS: "in jobs"}


def run(spark: SparkSession) -> list[Row]:
    """Rows for MovieLens-1M, where there is one, and for 1e7 synthetic ratings."""
    rows = []
    with TemporaryDirectory() as folder:
        if named := os.environ.get("NIMC_ML1M"):
            write_ml_1m(Path(named), Path(folder) / "ml-1m")
            rows += _measured("ml-1m", spark.read.parquet(f"{folder}/ml-1m"), 7, 5, list(_NAMES))
        write(SYNTHETIC, Path(folder))
        # In the blocks every lane would send sums of all users for the histories of its items: more than a driver of
        # this benchmark holds.
        rows += _measured("1e7", spark.read.parquet(f"{folder}/ratings"), 5, 1, [ItemsAt.DRIVER, ItemsAt.JOBS])
    return rows


def write_ml_1m(source: Path, folder: Path) -> None:
    text = (source / "ratings_no_timestamp.dat").read_text().replace("::", " ")
    user, item, rating = np.array(text.split(), np.int64).reshape(-1, 3).T
    folder.mkdir()
    pq.write_table(pa.table({"user": user, "item": item, "rating": rating.astype(np.float64)}), folder / "0.parquet")


def _measured(name: str, source: DataFrame, rounds: int, calls: int, places: Sequence[ItemsAt]) -> list[Row]:
    limits = GridLimits()
    with held(source) as ratings:
        profile = profile_ratings(ratings)
        times: dict[str, list[Round]] = {}
        for at in places:
            with _actions(at, ratings, profile, limits) as actions:
                times |= in_turns(actions, rounds, calls, warm_up=3 * calls // 2)
    rows = []
    kernel = [k.clock for k in times["kernel"]]
    for at, label in ((at, _NAMES[at]) for at in places):
        ratios = [p.clock / k for p, k in zip(times[label], kernel, strict=True)]
        target = _TARGET if at is ItemsAt.DRIVER else ""
        rows.append(row(f"{name}: pass with items {label} / kernel on {_THREADS} threads", ratios, target=target))
    together = zip(times[_DRIVER], times["kernel"], times["empty job"], strict=True)
    over = [(p.clock - k.clock) / e.clock for p, k, e in together]
    rows.append(row(f"{name}: (pass with items {_DRIVER} − kernel) / empty job", over))
    for label, found in times.items():
        rows.append(row(f"{name}: {label}, ms", [1e3 * r.clock for r in found], ".0f"))
    if all(r.processor for found in times.values() for r in found):
        for label, found in times.items():
            note = "less moved by others on the machine"
            rows.append(row(f"{name}: {label}, ms of processors", [1e3 * r.processor for r in found], ".0f", note=note))
    return rows


@contextmanager
def _actions(
    at: ItemsAt, ratings: DataFrame, profile: RatingsProfile, limits: GridLimits
) -> Iterator[dict[str, Callable[[], object]]]:
    """A pass with the items there; on the driver also the kernel and an empty job, so that all are timed in turns."""
    in_blocks = sides_in_blocks(at, _DATA)
    # As training does: MovieLens-1M is small enough for passes on the driver.
    passes = passes_at(profile, grid(profile, in_blocks, _DTYPE, limits), matrices=False)
    with (
        closing(build_blocks(ratings, profile, in_blocks, _DTYPE, limits)) as blocks,
        pass_oracle(at, ratings, profile, blocks, _DATA, _DTYPE, limits, passes) as oracle,
    ):
        model = _model(blocks)
        parameters = start(model)
        oracles = {_NAMES[at]: oracle}
        others: dict[str, Callable[[], object]] = {}
        if isinstance(oracle, OutsideItems) and at is ItemsAt.DRIVER:
            oracles["kernel"] = _kernel(blocks, oracle)
            tasks = blocks.records.whole.rdd.getNumPartitions()
            others["empty job"] = empty_job(ratings.sparkSession.range(0, tasks, 1, tasks))
        timed = {name: partial(passes.run, LossGradient(), model, [parameters]) for name, passes in oracles.items()}
        yield others | timed


def _model(blocks: BlockSet) -> Model:
    users, items = (blocks.sides[side].count for side in SideName)
    return Model(RANK, users + items, items + users, dtype=_DTYPE)


def _kernel(blocks: BlockSet, oracle: OutsideItems) -> OutsideItems:
    """The same passes in this process alone."""
    local = LocalOracle(every_record(blocks), _THREADS)
    return OutsideItems(local, oracle._items, oracle._features, oracle._count)
