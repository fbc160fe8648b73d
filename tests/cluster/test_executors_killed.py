"""Training on a real standalone cluster that loses processes all the time: the model is that of a quiet one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, Job, kill_one, python_workers, running, until
from tests.jobs.tiny import Workplace, tiny

pytestmark = pytest.mark.soak

# Enough for a lost executor to be back before the next one goes.
PASSES, KILLS = 1200, 20
LONG = [
    f"--set=model.max_passes={PASSES}",
    "--set=model.tolerance=0",
    # Steps so short that training does not end before its passes do.
    "--set=model.solver=adam",
    "--set=model.step_size=0.001",
    "--set=train.save_every=100",
    # Few lanes would have their passes on the driver, where no executor can disturb them.
    "--set=model.ratings_per_lane=20",
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="module")
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = tiny(tmp_path_factory.mktemp("place"))
    Job.start(place, "prepare", *place.arguments({}), options=cluster.options).outcome().done()
    return place


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, place: Workplace) -> dict[str, bytes]:
    return numbers(train(cluster, place).outcome().done()["paths"]["model"])


def train(cluster: Cluster, place: Workplace) -> Job:
    return Job.start(place, "train", *place.arguments({}), *LONG, options=cluster.options)


def numbers(model: str) -> dict[str, bytes]:
    """What a model's folder holds but for when and how it was made."""
    files = sorted(Path(model).glob("members/*/*"))
    assert len(files) == 4
    return {path.name: path.read_bytes() for path in files}


def passes(job: Job) -> int:
    return sum("pass " in line and " loss " in line for line in list(job.lines))


def disturbed(job: Job, disturb: list[object]) -> Job:
    """The job, which every few passes meets the next of the disturbances."""
    for number, strike in enumerate(disturb):
        due = 10 + number * (PASSES - 40) // max(len(disturb), 1)
        until(lambda due=due: passes(job) >= due or job.ended(), f"pass {due}")
        until(lambda strike=strike: strike() or job.ended(), "something to kill")  # type: ignore[operator]
    return job


def test_executors_are_killed(cluster: Cluster, place: Workplace, undisturbed: dict[str, bytes]) -> None:
    turns = itertools.cycle((0, -1))

    def kill() -> bool:
        alive = cluster.executors()
        return len(alive) == 2 and kill_one([alive[next(turns)]])

    outcome = disturbed(train(cluster, place), [kill] * KILLS).outcome()
    assert numbers(outcome.done()["paths"]["model"]) == undisturbed
    assert outcome.log.count("Lost executor") >= KILLS


def test_python_workers_are_killed(cluster: Cluster, place: Workplace, undisturbed: dict[str, bytes]) -> None:
    def kill() -> bool:
        return kill_one([worker for executor in cluster.executors() for worker in python_workers(executor)])

    outcome = disturbed(train(cluster, place), [kill] * 10).outcome()
    assert numbers(outcome.done()["paths"]["model"]) == undisturbed


def test_a_worker_process_is_lost(cluster: Cluster, place: Workplace, undisturbed: dict[str, bytes]) -> None:
    def kill() -> bool:
        lost = cluster.workers.pop()
        kill_one([lost.pid])
        lost.wait()
        return True

    outcome = disturbed(train(cluster, place), [kill]).outcome()
    cluster.workers.append(cluster.add_worker())
    assert numbers(outcome.done()["paths"]["model"]) == undisturbed
