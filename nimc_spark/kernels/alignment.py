"""How far found parameters are from planted ones, over everything that the model cannot tell apart.

    error = min over permutations, signs of ‖[U; V] − [U*; V*]‖_F / ‖[U*; V*]‖_F

Columns [u; v] are matched jointly by the Hungarian method. For an odd activation on both sides (tanh, erf, identity)
(u, v) and (−u, −v) are the same unit. Where both sides are homogeneous (identity, ReLU, leaky ReLU) only |u||v| counts:
both are balanced to |u_i| = |v_i| first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from nimc_spark.kernels.activations import activation
from nimc_spark.kernels.model import Model, Parameters

Matrix = npt.NDArray[np.float64]

_PROBES = np.array([0.5, 1.0, 2.0])


class Alignment(NamedTuple):
    """`error` relative in Frobenius norm; `found`, `wanted` U and V as compared: balanced, permuted, signs turned."""

    error: float
    found: Parameters
    wanted: Parameters


def align(model: Model, found: Parameters, wanted: Parameters) -> Alignment:
    """The alignment of the factors (first k columns) of `found` with those of `wanted`; linear terms take no part."""
    k = model.rank
    sides = [Parameters(*(np.array(w[:, :k], dtype=np.float64) for w in p)) for p in (found, wanted)]
    if scales_freely(model):
        sides = [balanced(p) for p in sides]
    mine, theirs = (np.vstack(p) for p in sides)
    signs = (1.0, -1.0) if all(_is_odd(name) for name in _activations(model)) else (1.0,)
    distances = np.array([((mine[:, :, None] - sign * theirs[:, None, :]) ** 2).sum(axis=0) for sign in signs])
    rows, columns = linear_sum_assignment(distances.min(axis=0))
    order = np.empty(k, dtype=np.int64)
    order[columns] = rows
    turned = np.array(signs)[distances.argmin(axis=0)[order, np.arange(k)]]
    aligned = mine[:, order] * turned
    error = float(np.linalg.norm(aligned - theirs) / np.linalg.norm(theirs))
    d = sides[0].users.shape[0]
    return Alignment(error, Parameters(aligned[:d], aligned[d:]), sides[1])


def balanced(parameters: Parameters) -> Parameters:
    """U, V with |u_i| = |v_i| and the same products |u_i||v_i|; a column that is zero on one side stays as it is."""
    norms = [np.linalg.norm(w, axis=0) for w in parameters]
    alive = (norms[0] > 0) & (norms[1] > 0)
    root = np.sqrt(np.where(alive, norms[1], 1.0) / np.where(alive, norms[0], 1.0))
    return Parameters(parameters.users * root, parameters.items / root)


def scales_freely(model: Model) -> bool:
    """Whether (s u_i, v_i / s) is the same unit as (u_i, v_i) for every s > 0."""
    return all(_is_homogeneous(name) for name in _activations(model))


def gauge(model: Model, parameters: Parameters) -> npt.NDArray[np.bool_]:
    """(p,) True at the largest entry of each u_i where units scale freely, so that fixing these leaves no scaling.

    A fixed entry keeps its sign: scalings are positive. Source: objective (4) of the NIMC paper, which fixes the first.
    """
    fixed = Parameters(*(np.zeros(w.shape) for w in parameters))
    if scales_freely(model):
        columns = np.arange(model.rank)
        fixed.users[np.abs(parameters.users[:, : model.rank]).argmax(axis=0), columns] = 1.0
    return model.ravel(fixed) > 0


def _activations(model: Model) -> tuple[str, str]:
    return model.users_activation, model.items_activation


def _is_homogeneous(name: str) -> bool:
    value = activation(name).value
    return all(np.allclose(value(2 * z), 2 * value(z), rtol=1e-12) for z in (_PROBES, -_PROBES))


def _is_odd(name: str) -> bool:
    value = activation(name).value
    return bool(np.allclose(value(-_PROBES), -value(_PROBES), rtol=1e-12))
