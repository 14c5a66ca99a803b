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
from torch.utils.checkpoint import checkpoint

from lora_cl.errors import MethodError
from lora_cl.models.checkpointing import computes_twice

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


class NF4Layer(nn.Module):
    """A frozen layer whose weight is really stored in 4 bits a value; its bias stays float."""

    codes: Tensor
    absmax: Tensor
    absmax_scale: Tensor
    absmax_mean: Tensor
    bias: nn.Parameter | None
    shape: tuple[int, ...]

    def hold(self, dense: nn.Module) -> None:
        """Takes the weight of ``dense`` in 4 bits, and a copy of its bias."""
        weight = cast(Tensor, dense.weight)
        self.shape = tuple(weight.shape)
        for name, tensor in vars(nf4_quantize(weight)).items():
            self.register_buffer(name, tensor)
        self.register_parameter("bias", _copy_of(cast("Tensor | None", dense.bias)))

    @property
    def weight(self) -> Tensor:
        """The weight in float32, dequantised anew at every access: do not hold on to it."""
        quantised = NF4Tensor(self.codes, self.absmax, self.absmax_scale, self.absmax_mean)
        return nf4_dequantize(quantised, self.shape)

    @property
    def stored_bytes(self) -> int:
        """What the layer takes on disk, in bytes: codes, both levels of scales, and the bias."""
        kept = [*self.buffers(), *self.parameters()]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)


class NF4Linear(NF4Layer):
    """A linear layer in 4 bits (Dettmers et al. 2023, equation 5); nothing is kept of ``dense``."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.in_features = dense.in_features
        self.out_features = dense.out_features
        self.hold(dense)

    def forward(self, x: Tensor) -> Tensor:
        if not computes_twice():
            return F.linear(x, self.weight.to(x.dtype), self.bias)
        return cast(Tensor, _LinearFromNF4.apply(x, self))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class NF4Conv2d(NF4Layer):
    """What a convolution in 4 bits has besides the ``kind`` of Conv2d that it is made of."""

    kind: type[nn.Conv2d]

    def forward(self, x: Tensor) -> Tensor:
        if not computes_twice():
            return cast(Tensor, super().forward(x))
        # Computed again in the backward, so that autograd keeps no float weight.
        out = checkpoint(super().forward, x, use_reentrant=False, preserve_rng_state=False)
        return cast(Tensor, out)

    def plain(self) -> nn.Conv2d:
        """The convolution that it was made of, but for the weight, which is to be given to it."""
        made: nn.Conv2d = _with_settings(self.kind, self)
        del made.shape  # Of the 4-bit codes alone.
        made.register_parameter("bias", _copy_of(self.bias))
        return made


def nf4_layer(dense: nn.Module) -> NF4Layer:
    """``dense``, a Linear or any kind of Conv2d, with its weight in 4 bits.

    A convolution stays an instance of its kind, with its padding, stride, dilation and groups.
    """
    if not isinstance(dense, nn.Conv2d):
        return NF4Linear(cast(nn.Linear, dense))
    layer: NF4Conv2d = _with_settings(_in_four_bits(cast(Any, type(dense))), dense)
    layer.hold(dense)
    return layer


@functools.cache
def _in_four_bits(kind: Any) -> Any:
    return type(f"NF4{kind.__name__}", (NF4Conv2d, kind), {"kind": kind})


def _with_settings(kind: Any, like: nn.Module) -> Any:
    """A module of ``kind`` with what ``like`` has besides parameters and buffers; draws nothing."""
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    own = vars(nn.Module())
    vars(made).update({name: value for name, value in vars(like).items() if name not in own})
    return made.eval()


def _copy_of(bias: Tensor | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)


def parameter_count(module: nn.Module) -> int:
    """How many parameters ``module`` has, each once; a 4-bit weight counts its values."""
    codes = sum(math.prod(m.shape) for m in module.modules() if isinstance(m, NF4Layer))
    return sum(p.numel() for p in module.parameters()) + codes
