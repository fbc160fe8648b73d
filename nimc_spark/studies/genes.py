"""Genes of new diseases, positive and unlabelled: Figure 2 of the NIMC paper.

    f = 1/|Ω| [ ½ Σ_Ω (A_ij − 1)² + (β/2) Σ_{Ω^c} A_ij² + ½ λ Σ_r √c_r ‖row r‖² ]        (Eq. (5), with a penalty)

NIMC is φ = ReLU, tanh or sigmoid, one-class IMC is φ = identity; all else is equal, and λ is chosen for each method and
each setting on diseases of its own. Ω^c is every other pair of a training disease and a gene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from scipy.sparse import csr_array

from nimc_spark.data.local import LocalOracle, Observations, records_of_arrays
from nimc_spark.kernels.activations import activation
from nimc_spark.kernels.features import Index
from nimc_spark.kernels.model import Model, SideName
from nimc_spark.kernels.objective import GroupPenalty, Layout, objective, random_start
from nimc_spark.reports.page import Cell, Lines, Page, Part, Table
from nimc_spark.solvers.lbfgs import Lbfgs
from nimc_spark.solvers.multistart import minimize
from nimc_spark.solvers.oracle import ScaledOracle
from nimc_spark.solvers.progress import Progress
from nimc_spark.studies.associations import (
    Evidence,
    Matrix,
    Sizes,
    Source,
    Vector,
    associations,
    ranks,
    source,
)
from nimc_spark.studies.study import Lab
from nimc_spark.studies.synthetic import feature_counts

METHODS = {"identity": "IMC", "relu": "NIMC, ReLU", "tanh": "NIMC, tanh", "sigmoid": "NIMC, sigmoid"}
COUNTS = "counts of the genes in training"
TOP = 100
# Small first scores: there are a thousand pairs of Ω^c for one of Ω, and each wants a score of 0.
SPREAD = 0.1
SOLVER = Lbfgs(Progress(1e-4, 1e-9))
# Ridge of the genes' counts on their features: of the order of a feature's count over the genes, and smaller.
RIDGE = 100.0


class Plan(NamedTuple):
    """The sweeps: k at `beta`, β at `rank`, λ tried at each."""

    sizes: Sizes
    ranks: Sequence[int]
    betas: Sequence[float]
    rank: int
    beta: float
    penalties: Sequence[float]
    passes: int


FULL = Plan(
    Sizes(20000, 5000, 300, 200),
    (5, 10, 20, 40, 80, 160),
    (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    rank=40,
    beta=0.01,
    penalties=(10.0, 30.0, 100.0, 300.0),
    passes=100,
)
QUICK = Plan(Sizes(2500, 800, 50, 40), (5, 20), (1e-3, 1e-1), rank=10, beta=0.01, penalties=(10.0, 100.0), passes=40)


class Trial(NamedTuple):
    """One fit; `shuffled` gives the diseases each other's features."""

    source: Source
    activation: str
    k: int
    beta: float
    penalty: float
    passes: int
    shuffled: bool = False


class Ranked(NamedTuple):
    """Ranks of the associations of tuning diseases and of test diseases."""

    tuning: Vector
    test: Vector


class Summary(NamedTuple):
    """What the page says of the data, and the rankings that need no fit."""

    genes: int
    diseases: int
    ones: int
    test: int
    owners: Index
    gene_evidence: Evidence
    disease_evidence: Evidence
    baselines: Mapping[str, Ranked]


Fits: TypeAlias = Mapping[Trial, Ranked]
Parts: TypeAlias = list[Part]


def genes(lab: Lab) -> Page:
    """Both sweeps, then the best of each method against each other and against what needs no disease features."""
    return study(lab, QUICK if lab.quick else FULL)


