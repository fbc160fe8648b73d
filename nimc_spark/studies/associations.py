"""Genes × diseases as a positive-unlabelled problem: features from two networks, whole diseases held out, ranks.

    N = D^{-1/2} A D^{-1/2},  N v_t = ν_t v_t,  ν_1 ≥ ν_2 ≥ …        x_i = √d (v_i1, …, v_id) / ‖(v_i1, …, v_id)‖, and 1

A is a network's largest component: outside it there is nothing to know a row by, and small components would take up the
leading eigenvectors. Rows have one length because eigenvectors of networks sit on few nodes, whose scores would be a
hundred times those of others. Diseases are the users and genes the items, so that Ω^c = training diseases × all genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, diags_array, load_npz
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh

from nimc_spark.errors import DataError, UsageError
from nimc_spark.kernels.features import Index

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]

FOLDER = "gene-disease"
FILES = ("gd.npz", "gg.npz", "dd.npz")
# Held out for the test, and of the others what tunes.
TEST, TUNING = 0.2, 0.1


class Sizes(NamedTuple):
    """At most so many genes and diseases, the most connected first, and so many features of each."""

    genes: int
    diseases: int
    gene_features: int
    disease_features: int


class Source(NamedTuple):
    """Where the files are, how much of them, and the seed of the split: small enough to send to a task."""

    folder: str
    sizes: Sizes
    seed: int


class Evidence(NamedTuple):
    """Of pairs of a side that share an association, the share linked in the side's network; and of all its pairs."""

    sharing: float
    all: float


@dataclass(frozen=True, eq=False)
class Associations:
    """X (diseases, d1), Y (genes, d2), ones (diseases, genes), and which diseases train, tune and test."""

    X: Matrix
    Y: Matrix
    ones: csr_array
    links: csr_array
    training: Index
    tuning: Index
    test: Index
    gene_evidence: Evidence
    disease_evidence: Evidence


def source(data: Path | None, sizes: Sizes, seed: int) -> Source:
    """The source in the folder of data sets; UsageError with what to do where it is not there."""
    wanted = f"{FOLDER}/ with {', '.join(FILES)} (genes × diseases, gene network, disease network, scipy CSR)"
    if data is None:
        raise UsageError(f"this study reads {wanted}: give the folder that holds it, --data DIR")
    missing = [name for name in FILES if not (data / FOLDER / name).is_file()]
    if missing:
        raise UsageError(f"--data {data}: {', '.join(missing)} is missing; allowed is a folder that holds {wanted}")
    # Tasks need not run in this process's folder.
    return Source(str((data / FOLDER).resolve()), sizes, seed)


@cache
def associations(source: Source) -> Associations:
    """The problem, made once a process: every task of a worker uses it. DataError if the shapes do not fit."""
    ones, gene_links, links = (csr_array(load_npz(Path(source.folder) / name)) for name in FILES)
    if gene_links.shape[0] != ones.shape[0] or links.shape[0] != ones.shape[1]:
        shapes = f"gd {ones.shape}, gg {gene_links.shape}, dd {links.shape}"
        raise DataError(f"{source.folder}: {shapes} do not fit; gg is (genes, genes) and dd (diseases, diseases)")
    genes, diseases = _connected(gene_links, source.sizes.genes), _connected(links, source.sizes.diseases)
    gene_links, links = gene_links[genes][:, genes], links[diseases][:, diseases]
    ones = csr_array(ones[genes][:, diseases].T)
    ones.sort_indices()
    X, Y = spectral(links, source.sizes.disease_features), spectral(gene_links, source.sizes.gene_features)
    known = np.flatnonzero(np.diff(ones.indptr))
    ones, X, links = ones[known], X[known], links[known][:, known]
    order = np.random.default_rng(source.seed).permutation(len(known))
    test, tuning = int(TEST * len(known)), int((TEST + TUNING) * len(known))
    learn, tune, held_out = (np.sort(part) for part in (order[tuning:], order[test:tuning], order[:test]))
    known_of = (evidence(ones.T, gene_links), evidence(ones, links))
    return Associations(X, Y, ones, links, learn, tune, held_out, *known_of)


def _connected(network: csr_array, most: int) -> Index:
    """The nodes of the largest component among the `most` nodes with the most links, in their order."""
    chosen = np.sort(np.argsort(-np.diff(network.indptr), kind="stable")[:most])
    _, label = connected_components(network[chosen][:, chosen], directed=False)
    largest: Index = chosen[label == np.bincount(label).argmax()]
    return largest


def spectral(network: csr_array, number: int) -> Matrix:
    """(n, number + 1) features of a connected network's nodes, the last one constant (module's formula)."""
    number = min(number, network.shape[0] - 2)
    root = diags_array(np.sqrt(1.0 / network.sum(axis=1)))
    # A fixed start, and each vector's largest entry positive: the same features in every process.
    start = np.ones(network.shape[0])
    vectors = eigsh(root @ network @ root, number, which="LA", v0=start)[1][:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(number)])
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = np.sqrt(number) * np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return np.column_stack([rows, np.ones(len(rows))])


def evidence(ones: csr_array, network: csr_array) -> Evidence:
    """Whether sharing an association and being linked go together, over rows that have any association."""
    some = np.flatnonzero(csr_array(ones).sum(axis=1))
    rows, links = csr_array(csr_array(ones)[some]), network[some][:, some]
    shared = csr_array(rows @ rows.T)
    shared.setdiag(0)
    shared.eliminate_zeros()
    linked = csr_array(shared.astype(bool).multiply(links.astype(bool))).nnz
    return Evidence(linked / max(shared.nnz, 1), links.nnz / max(len(some) * (len(some) - 1), 1))


def ranks(scores: Matrix, truth: csr_array) -> Vector:
    """The rank, from 1, of each association (row by row) among all genes of its disease; ties share their mean."""
    found: list[Any] = [np.empty(0)]
    for row, first, last in zip(scores, truth.indptr, truth.indptr[1:], strict=False):
        ordered, own = np.sort(row), row[truth.indices[first:last]]
        below, upto = np.searchsorted(ordered, own, "left"), np.searchsorted(ordered, own, "right")
        found.append(len(row) - upto + (upto - below + 1) / 2)
    return np.concatenate(found)
