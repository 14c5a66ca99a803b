"""DoRA: the weight as magnitude and direction (Liu et al. 2024, arXiv 2402.09353)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from lora_cl.adapters.layer import Adapter, Factor
from lora_cl.adapters.lora import (
    Init,
    Scaling,
    add_delta,
    add_low_rank,
    init_factors,
    lora_scale,
)


def row_norms(weight: Tensor) -> Tensor:
    """The 2-norm of each output's weights: (d_out,) of (d_out, d_in), (1, c_out, 1, 1) of a kernel.

    The shapes are PEFT's for the magnitude vector.
    """
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return norms if weight.dim() == 2 else norms.reshape(1, -1, 1, 1)


class DoRA(Adapter):
    """W' = m (W0 + s B A) / ||W0 + s B A||, row by row (Liu et al. 2024, equation 5).

    m, named ``lora_magnitude_vector`` as in PEFT's files, starts at the norms of W0. The norm is
    a constant to the gradient (section 4.3). The bias is not rescaled.
    """

    def __init__(self, A: Tensor, B: Tensor, scale: float, magnitude: Tensor) -> None:
        super().__init__()
        self.lora_A = Factor(A)
        self.lora_B = Factor(B)
        self.lora_magnitude_vector = nn.Parameter(magnitude)
        self.scale = scale

    def gain(self, base: nn.Module) -> Tensor:
        """m / ||W0 + s B A||, in the shape of m."""
        with torch.no_grad():
            weight = cast(Tensor, base.weight)
            norms = row_norms(add_delta(weight, self.lora_A.weight, self.lora_B.weight, self.scale))
            # A row of zeros has magnitude 0 and norm 0: its gain is 0, not NaN.
            norms = norms.clamp_min(torch.finfo(norms.dtype).tiny)
        return self.lora_magnitude_vector / norms

    def forward(self, x: Tensor, base_out: Tensor, base: nn.Module) -> Tensor:
        gain = self.gain(base)
        linear = base_out
        if base.bias is not None:
            bias = cast(Tensor, base.bias)
            linear = base_out - (bias if gain.dim() == 1 else bias.reshape(gain.shape))
        adapted = add_low_rank(linear, x, self.lora_A.weight, self.lora_B.weight, self.scale, base)
        # As a change of base_out, so that a gain of 1 and B = 0 leave it exactly as it is.
        return base_out + (gain * adapted - linear)

    def merged_weight(self, weight: Tensor, base: nn.Module) -> Tensor:
        adapted = add_delta(weight, self.lora_A.weight, self.lora_B.weight, self.scale)
        return self.gain(base).reshape(-1, *[1] * (weight.dim() - 1)) * adapted

    def extra_repr(self) -> str:
        return f"rank={self.lora_A.weight.shape[0]}, scale={self.scale:g}"


def make_dora(
    base: nn.Module,
    *,
    rank: int,
    alpha: float,
    generator: torch.Generator,
    init: Init = "kaiming",
    scaling: Scaling = "lora",
) -> DoRA:
    """A fresh DoRA adapter for ``base``, equal to no adapter until trained."""
    A, B = init_factors(base, rank, init, generator)
    with torch.no_grad():
        magnitude = row_norms(cast(Tensor, base.weight))
    return DoRA(A, B, lora_scale(alpha, rank, scaling), magnitude)
