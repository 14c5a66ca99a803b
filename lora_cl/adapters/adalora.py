"""AdaLoRA: rank where it matters (Zhang et al. 2023, arXiv 2303.10512).

W = W0 + s P diag(lambda) Q; triplet i is column i of P, lambda_i and row i of Q. The names are
PEFT's: ``lora_A`` is Q (r, d_in), ``lora_E`` is lambda (r, 1), ``lora_B`` is P (d_out, r), all of
them parameters and not modules. The kernel of a convolution counts as (c_out, c_in * kh * kw).

The scale is that of PEFT and of the authors' code, s = alpha / (r + 1e-5) with r the *initial*
rank: it does not change as triplets are pruned, and a file means the same here and there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, cast

import torch
from torch import Tensor, nn

from lora_cl.adapters.layer import Adapter
from lora_cl.adapters.lora import add_low_rank, factor_shapes
from lora_cl.errors import MethodError

PenaltyForm = Literal["norm", "squared"]


def adalora_scale(alpha: float, rank: int) -> float:
    """s = alpha / (r + 1e-5), r the initial rank."""
    return alpha / (rank + 1e-5)


class SVDLoRA(Adapter):
    """h = W0 x + s P (lambda * (Q x)) (Zhang et al. 2023, equation 3).

    ``Q`` (r, d_in), ``E`` (r, 1) and ``P`` (d_out, r) are the initial values, ``scale`` is s.
    lambda = 0 gives the base's output, bit for bit.
    """

    def __init__(self, Q: Tensor, E: Tensor, P: Tensor, scale: float) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(Q)
        self.lora_E = nn.Parameter(E)
        self.lora_B = nn.Parameter(P)
        self.scale = scale

    def forward(self, x: Tensor, base_out: Tensor, base: nn.Module) -> Tensor:
        if self.triplets == 0:
            return base_out
        A = self.lora_A * self.lora_E
        B: Tensor = self.lora_B
        if isinstance(base, nn.Conv2d):
            A, B = A.reshape(-1, *base.weight.shape[1:]), B[:, :, None, None]
        return add_low_rank(base_out, x, A, B, self.scale, base)

    def merged_weight(self, weight: Tensor, base: nn.Module) -> Tensor:
        delta = self.scale * (self.lora_B @ (self.lora_A * self.lora_E))
        return weight + delta.reshape(weight.shape)

    def factors(self) -> tuple[Tensor, Tensor] | None:
        Q, E, P = self.lora_A.detach(), self.lora_E.detach(), self.lora_B.detach()
        return self.scale * P, Q * E

    @property
    def triplets(self) -> int:
        """How many triplets are held, pruned ones (lambda = 0) included."""
        return self.lora_E.shape[0]

    def compact(self) -> int:
        """Drop the pruned triplets, those with lambda = 0, for good; the number that survive.

        The parameters are new objects afterwards: call it when the task's optimiser is done.
        """
        alive = self.lora_E.detach().flatten() != 0
        self._hold(self.lora_A[alive], self.lora_E[alive], self.lora_B[:, alive])
        return self.triplets

    def resize(self, triplets: int) -> None:
        """Make room for exactly ``triplets``, all zero: a compacted state is loaded next."""
        (_, d_in), (d_out, _) = self.lora_A.shape, self.lora_B.shape
        new = self.lora_A.new_zeros
        self._hold(new(triplets, d_in), new(triplets, 1), new(d_out, triplets))

    def _hold(self, Q: Tensor, E: Tensor, P: Tensor) -> None:
        self.lora_A = nn.Parameter(Q.detach().clone(), self.lora_A.requires_grad)
        self.lora_E = nn.Parameter(E.detach().clone(), self.lora_E.requires_grad)
        self.lora_B = nn.Parameter(P.detach().clone(), self.lora_B.requires_grad)

    def extra_repr(self) -> str:
        return f"triplets={self.triplets}, scale={self.scale:g}"


def make_adalora(
    base: nn.Module, *, rank: int, alpha: float, generator: torch.Generator
) -> SVDLoRA:
    """A fresh AdaLoRA adapter for ``base``: P, Q ~ N(0, 0.02^2) and lambda = 0.

    MethodError for a convolution with groups, whose kernel is no single matrix.
    """
    if isinstance(base, nn.Conv2d) and base.groups > 1:
        raise MethodError("adalora: a convolution with groups is not one matrix; leave it out")
    weight = cast(Tensor, base.weight)
    (r, *d_in), (d_out, *_) = factor_shapes(base, rank)
    Q = torch.empty(r, math.prod(d_in), device=generator.device)
    P = torch.empty(d_out, r, device=generator.device)
    for factor in (Q, P):
        factor.normal_(0.0, 0.02, generator=generator)
    return SVDLoRA(Q.to(weight), weight.new_zeros(r, 1), P.to(weight), adalora_scale(alpha, rank))


def orthogonality_errors(P: Tensor, Q: Tensor) -> Tensor:
    """||P^T P - I||_F and ||Q Q^T - I||_F, shape (2,); P is (d_out, r) and Q is (r, d_in)."""
    identity = torch.eye(Q.shape[0], dtype=Q.dtype, device=Q.device)
    gaps = torch.stack([P.T @ P - identity, Q @ Q.T - identity])
    return cast(Tensor, torch.linalg.vector_norm(gaps, dim=(1, 2)))


def orthogonality_penalty(factors: Iterable[tuple[Tensor, Tensor]], form: PenaltyForm) -> Tensor:
    """How far the factors (P, Q) of all layers are from orthogonal, a scalar.

    ``squared``: sum over layers of ||P^T P - I||_F^2 + ||Q Q^T - I||_F^2 (Zhang et al. 2023,
    equation 4). ``norm``: the mean over all P and Q of ||.||_F, as in the authors' code and PEFT;
    its gradient is smaller by twice the norm and the number of matrices. Without a penalty lambda
    is no measure of a triplet's size.
    """
    errors = torch.stack([orthogonality_errors(P, Q) for P, Q in factors])
    return errors.mean() if form == "norm" else errors.square().sum()
