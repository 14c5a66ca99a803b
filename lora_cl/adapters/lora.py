"""LoRA: low-rank adaptation of a frozen layer (Hu et al. 2021, arXiv 2106.09685).

h = W0 x + s B A x, with W0 (d_out, d_in), A (r, d_in), B (d_out, r); r (d_in + d_out) parameters.

For a convolution, A is a kernel (r, c_in / groups, kh, kw) run with the base's stride, padding,
dilation and groups, and B is a 1x1 kernel (c_out, r / groups, 1, 1) with its groups, so that s B A
has the shape of W0 and can be merged. Without groups this is PEFT's layout; with groups PEFT's A
sees every channel, of which this is the case with zeros outside the group (see ``peft_format``).
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_cl.adapters.layer import Adapter, Factor, depthwise
from lora_cl.errors import MethodError

Init = Literal["kaiming", "gaussian"]
Scaling = Literal["lora", "rslora"]


def lora_scale(alpha: float, rank: int, scaling: Scaling = "lora") -> float:
    """s = alpha / r (``lora``; Hu et al. 2021, section 4.1), or s = alpha / sqrt(r) (``rslora``;
    Kalajdzievski 2023, arXiv 2312.03732)."""
    return alpha / (rank if scaling == "lora" else math.sqrt(rank))


def lora_delta(A: Tensor, B: Tensor, scale: float) -> Tensor:
    """s B A in the shape of the base's weight: (d_out, d_in), or (c_out, c_in / groups, kh, kw).

    For merging, norms and tests; the forward of LoRA never forms it.
    """
    if A.dim() == 2:
        return scale * (B @ A)
    groups = A.shape[0] // B.shape[1]
    product = B.reshape(groups, -1, B.shape[1]) @ A.reshape(groups, B.shape[1], -1)
    return scale * product.reshape(B.shape[0], *A.shape[1:])


def add_delta(weight: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """W + s B A, in the shape of W; exactly W where B = 0. For merging and norms."""
    if weight.dim() == 2:
        return torch.addmm(weight, B, A, alpha=scale)
    return weight + lora_delta(A, B, scale)


def add_low_rank(
    out: Tensor, x: Tensor, A: Tensor, B: Tensor, scale: float, base: nn.Module
) -> Tensor:
    """out + s B (A x), in O(r (d_in + d_out)) a sample; exactly ``out`` where B = 0.

    ``x`` (..., d_in) and ``out`` (..., d_out), or the images before and after ``base``.
    """
    if A.dim() == 4:
        conv = cast(nn.Conv2d, base)
        # The base's own convolution with A for a kernel keeps every padding mode, not only zeros.
        hidden = conv._conv_forward(x, A, None)
        return torch.add(out, F.conv2d(hidden, B, groups=conv.groups), alpha=scale)
    # The layouts matter: as (r, n) and (r, d_out) the thin products take two thirds of the time.
    hidden = (A @ x.reshape(-1, A.shape[1]).T).T
    flat = out.reshape(-1, B.shape[0])
    return torch.addmm(flat, hidden, B.T.contiguous(), alpha=scale).reshape(out.shape)


class LoRA(Adapter):
    """h = W0 x + s B A x (Hu et al. 2021, equation 3). B = 0 gives the base's output, bit for bit.

    ``A`` and ``B`` are the initial factors, shapes as in the module's docstring; ``scale`` is s.
    """

    def __init__(self, A: Tensor, B: Tensor, scale: float) -> None:
        super().__init__()
        self.lora_A = Factor(A)
        self.lora_B = Factor(B)
        self.scale = scale

    def forward(self, x: Tensor, base_out: Tensor, base: nn.Module) -> Tensor:
        return add_low_rank(base_out, x, self.lora_A.weight, self.lora_B.weight, self.scale, base)

    def merged_weight(self, weight: Tensor, base: nn.Module) -> Tensor:
        return add_delta(weight, self.lora_A.weight, self.lora_B.weight, self.scale)

    def factors(self) -> tuple[Tensor, Tensor] | None:
        A, B = self.lora_A.weight.detach(), self.lora_B.weight.detach()
        grouped = B.shape[1] != len(A)
        return None if grouped else (self.scale * B.flatten(1), A.flatten(1))

    def extra_repr(self) -> str:
        return f"rank={self.lora_A.weight.shape[0]}, scale={self.scale:g}"


def init_factors(
    base: nn.Module, rank: int, init: Init, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The initial A and B for ``base``, on its device: B = 0, and A from

    - ``kaiming``: U(-b, b) with b = 1 / sqrt(d_in), which is Kaiming-uniform with a = sqrt(5), the
      default of loralib and PEFT: rows of length about 1 / sqrt(3), whatever the rank;
    - ``gaussian``: N(0, (1/r)^2), PEFT's ``init_lora_weights="gaussian"``: rows of length about
      sqrt(d_in) / r. A step of B moves the weight by as much as the rows are long, so that here a
      small rank has a large learning rate.

    A is drawn where ``generator`` lives, so every device starts from the same numbers.
    """
    weight = cast(Tensor, base.weight)
    a_shape, b_shape = factor_shapes(base, rank)
    A = torch.empty(a_shape, device=generator.device)
    if init == "kaiming":
        bound = 1.0 / math.sqrt(math.prod(a_shape[1:]))
        A.uniform_(-bound, bound, generator=generator)
    elif init == "gaussian":
        A.normal_(0.0, 1.0 / rank, generator=generator)
    else:
        raise MethodError(f"init: {init!r} is not one of kaiming, gaussian")
    return A.to(weight), weight.new_zeros(b_shape)


def factor_shapes(base: nn.Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of A and B for ``base``; MethodError where no adapter of ``rank`` fits it."""
    if rank < 1:
        raise MethodError(f"rank: {rank} is not allowed; the least is 1")
    d_out, *d_in = cast(Tensor, base.weight).shape
    if not isinstance(base, nn.Conv2d):
        return (rank, *d_in), (d_out, rank)
    if rank % base.groups:
        larger = ", where an adapter is larger than the layer" if depthwise(base) else ""
        raise MethodError(
            f"rank: {rank} does not divide among the {base.groups} groups of the convolution; "
            f"use a multiple of {base.groups}{larger}, or leave it out of targets"
        )
    return (rank, *d_in), (d_out, rank // base.groups, 1, 1)


def make_lora(
    base: nn.Module,
    *,
    rank: int,
    alpha: float,
    generator: torch.Generator,
    init: Init = "kaiming",
    scaling: Scaling = "lora",
) -> LoRA:
    """A fresh LoRA adapter for ``base``, equal to no adapter until trained."""
    A, B = init_factors(base, rank, init, generator)
    return LoRA(A, B, lora_scale(alpha, rank, scaling))
