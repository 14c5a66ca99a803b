"""What a change of weights is made of: its size, its rank, and the directions it acts in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEGLIGIBLE = 1e-6
"""A singular value below this share of the largest is rounding, and its direction none."""


@dataclass(frozen=True)
class Decomposition:
    """U diag(S) V = dW: U (d_out, r) and V (r, d_in) orthonormal, S (r,) falling, none negligible.

    r is 0 where nothing was changed. A kernel counts as the matrix (c_out, c_in * kh * kw).
    """

    U: Tensor
    S: Tensor
    V: Tensor

    @property
    def norm(self) -> float:
        """The Frobenius norm of dW."""
        return float(self.S.square().sum().sqrt())


def decomposed(delta: Tensor | tuple[Tensor, Tensor]) -> Decomposition:
    """The singular value decomposition, in float64, of dW (d_out, ...), or of the product of its
    factors (d_out, r) and (r, d_in), which costs O(r^2 (d_in + d_out)) alone."""
    if isinstance(delta, tuple):
        B, A = (factor.double() for factor in delta)
        (Qb, Rb), (Qa, Ra) = torch.linalg.qr(B), torch.linalg.qr(A.T)
        U, S, V = torch.linalg.svd(Rb @ Ra.T, full_matrices=False)
        U, V = Qb @ U, V @ Qa.T
    else:
        U, S, V = torch.linalg.svd(delta.double().flatten(1), full_matrices=False)
    largest = S[0] if len(S) else S.sum()
    kept = int((NEGLIGIBLE * largest < S).sum())
    return Decomposition(U[:, :kept], S[:kept], V[:kept])


def effective_rank(S: Tensor) -> float:
    """exp of the entropy of the singular values S (r,) as shares of their sum: between 1, all in
    one direction, and r, the same in all; 0 of none (Roy & Vetterli 2007, definition 1)."""
    if not len(S):
        return 0.0
    return float(torch.special.entr(S / S.sum()).sum().exp())


def overlap(one: Tensor, other: Tensor) -> float | None:
    """How much of the smaller of two subspaces lies in the other one, from 0, orthogonal, to 1:
    ||V1 V2^T||_F^2 / min(r1, r2) of orthonormal rows V (r, d) (Hu et al. 2021, equation 4).

    Two subspaces drawn at random have max(r1, r2) / d. None where one has no direction.
    """
    least = min(len(one), len(other))
    return float((one @ other.T).square().sum()) / least if least else None


def energy(S: Tensor, r: int) -> float | None:
    """The share of ||dW||_F^2 in the ``r`` largest of the singular values S; None of no change."""
    squares = S.square()
    return float(squares[:r].sum() / squares.sum()) if len(S) else None


def cut(delta: Tensor, r: int) -> Tensor:
    """The nearest to dW of rank ``r`` (Eckart & Young 1936), in its shape and type."""
    parts = decomposed(delta)
    low = (parts.U[:, :r] * parts.S[:r]) @ parts.V[:r]
    return low.to(delta.dtype).reshape(delta.shape)
