"""LoRA: one low-rank adapter and one head per task, the base frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from lora_cl.adapters import make_lora
from lora_cl.methods.adapted import AdapterPerTask
from lora_cl.methods.method import Size
from lora_cl.methods.routing import RouterOptions
from lora_cl.methods.shared import LowRankOptions
from lora_cl.options import OptionsBase


class LoRAOptions(LowRankOptions, RouterOptions):
    """Rank, alpha, targets, init and scaling of the adapters; the router."""


class LoRA(AdapterPerTask):
    """Hu et al. 2021, arXiv 2106.09685: h = W0 x + s B A x, A and B new for every task."""

    Options: ClassVar[type[OptionsBase]] = LoRAOptions
    summary: ClassVar[str] = "one low-rank adapter and one head per task, the base frozen"
    make: ClassVar[Callable[..., nn.Module]] = staticmethod(make_lora)
    kind: ClassVar[str] = "lora"

    @classmethod
    def sized_by(cls, options: Any) -> Size | None:
        return Size("rank")

    def make_adapter(self, layer: str, base: nn.Module, generator: torch.Generator) -> nn.Module:
        o = self.options
        return type(self).make(
            base,
            rank=o.rank,
            alpha=o.alpha,
            init=o.init,
            scaling=o.scaling,
            generator=generator,
        )

    def peft_options(self) -> dict[str, Any]:
        o = self.options
        return {"kind": self.kind, "rank": o.rank, "alpha": o.alpha, "scaling": o.scaling}
