"""What a solver may know of ∇²f or its Gauss-Newton part: a symmetric matrix in diagonal blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Stack = npt.NDArray[np.float64]


# Compared by identity: arrays have no single truth value.
@dataclass(frozen=True, eq=False)
class BlockDiagonal:
    """Blocks along the diagonal in the order of the variables: each stack (n, s, s) holds n blocks of s variables.

    One stack (1, p, p) is a whole matrix.
    """

    stacks: Sequence[Stack]

    def scaled(self, scale: Vector) -> BlockDiagonal:
        """diag(scale) B diag(scale)."""
        return BlockDiagonal(
            tuple(
                stack * rows[:, :, None] * rows[:, None, :]
                for stack, rows in zip(self.stacks, self._cut(scale), strict=True)
            )
        )

    def times(self, v: Vector) -> Vector:
        """B v."""
        pairs = zip(self.stacks, self._cut(v), strict=True)
        return np.concatenate([np.einsum("nij,nj->ni", stack, rows).ravel() for stack, rows in pairs])

    def solve(self, v: Vector, damping: float) -> Vector:
        """(B + damping·I)⁻¹ v, block by block. Raises LinAlgError where a block is singular."""
        parts = []
        for stack, rows in zip(self.stacks, self._cut(v), strict=True):
            damped = stack + damping * np.eye(stack.shape[1])
            parts.append(np.linalg.solve(damped, rows[:, :, None]).ravel())
        return np.concatenate(parts)

    def trace(self) -> float:
        return float(sum(np.trace(stack, axis1=1, axis2=2).sum() for stack in self.stacks))

    def matrix(self) -> npt.NDArray[np.float64]:
        """The whole matrix of a single block."""
        if len(self.stacks) != 1 or len(self.stacks[0]) != 1:
            raise ValueError("there are several blocks")
        whole: Stack = self.stacks[0][0]
        return whole

    def _cut(self, v: Vector) -> Iterator[npt.NDArray[np.float64]]:
        start = 0
        for stack in self.stacks:
            size = stack.shape[0] * stack.shape[1]
            yield v[start : start + size].reshape(stack.shape[:2])
            start += size