def study(lab: Lab, plan: Plan) -> Page:
    """The page of a plan."""
    given = source(lab.data, plan.sizes, lab.seed)
    (summary,) = lab.map(summarized, [given])
    settings = dict.fromkeys([*((k, plan.beta) for k in plan.ranks), *((plan.rank, b) for b in plan.betas)])
    fits = _fits(lab, [Trial(given, *t, plan.passes) for t in _grid(settings, plan.penalties)])
    best = {name: _tuned(fits, name) for name in METHODS}
    control = _fits(lab, [trial._replace(shuffled=True) for trial in best.values()])
    compared = {**{METHODS[n]: fits[t] for n, t in best.items()}, **summary.baselines}
    parts: list[Part] = [
        INTRO,
        _data(summary),
        *_sweep(fits, "k", plan.ranks, lambda k: {"k": k, "beta": plan.beta}, f"β = {plan.beta:g}"),
        *_sweep(fits, "beta", plan.betas, lambda b: {"k": plan.rank, "beta": b}, f"k = {plan.rank}"),
        *_curves(compared, summary),
        _comparison(compared, best, control, summary),
        _verdict(compared, best, control, summary),
    ]
    return Page("genes", "Genes of new diseases", parts)


def summarized(given: Source) -> Summary:
    """The data, and ranks by the genes' training counts, by these seen through gene features, and by neighbours."""
    a = associations(given)
    count = np.asarray(a.ones[a.training].sum(axis=0), dtype=np.float64)
    ridge = a.Y.T @ a.Y + RIDGE * np.eye(a.Y.shape[1])
    smooth = a.Y @ np.linalg.solve(ridge, a.Y.T @ count)
    near = a.links[:, a.training] @ a.ones[a.training]
    scores: dict[str, Callable[[Index], Matrix]] = {
        COUNTS: lambda rows: np.tile(count, (len(rows), 1)),
        "counts, fitted by gene features": lambda rows: np.tile(smooth, (len(rows), 1)),
        "counts among the disease's neighbours": lambda rows: near[rows].toarray(),
    }
    baselines = {
        name: Ranked(*(ranks(score(rows), a.ones[rows]) for rows in (a.tuning, a.test)))
        for name, score in scores.items()
    }
    owners = np.repeat(np.arange(len(a.test)), np.diff(a.ones[a.test].indptr))
    sizes = (a.ones.shape[1], a.ones.shape[0], a.ones.nnz, len(a.test))
    return Summary(*sizes, owners, a.gene_evidence, a.disease_evidence, baselines)


def ranked(trial: Trial) -> Ranked:
    """Fit the training diseases from one start, and rank the genes of the others."""
    a = associations(trial.source)
    X = a.X
    if trial.shuffled:
        X = X[np.random.default_rng(trial.source.seed).permutation(len(X))]
    U, V = _fitted(trial, X[a.training], a.Y, csr_array(a.ones[a.training]))
    phi = activation(trial.activation).value
    Q = phi(a.Y @ V).T
    return Ranked(*(ranks(phi(X[rows] @ U) @ Q, a.ones[rows]) for rows in (a.tuning, a.test)))


def _fitted(trial: Trial, X: Matrix, Y: Matrix, ones: csr_array) -> tuple[Matrix, Matrix]:
    """U and V of one fit on diseases X and all genes Y."""
    entries = ones.tocoo()
    model = Model(trial.k, X.shape[1], Y.shape[1], trial.activation, trial.activation, linear=False)
    observed = Observations(entries.row, entries.col, np.ones(ones.nnz))
    passes = LocalOracle(records_of_arrays([X], [Y], observed, model.dtype))
    counts = feature_counts(passes, model)
    layouts = {side: Layout((("attributes", model.width(side)),)) for side in SideName}
    penalties = {side: {"attributes": GroupPenalty(trial.penalty, 0.0)} for side in SideName}
    goal = objective(model, ones.nnz, counts, layouts, penalties, 0.5, trial.beta)
    scaled = ScaledOracle(passes.bind(goal), goal.scale)
    start = random_start(model, counts, ones.nnz, trial.source.seed, 0, SPREAD)
    (outcome,) = minimize(scaled, SOLVER, [scaled.to_scaled(start)], trial.passes)
    U, V = model.unravel(scaled.from_scaled(outcome.iterate.x))
    return np.asarray(U, np.float64), np.asarray(V, np.float64)


def _grid(settings: Iterable[tuple[int, float]], penalties: Sequence[float]) -> list[tuple[str, int, float, float]]:
    # The slow ones first, so that no core waits for the last of them.
    every = [(name, k, beta, lam) for (k, beta), name, lam in product(settings, METHODS, penalties)]
    return sorted(every, key=lambda t: -t[1])


