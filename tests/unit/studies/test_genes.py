"""Genes of new diseases on a tiny folder: two kinds of genes and diseases that their networks show."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pyspark.sql import SparkSession
from scipy.sparse import csr_array, csr_matrix, save_npz

from nimc_spark.errors import DataError, UsageError
from nimc_spark.reports.page import Table, write_page
from nimc_spark.studies.associations import Sizes, associations, evidence, ranks, source, spectral
from nimc_spark.studies.genes import METHODS, Plan, Trial, advantage, ranked, recall, study, summarized
from nimc_spark.studies.study import Lab

SIZES = Sizes(80, 60, 6, 5)
PLAN = Plan(SIZES, (2, 3), (0.01, 0.1), rank=2, beta=0.1, penalties=(0.1, 1.0), passes=60)


class Here(Lab):
    """A lab without Spark."""

    def map(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        return [function(a) for a in arguments]


def here(data: Path | None) -> Here:
    return Here(cast(SparkSession, None), quick=True, seed=1, data=data)


def network(random: np.random.Generator, kind: np.ndarray) -> csr_matrix:
    near = np.where(kind[:, None] == kind, 0.5, 0.03)
    links = np.triu(random.random(near.shape) < near, 1)
    return csr_matrix((links | links.T).astype(float))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(3)
    gene, disease = np.arange(82) % 2, np.arange(61) % 2
    ones = random.random((82, 61)) < np.where(gene[:, None] == disease, 0.15, 0.01)
    ones[:, 4] = False
    folder = tmp_path_factory.mktemp("data")
    (folder / "gene-disease").mkdir()
    genes, diseases = network(random, gene), network(random, disease)
    # The last gene has no link, and so no features.
    alone = csr_matrix(np.diag([*[1.0] * 81, 0.0]))
    for name, matrix in (("gd", csr_matrix(ones.astype(float))), ("gg", alone @ genes @ alone), ("dd", diseases)):
        save_npz(folder / "gene-disease" / f"{name}.npz", csr_matrix(matrix))
    return folder


def test_without_data_it_is_said_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"reads gene-disease/ with gd.npz, gg.npz, dd.npz.*--data DIR"):
        source(None, SIZES, 1)
    with pytest.raises(UsageError, match=r"gd.npz, gg.npz, dd.npz is missing; allowed is a folder that holds"):
        study(here(tmp_path), PLAN)


def test_matrices_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "gene-disease").mkdir()
    for name, shape in (("gd", (4, 3)), ("gg", (4, 4)), ("dd", (2, 2))):
        save_npz(tmp_path / "gene-disease" / f"{name}.npz", csr_matrix(np.ones(shape)))
    with pytest.raises(DataError, match=r"gd \(4, 3\), gg \(4, 4\), dd \(2, 2\) do not fit"):
        associations(source(tmp_path, SIZES, 1))


def test_whole_diseases_are_held_out(data: Path) -> None:
    a = associations(source(data, Sizes(1000, 1000, 6, 5), 1))
    # Of 82 genes one has no links; of 61 diseases one has no gene.
    assert a.ones.shape == (60, 81)
    assert (len(a.test), len(a.tuning), len(a.training)) == (12, 6, 42)
    assert sorted([*a.test, *a.tuning, *a.training]) == list(range(60))
    assert np.diff(a.ones.indptr).min() >= 1
    assert (a.X.shape, a.Y.shape) == ((60, 6), (81, 7))
    assert a.gene_evidence.sharing > 1.5 * a.gene_evidence.all


def test_the_most_connected_are_taken(data: Path) -> None:
    a = associations(source(data, Sizes(40, 30, 6, 5), 1))
    assert a.ones.shape[0] <= 30
    assert a.ones.shape[1] == 40


def test_features_are_the_same_each_time_and_tell_communities_apart() -> None:
    kind = np.arange(60) % 2
    links = csr_array(network(np.random.default_rng(0), kind))
    X = spectral(links, 3)
    np.testing.assert_array_equal(X, spectral(links, 3))
    np.testing.assert_allclose((X[:, :3] ** 2).sum(axis=1), 3)
    np.testing.assert_array_equal(X[:, 3], 1)
    assert abs(np.corrcoef(X[:, 1], kind)[0, 1]) > 0.9


def test_ranks_count_from_one_and_ties_share_their_mean() -> None:
    truth = csr_array(np.array([[1, 0, 0, 1], [0, 1, 0, 0]]))
    scores = np.array([[0.1, 0.9, 0.5, 0.7], [2.0, 1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(ranks(scores, truth), [4, 2, 3])
    assert recall(np.array([1.0, 100.0, 101.0, 7.0])) == 0.75


def test_evidence_is_the_share_of_pairs_that_are_linked() -> None:
    ones = csr_array(np.array([[1, 0], [1, 0], [0, 1], [0, 0]]))
    links = csr_array(np.array([[0, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 0]]))
    found = evidence(ones, links)
    assert found.sharing == 1.0
    assert found.all == pytest.approx(1 / 3)


def test_the_standard_error_takes_a_disease_as_one_draw() -> None:
    owners = np.array([0, 0, 1, 1])
    gain, error = advantage(np.array([1.0, 2, 500, 3]), np.array([500.0, 500, 500, 3]), owners)
    assert gain == 0.5
    # Diseases differ by ±1 from their share of the mean.
    assert error == pytest.approx(np.sqrt(2) / 4)


@pytest.mark.parametrize("name", ["identity", "relu", "tanh"])
def test_genes_of_new_diseases_rank_high_where_the_networks_know_them(data: Path, name: str) -> None:
    trial = Trial(source(data, SIZES, 1), name, 3, 0.1, 1.0, 60)
    own, shuffled = ranked(trial).test, ranked(trial._replace(shuffled=True)).test
    # Genes of the right kind are half of 80: a perfect order of kinds has a mean rank of about 20.
    assert own.mean() < 27
    assert shuffled.mean() > own.mean() + 5


def test_the_page_has_four_panels_and_every_method(data: Path, tmp_path: Path) -> None:
    page = study(here(data), PLAN)
    write_page(page, tmp_path)
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {f"genes-{name}.png" for name in ("recall-k", "recall-beta", "cdf", "precision")}
    with (tmp_path / "genes-k.csv").open(encoding="utf-8") as file:
        assert len([*csv.reader(file)]) == 1 + len(METHODS) * len(PLAN.ranks)
    (methods,) = (part for part in page.parts if isinstance(part, Table) and part.name == "methods")
    names = [row[0] for row in methods.rows]
    assert names == [*METHODS.values(), *summarized(source(data, SIZES, 1)).baselines]
    text = (tmp_path / "genes.md").read_text(encoding="utf-8")
    assert "NIMC, ReLU" in text
    assert str(data) not in text
