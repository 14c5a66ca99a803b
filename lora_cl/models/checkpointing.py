"""Activations that are computed twice in the place of being held: Chen et al. 2016, arXiv
1604.06174."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_cl.models.norms import keep_statistics
from lora_cl.options import OptionsBase


class DeepOptions(OptionsBase):
    """`checkpointing`: of a block's activations only its input is held for the gradient; the rest
    is computed again, to the same bits."""

    checkpointing: bool = Field(default=False, json_schema_extra={"hashed": False})
    """Activations are computed twice instead of being held: less memory, the same bits."""


def blocks(network: nn.Module) -> list[nn.Module]:
    """What the network repeats: modules of one kind, with parts of their own, in one list."""
    found: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, nn.Sequential | nn.ModuleList):
            children = [child for child in module if not isinstance(child, nn.Sequential)]
            kinds = Counter(type(child) for child in children)
            found += [c for c in children if kinds[type(c)] > 1 and any(True for _ in c.children())]
    inner = {id(part) for block in found for part in block.modules() if part is not block}
    return [block for block in found if id(block) not in inner]


def checkpoint_blocks(network: nn.Module) -> int:
    """Has every block compute its activations again where a gradient is asked for; how many."""
    found = blocks(network)
    for block in found:
        block.forward = partial(_twice, block, block.forward)
    return len(found)


def _twice(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not computes_twice():
        return forward(*args, **kwargs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _WithoutStatistics(block)

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def computes_twice() -> bool:
    """Whether what a gradient needs can be computed again for it: not by ``torch.func``, as in a
    Fisher information sample by sample, which knows no such thing; there it is held."""
    return torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()


class _WithoutStatistics:
    """Norms inside, which have taken in these inputs already, do not do so again; may be entered
    for every gradient that is asked for."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.own: list[tuple[nn.Module, dict[str, torch.Tensor | None]]] = []

    def __enter__(self) -> None:
        norms = [norm for norm in keep_statistics(self.block) if norm.training]
        self.own = [(norm, dict(norm._buffers)) for norm in norms]
        for norm, buffers in self.own:
            norm._buffers.update({k: None if b is None else b.clone() for k, b in buffers.items()})

    def __exit__(self, *_: object) -> None:
        for norm, buffers in self.own:
            norm._buffers.update(buffers)