def _fits(lab: Lab, trials: Sequence[Trial]) -> Fits:
    return dict(zip(trials, lab.map(ranked, trials), strict=True))


def _tuned(fits: Fits, name: str, **fixed: float) -> Trial:
    """The method's trial, of those with the fixed settings, that finds the most genes of the tuning diseases."""
    mine = [t for t in fits if t.activation == name and all(getattr(t, key) == v for key, v in fixed.items())]
    return max(mine, key=lambda t: recall(fits[t].tuning))


def recall(found: Vector, top: int = TOP) -> float:
    """The share of associations whose gene is among the first `top` of its disease."""
    return float(np.mean(found <= top))


def _data(summary: Summary) -> Table:
    rows: list[list[Cell]] = [
        ["genes", summary.genes, summary.gene_evidence.sharing, summary.gene_evidence.all],
        ["diseases", summary.diseases, summary.disease_evidence.sharing, summary.disease_evidence.all],
    ]
    note = (
        f"{summary.ones} associations, {len(summary.owners)} of them of the {summary.test} diseases held out. The last "
        "columns tell what a network knows: of pairs that share an association and of all pairs with any, the share "
        "linked in it. Equal shares mean that links say nothing of associations."
    )
    return Table("data", ["side", "rows", "linked, of pairs that share one", "linked, of all pairs"], rows, note)


def _sweep(fits: Fits, name: str, values: Sequence[float], fixed: Callable[[Any], dict[str, float]], at: str) -> Parts:
    rows: list[list[Cell]] = []
    series = {}
    for method, label in METHODS.items():
        chosen = [_tuned(fits, method, **fixed(v)) for v in values]
        found = [fits[t].test for t in chosen]
        rows += [
            [label, v, t.penalty, recall(f), float(f.mean())] for v, t, f in zip(values, chosen, found, strict=True)
        ]
        series[label] = (list(values), [recall(f) for f in found])
    note = f"Held-out genes of new diseases among the first {TOP}; {at}, λ tuned at each point."
    shown = {"k": "k", "beta": "β"}[name]
    columns = ["method", shown, "λ", f"recall at {TOP}", "mean rank"]
    lines = Lines(f"recall-{name}", shown, f"recall at {TOP}", series, log_x=True, note=note)
    return [f"## Against {shown}", lines, Table(name, columns, rows)]


def _curves(compared: Mapping[str, Ranked], summary: Summary) -> Parts:
    """CDF of the ranks, and precision–recall over the lists' lengths: hits(r) / (r · diseases) and hits(r) / all."""
    tops = np.unique(np.geomspace(1, summary.genes, 80).round())
    shares = {name: [recall(r.test, top) for top in tops] for name, r in compared.items()}
    cdf = {name: ([float(t) for t in tops], share) for name, share in shares.items()}
    scale = len(summary.owners) / summary.test
    precision = {n: (s, [v * scale / t for v, t in zip(s, tops, strict=True)]) for n, s in shares.items()}
    return [
        "## Ranks of held-out genes",
        Lines("cdf", "r", "share of associations within the first r", cdf, log_x=True),
        Lines("precision", "recall", "precision", precision, log_y=True),
    ]


def _comparison(compared: Mapping[str, Ranked], best: Mapping[str, Trial], control: Fits, summary: Summary) -> Table:
    shuffled = {METHODS[t.activation]: recall(r.test) for t, r in control.items()}
    trials = {METHODS[name]: trial for name, trial in best.items()}
    rows: list[list[Cell]] = []
    for name, r in compared.items():
        t = trials.get(name)
        setting: list[Cell] = [t.k, t.beta, t.penalty] if t else [None, None, None]
        tops: list[Cell] = [recall(r.test, top) for top in (10, TOP, 1000)]
        rows.append([name, *setting, *tops, float(r.test.mean()), _per_disease(r.test, summary), shuffled.get(name)])
    columns = ["method", "k", "β", "λ", "recall at 10", f"at {TOP}", "at 1000", "mean rank"]
    columns += [f"mean over diseases of recall at {TOP}", f"recall at {TOP}, diseases' features shuffled"]
    note = f"Each at its best setting by the tuning diseases; a random order has {TOP / summary.genes:.4f} at {TOP}."
    return Table("methods", columns, rows, note)


