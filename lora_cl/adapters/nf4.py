"""The 4-bit NormalFloat base of QLoRA (Dettmers et al. 2023, arXiv 2305.14314, sections 2 and 3).

A weight is cut into blocks of 64 values. A block is stored as its largest magnitude (absmax) and
one 4-bit code a value, two to a byte. The absmax, less their mean, are stored in 8 bits each, in
blocks of 256 with one float32 scale (double quantisation): 4 + 8/64 + 32/(64 * 256) = 4.127 bits a
value, plus one float32 mean for the tensor.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_cl.errors import MethodError

BLOCK = 64
ABSMAX_BLOCK = 256

# Dettmers et al. 2023, appendix E.
NF4_LEVELS: tuple[float, ...] = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


@dataclass(frozen=True)
class NF4Tensor:
    """A quantised tensor of n values in m = ceil(n / 64) blocks; the last one may be short.

    codes (ceil(n / 2),) uint8, the earlier value in the high half of its byte; absmax (m,) int8;
    absmax_scale (ceil(m / 256),) float32; absmax_mean () float32.
    """

    codes: Tensor
    absmax: Tensor
    absmax_scale: Tensor
    absmax_mean: Tensor


def nf4_quantize(weight: Tensor) -> NF4Tensor:
    """``weight``, of any shape, in 4 bits a value; its shape is not kept.

    MethodError if a value is not finite, or if there are none.
    """
    if weight.numel() == 0 or not bool(torch.isfinite(weight).all()):
        raise MethodError("NF4: a weight to be quantised must hold values, all of them finite")
    flat = weight.detach().float().flatten()
    n = flat.numel()
    blocks = F.pad(flat, (0, -n % BLOCK)).reshape(-1, BLOCK)
    absmax = blocks.abs().amax(dim=1)
    # A block of zeros would be 0 / 0; divided by 1 it gets the code of level 0 exactly.
    unit = blocks / torch.where(absmax > 0, absmax, 1.0).unsqueeze(1)
    levels = torch.tensor(NF4_LEVELS, device=flat.device)
    codes = torch.bucketize(unit, (levels[1:] + levels[:-1]) / 2).to(torch.uint8).flatten()
    codes = codes[: n + n % 2]
    return NF4Tensor((codes[0::2] << 4) | codes[1::2], *_quantize_absmax(absmax))


def _quantize_absmax(absmax: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = absmax.mean()
    centred = F.pad(absmax - mean, (0, -absmax.numel() % ABSMAX_BLOCK)).reshape(-1, ABSMAX_BLOCK)
    scale = centred.abs().amax(dim=1) / 127
    codes = (centred / torch.where(scale > 0, scale, 1.0).unsqueeze(1)).round().to(torch.int8)
    return codes.flatten()[: absmax.numel()], scale, mean


def nf4_dequantize(q: NF4Tensor, shape: tuple[int, ...]) -> Tensor:
    """The float32 tensor of ``shape`` that ``q`` stands for."""
    n = math.prod(shape)
    # Looked up as one 8-byte number, a byte's pair of values costs a quarter of the time.
    values = _pairs(q.codes.device).index_select(0, q.codes.int()).view(torch.float32)
    scale = q.absmax_scale.repeat_interleave(ABSMAX_BLOCK)[: q.absmax.numel()]
    # An absmax is never negative, which rounding could make of a very small one.
    absmax = (q.absmax * scale + q.absmax_mean).clamp_min_(0)
    missing = absmax.numel() * BLOCK - values.numel()
    blocks = (F.pad(values, (0, missing)) if missing else values).view(-1, BLOCK)
    return blocks.mul_(absmax.unsqueeze(1)).view(-1)[:n].view(shape)


@functools.cache
def _pairs(device: torch.device) -> Tensor:
    """(256,) int64: for every byte, the bits of the two float32 levels that it codes for."""
    levels = torch.tensor(NF4_LEVELS, device=device)
    pairs = torch.stack([levels.repeat_interleave(16), levels.repeat(16)], dim=1)
    return pairs.view(torch.int64).flatten()


class _LinearFromNF4(torch.autograd.Function):
    """y = x dequant(W)^T + bias. Dequantises again in the backward: autograd keeps no float W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight.to(x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer.weight.to(grad.dtype), None


class NF4Linear(nn.Module):
    """A frozen linear layer whose weight, (d_out, d_in), is really stored in 4 bits a value.

    (Dettmers et al. 2023, equation 5.) The bias stays float. ``dense`` is the layer to quantise;
    nothing of its weight is kept.
    """

    codes: Tensor
    absmax: Tensor
    absmax_scale: Tensor
    absmax_mean: Tensor
    bias: nn.Parameter | None

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.in_features = dense.in_features
        self.out_features = dense.out_features
        quantised = nf4_quantize(dense.weight)
        self.register_buffer("codes", quantised.codes)
        self.register_buffer("absmax", quantised.absmax)
        self.register_buffer("absmax_scale", quantised.absmax_scale)
        self.register_buffer("absmax_mean", quantised.absmax_mean)
        bias = None if dense.bias is None else dense.bias.detach().clone()
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The weight in float32, dequantised anew at every access: do not hold on to it."""
        quantised = NF4Tensor(self.codes, self.absmax, self.absmax_scale, self.absmax_mean)
        return nf4_dequantize(quantised, (self.out_features, self.in_features))

    @property
    def stored_bytes(self) -> int:
        """What the layer takes on disk, in bytes: codes, both levels of scales, and the bias."""
        kept = [*self.buffers(), *self.parameters()]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, _LinearFromNF4.apply(x, self))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def parameter_count(module: nn.Module) -> int:
    """How many parameters ``module`` has, each once; a 4-bit weight counts (d_out * d_in)."""
    quantised = (m for m in module.modules() if isinstance(m, NF4Linear))
    codes = sum(m.in_features * m.out_features for m in quantised)
    return sum(p.numel() for p in module.parameters()) + codes
