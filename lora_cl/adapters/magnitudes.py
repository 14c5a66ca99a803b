"""Low-rank branches with a magnitude each: SD-LoRA (Wu et al. 2025, arXiv 2501.13198)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lora_cl.adapters.layer import Adapter, Factor
from lora_cl.adapters.lora import add_delta, add_low_rank


class ScaledBranches(Adapter):
    """h = W0 x + sum_k a_k B_k A_k x: branches side by side, each with its own magnitude a_k.

    ``A`` (R, d_in) and ``B`` (d_out, R) hold them all; row i of A is of branch ``branch[i]``, and
    ``magnitudes`` (K,) are the a_k. B = 0 gives the base's output, bit for bit.
    """

    branch: Tensor

    def __init__(self, A: Tensor, B: Tensor, branch: Tensor, magnitudes: Tensor) -> None:
        super().__init__()
        self.lora_A = Factor(A)
        self.lora_B = Factor(B)
        self.magnitude = Factor(magnitudes)
        self.register_buffer("branch", branch)

    def scaled_rows(self) -> Tensor:
        """The rows of A, each times the magnitude of its branch."""
        A = self.lora_A.weight
        return self.magnitude.weight[self.branch].view(-1, *[1] * (A.dim() - 1)) * A

    def forward(self, x: Tensor, base_out: Tensor, base: nn.Module) -> Tensor:
        return add_low_rank(base_out, x, self.scaled_rows(), self.lora_B.weight, 1.0, base)

    def merged_weight(self, weight: Tensor, base: nn.Module) -> Tensor:
        return add_delta(weight, self.scaled_rows(), self.lora_B.weight, 1.0)

    def extra_repr(self) -> str:
        return f"rank={len(self.branch)}, branches={len(self.magnitude.weight)}"


def one_branch(A: Tensor, B: Tensor, magnitude: float) -> ScaledBranches:
    """A branch by itself: a B A."""
    rows = torch.zeros(len(A), dtype=torch.int64, device=A.device)
    return ScaledBranches(A, B, rows, A.new_full((1,), magnitude))
