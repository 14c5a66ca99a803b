"""``nn.MultiheadAttention``, taken apart: its projections become layers that are called.

The module of torch keeps q, k and v in one ``in_proj_weight`` and reads the weight of ``out_proj``
without calling it, so that no layer stands where an adapter could.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def unpackable(module: nn.Module) -> bool:
    """Whether ``module`` is a packed attention of one width, without learned or zero keys."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and type(module).forward is nn.MultiheadAttention.forward
        and module._qkv_same_embed_dim
        and module.bias_k is None
        and not module.add_zero_attn
    )


class UnpackedAttention(nn.Module):
    """What ``packed`` computes, by the layers ``in_proj`` (3 E, E), q over k over v, and
    ``out_proj`` (E, E); the parameters are those of ``packed``.

    Self-attention without masks is that of ``packed`` in train mode to the last bit. The fused
    kernel that torch takes for inference, and which rounds otherwise, is never taken.
    """

    batch_dim = 1
    """Its projections are given (L, N, E), as in torch, whatever ``batch_first`` says."""

    _qkv_same_embed_dim = False  # Torch's encoder layers then call this module in eval mode, too.

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = packed.embed_dim, packed.num_heads
        self.dropout, self.batch_first = packed.dropout, packed.batch_first
        self.in_proj: nn.Module = nn.Linear(packed.embed_dim, 3 * packed.embed_dim, device="meta")
        self.in_proj.weight = packed.in_proj_weight
        self.in_proj.bias = packed.in_proj_bias
        self.out_proj: nn.Module = packed.out_proj
        self.train(packed.training)

    @property
    def in_proj_bias(self) -> Tensor | None:
        """Torch's encoder layers look whether there is one."""
        return cast("Tensor | None", getattr(self.in_proj, "base", self.in_proj).bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As in torch: (N, L, E) with ``batch_first``, else (L, N, E), or (L, E).

        A mask that is bool forbids where it is True; one of floats is added.
        """
        batched = query.dim() == 3
        if not batched and key_padding_mask is not None:
            key_padding_mask = key_padding_mask[None]
        q, k, v = (self._heads(x, batched) for x in self._projected(query, key, value, batched))
        if is_causal and attn_mask is not None and key_padding_mask is None and not need_weights:
            attn_mask = None
        else:
            is_causal = False
        mask = self._mask(attn_mask, key_padding_mask, q)
        p = self.dropout if self.training else 0.0
        if need_weights:
            scores = (q * math.sqrt(1.0 / q.shape[-1])) @ k.mT
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = F.dropout(weights, p) if p else weights
            mixed = weights @ v
        else:
            weights = None
            mixed = F.scaled_dot_product_attention(q, k, v, mask, p, is_causal)
        out: Tensor = self.out_proj(mixed.permute(2, 0, 1, 3).flatten(2))
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
        if not batched:
            return out[:, 0], None if weights is None else weights[0]
        return out.transpose(0, 1) if self.batch_first else out, weights

    def _projected(
        self, query: Tensor, key: Tensor, value: Tensor, batched: bool
    ) -> tuple[Tensor, ...]:
        """q, k, v, each (L, N, E)."""

        def project(x: Tensor) -> Tensor:
            x = x[:, None] if not batched else x.transpose(0, 1) if self.batch_first else x
            return cast(Tensor, self.in_proj(x))

        if query is key and key is value:
            # Copied as torch does: its kernels round otherwise where q, k and v lie interleaved.
            return tuple(x.contiguous() for x in project(query).chunk(3, dim=-1))
        E = self.embed_dim
        return tuple(
            project(x)[..., i * E : (i + 1) * E] for i, x in enumerate((query, key, value))
        )

    def _heads(self, x: Tensor, batched: bool) -> Tensor:
        """(L, N, E) -> (N, heads, L, E / heads)."""
        return x.view(*x.shape[:2], self.num_heads, -1).permute(1, 2, 0, 3)

    def _mask(self, mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
        """What is added to the scores (N, heads, L, S); None for nothing."""
        if mask is not None:
            mask = _added(mask, q)
            if mask.dim() == 3:
                mask = mask.view(-1, self.num_heads, *mask.shape[1:])
        if padding is not None:
            padding = _added(padding, q)[:, None, None, :]
            mask = padding if mask is None else mask + padding
        return mask

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -math.inf)
