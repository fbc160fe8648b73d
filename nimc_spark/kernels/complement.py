"""The complement term of one-class and positive-unlabelled data, exact and without a pass over Ω^c.

    f = ½ Σ_Ω w (s − a)² + (β/2) Σ_{Ω^c} s²        s = P̂_i · Q̂_j
      = ½ Σ_Ω [w (s − a)² − β s²] + (β/2) ⟨G_P, G_Q⟩     G_P = P̂ᵀP̂ over all users, G_Q = Q̂ᵀQ̂ over all items

Ω is a set here. Ω^c is every other pair of a user that has a rating and an item of the items' table. The second line is
linear in G_P, a sum over lanes, and so are its derivatives: a lane adds those of its own users with all items, which
are in every task, and one pass is enough (docs/adr/012-complement-by-lane.md). G_Q is made once a task.
Offsets and linear terms are in columns k and k+1 of P̂ and Q̂ and need no case of their own; an offset of a single rating
does not split into a user's and an item's, and is refused. Source: the positive-unlabelled objective of the NIMC paper.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def gram(left: npt.NDArray[Any], right: npt.NDArray[Any] | None = None) -> Matrix:
    """leftᵀ right in float64, leftᵀ left where there is no other."""
    left = left.astype(np.float64, copy=False)
    product: Matrix = left.T @ (left if right is None else right.astype(np.float64, copy=False))
    return product