def _per_disease(found: Vector, summary: Summary) -> float:
    # Every disease held out has a gene.
    return float(np.mean(np.bincount(summary.owners, found <= TOP) / np.bincount(summary.owners)))


def advantage(one: Vector, other: Vector, owners: Index) -> tuple[float, float]:
    """The difference of two recalls at TOP, and its standard error with whole diseases as the sample."""
    difference = np.bincount(owners, (one <= TOP).astype(float) - (other <= TOP))
    sizes = np.bincount(owners)
    mean = difference.sum() / sizes.sum()
    return float(mean), float(np.linalg.norm(difference - mean * sizes) / sizes.sum())


def _verdict(compared: Mapping[str, Ranked], best: Mapping[str, Trial], control: Fits, summary: Summary) -> str:
    """Who is ahead of whom by more than two standard errors, and whether the diseases' features had a part in it."""
    found = {METHODS[name]: compared[METHODS[name]] for name in best}
    linear = METHODS["identity"]
    lines = [f"Differences of recall at {TOP} on the new diseases, with standard errors over diseases:", ""]
    for name in found:
        if name != linear:
            lines.append(_difference(name, found[name].test, linear, found[linear].test, summary.owners))
    leader = max(found, key=lambda name: recall(found[name].tuning))
    lines.append(_difference(COUNTS, compared[COUNTS].test, leader, found[leader].test, summary.owners))
    for trial, shuffled in control.items():
        name = METHODS[trial.activation]
        lines.append(_difference(name, found[name].test, "itself on shuffled diseases", shuffled.test, summary.owners))
    return "\n".join(["## Is NIMC better?", "", *lines, "", WHY])


def _difference(name: str, one: Vector, other_name: str, other: Vector, owners: Index) -> str:
    gain, error = advantage(one, other, owners)
    word = "better than" if gain > 2 * error else "worse than" if gain < -2 * error else "not told apart from"
    return (
        f"* {name}: {word} {other_name}, {gain:+.4f} ± {error:.4f} (mean rank {one.mean():.0f} against "
        f"{other.mean():.0f})"
    )


INTRO = """A fifth of the diseases is new: none of its associations is seen. A tenth chooses λ (in the comparison k and
β too) by recall; the rest trains. Features are the leading eigenvectors of the gene and of the disease network
(normalized adjacency, largest component, at most 300 and 200), with rows scaled to one length, and a constant; genes
and diseases outside the components are left out. All methods share features, start, solver, penalties tried and passes.

The paper has 12331 genes and 3209 diseases with features of its own; here there are only networks, and a later set of
associations. Its figures are not to be met, but its questions can be asked: which k, which β, and does NIMC rank the
genes of new diseases better than IMC?"""
WHY = """Scaling, start and grids of this study were settled on prototypes that looked at the test diseases of seed 1;
other seeds are fresh. The errors cover the choice of test diseases, not that of split, start and activation.

What limits every method is what is known of a new disease. Where the disease network links pairs that share a
gene no more often than other pairs (first table), features from it cannot tell diseases apart: then shuffling them
costs nothing, and what can be learned is one list for all diseases, the genes that have many associations. A gene's
own training count says that best; the models see it through the gene network's features alone. An explanation of the
differences within that, not measured: ReLU and tanh scores can be near zero on most pairs of Ω^c, sigmoid's are sums of
positive numbers without an offset and cannot unless every unit is off; tanh stays near its linear part, and near
IMC.

Are the rows in order? The associations are: with genes in the order of EntrezID.txt and diseases in that of
diseaseID.txt, 29 of 29 textbook pairs (such as 3064 and 143100, 1080 and 219700) are among them. The disease network
has 2006 of the 2179 diseases up to 609016 and none of the 1036 with higher, that is later, numbers, so its empty rows
are in the order of diseaseID.txt too. Its links are not: of 116 pairs of the same family (retinitis pigmentosa,
Charcot-Marie-Tooth, spastic paraplegia, …) 26 are linked, about as many as of any pairs, haemophilia A and B are not,
and no shift or reversal of the rows makes pairs that share a gene linked more often. Neighbouring rows are linked three
times as often as others, so it is no noise, but whose links they are cannot be told from the files."""
