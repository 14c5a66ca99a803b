"""Small integers in few bits."""

from __future__ import annotations

import torch
from torch import Tensor


def bits_for(values: int) -> int:
    """The bits that tell ``values`` numbers apart, 0 to ``values`` - 1."""
    return max(1, (values - 1).bit_length())


def pack(codes: Tensor, bits: int) -> Tensor:
    """Integers in [0, 2^bits), n of them in any shape, as uint8 (bits, ceil(n / 8)).

    Row b holds bit b of every number, eight to a byte, the first in the lowest bit.
    """
    flat = codes.flatten().to(torch.int32)
    flat = torch.cat([flat, flat.new_zeros(-len(flat) % 8)]).view(1, -1, 8)
    planes = torch.arange(bits, dtype=torch.int32, device=flat.device).view(-1, 1, 1)
    places = torch.arange(8, dtype=torch.int32, device=flat.device)
    return (((flat >> planes) & 1) << places).sum(dim=2).to(torch.uint8)


def unpack(packed: Tensor, count: int) -> Tensor:
    """The first ``count`` integers (int32, 1-D) that ``pack`` packed."""
    places = torch.arange(8, dtype=torch.int32, device=packed.device)
    planes = torch.arange(len(packed), dtype=torch.int32, device=packed.device)[:, None]
    bits = (packed.to(torch.int32)[:, :, None] >> places) & 1
    return (bits.flatten(1) << planes).sum(dim=0, dtype=torch.int32)[:count]
