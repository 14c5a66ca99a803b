"""A network of blocks in two parts: up to its first block that trains, and from there on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lora_cl.models.checkpointing import blocks
from lora_cl.models.network import training_mode
from lora_cl.models.rows import current_rows


class UncuttableError(Exception):
    """The blocks do not hand on hidden states (n, T, ...) alone, so that none can be left out."""


class Cut:
    """Where ``whole`` is cut: its blocks that are ``frozen``, and the one that comes ``next``.

    Of the hidden states (N, T, ...) that the next block is given, ``shape`` is that of one input,
    and ``in_tuple`` says how each frozen block hands its own on: alone, or in a tuple.
    """

    def __init__(self, whole: nn.Module, frozen: list[nn.Module], following: nn.Module) -> None:
        self.whole, self.frozen, self.next = whole, frozen, following
        self.input_shape = self.shape = torch.Size()
        self.tokens: torch.dtype | None = None
        self.in_tuple: list[bool] = []


class Beginning(nn.Module):
    """Inputs x (N, *input) -> rows (N, ...): the hidden states that the next block is given, and
    before them x, if it is tokens: the rest must know which are there."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(cut.frozen)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        handed: dict[nn.Module, Any] = {}

        def take(_: nn.Module, given: tuple[Any, ...]) -> None:
            if not given or not isinstance(given[0], Tensor):
                raise UncuttableError
            hidden, rows = given[0], current_rows()
            if not found:  # Texts come by length; the longest may come last.
                longest = hidden.shape[1] if x.is_floating_point() else x.shape[1]
                found.append(hidden.new_zeros(len(x), longest, *hidden.shape[2:]))
            found[0][slice(None) if rows is None else rows, : hidden.shape[1]] = hidden

        def note(block: nn.Module, _: Any, out: Any) -> None:
            handed[block] = out

        with ExitStack() as hooks:
            hooks.callback(self.cut.next.register_forward_pre_hook(take).remove)
            for block in self.cut.frozen:
                hooks.callback(block.register_forward_hook(note).remove)
            self.cut.whole.forward(x)
        if not found:
            raise UncuttableError
        self.cut.in_tuple = [_in_tuple(handed.get(block)) for block in self.cut.frozen]
        self.cut.input_shape, self.cut.shape = x.shape[1:], found[0].shape[1:]
        self.cut.tokens = None if x.is_floating_point() else x.dtype
        hidden = found[0].flatten(1)
        return hidden if self.cut.tokens is None else torch.cat([x.to(hidden), hidden], dim=1)


class Rest(nn.Module):
    """Rows of ``Beginning`` -> what the whole network makes of the inputs that they were made of.

    All runs but for the frozen blocks, which hand on what they are given; the next one is given
    the hidden states in the rows.
    """

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self.whole = cut.whole
        self.cut = cut

    def forward(self, rows: Tensor) -> Tensor:
        cut = self.cut
        if cut.tokens is None:
            x, hidden = rows.new_zeros(()).expand(len(rows), *cut.input_shape), rows
        else:
            length = cut.input_shape.numel()
            x, hidden = rows[:, :length].to(cut.tokens), rows[:, length:]
        hidden = hidden.view(-1, *cut.shape)

        def give(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            some = current_rows()
            mine = hidden if some is None else hidden[some]
            return (mine[:, : given[0].shape[1]].contiguous(), *given[1:])

        with ExitStack() as left_out:
            left_out.callback(cut.next.register_forward_pre_hook(give).remove)
            for block, in_tuple in zip(cut.frozen, cut.in_tuple, strict=True):
                left_out.enter_context(_handing_on(block, in_tuple))
            out: Tensor = self.whole.forward(x)
        return out


def cut(stage: nn.Module) -> list[nn.Module]:
    """``stage`` in two, if it is blocks of which the first ones are frozen, and nothing trains but
    in the others; else as it is. It is in eval mode afterwards."""
    repeated = blocks(stage)
    length = 0
    while length < len(repeated) and not _trains(repeated[length]):
        length += 1
    if not 0 < length < len(repeated):
        return [stage]
    inside = {id(part) for block in repeated[length:] for part in block.modules()}
    outside = [module for module in stage.modules() if id(module) not in inside]
    training_mode(stage)
    moves = any(_moves(module) for module in outside)
    stage.eval()
    if moves:
        return [stage]
    there = Cut(stage, repeated[:length], repeated[length])
    return [Beginning(there), Rest(there)]


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _moves(module: nn.Module) -> bool:
    """Whether a module by itself can answer otherwise from step to step: it trains, or drops."""
    if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
        return True
    if not module.training:
        return False
    rates = [module.p] if isinstance(module, nn.modules.dropout._DropoutNd) else []
    rates += [v for k, v in vars(module).items() if "drop" in k and isinstance(v, float)]
    return any(rate > 0 for rate in rates)


def _in_tuple(out: Any) -> bool:
    """Whether a block hands its hidden states on in a tuple; UncuttableError if not them alone."""
    if isinstance(out, Tensor):
        return False
    if isinstance(out, tuple) and len(out) == 1 and isinstance(out[0], Tensor):
        return True
    raise UncuttableError


@contextmanager
def _handing_on(block: nn.Module, in_tuple: bool) -> Iterator[None]:
    """Inside, ``block`` hands on the hidden states that it is given."""
    own = vars(block).get("forward")

    def forward(hidden: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden,) if in_tuple else hidden

    block.forward = forward
    try:
        yield
    finally:
        if own is None:
            del block.forward
        else:
            block.forward = own
