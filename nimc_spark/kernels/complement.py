"""The complement term of one-class and positive-unlabelled data, exact and without a pass over Ω^c.

    f = ½ Σ_Ω w (s − a)² + (β/2) Σ_{Ω^c} s²        s = P̂_i · Q̂_j
      = ½ Σ_Ω [w (s − a)² − β s²] + (β/2) ⟨G_P, G_Q⟩     G_P = P̂ᵀP̂ over all users, G_Q = Q̂ᵀQ̂ over all items

Ω is a set here. Ω^c is every other pair of a user that has a rating and an item of the items' table. The Gram matrices
are (k+2)², so a pass with a complement is two jobs: the Grams (`curvature.Grams`), then the sums over Ω with them.
Offsets and linear terms are in columns k and k+1 of P̂ and Q̂ and need no case of their own; an offset of a single rating
does not split into a user's and an item's, and is refused. Source: the positive-unlabelled objective of the NIMC paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Complement:
    """β, G_P and G_Q (k+2, k+2), and along a direction K_P = P̂ᵀdP̂ and K_Q = Q̂ᵀdQ̂ (zero without one)."""

    beta: float
    users: Matrix
    items: Matrix
    users_change: Matrix
    items_change: Matrix

    def value(self) -> float:
        """(β/2) ⟨G_P, G_Q⟩."""
        return 0.5 * self.beta * float(np.vdot(self.users, self.items))
